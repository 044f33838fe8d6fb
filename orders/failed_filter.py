"""Which failed orders a person asks for, read from an address or a message.

    strategy_account_id=3&symbol=BTC/USDT&error_type=rate_limit&created_after=…&created_before=…

All are optional and stand for themselves; times are ISO 8601 with a zone, `created_before` is not included.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime

from django.utils.dateparse import parse_datetime
from django.utils.translation import gettext as _

from exchanges.adapters.exceptions import ErrorType
from orders.failed_selectors import FailedFilter

SYMBOL = re.compile(r"[^\s\x00-\x1f\x7f]{1,48}", re.ASCII)


class FilterRefused(Exception):
    """The filter makes no sense; the message is for people, in their language."""


# Removed ones are not asked for, and what is resolving is always shown: no status here.
FILTER_NAMES = frozenset(field.name for field in fields(FailedFilter)) - {"status"}


def failed_filter_from(asked: Mapping[str, str]) -> FailedFilter:
    """Read what is asked for; empty values ask for nothing, other names are somebody else's.

    Raises: FilterRefused.
    """
    given = {name: asked[name].strip() for name in FILTER_NAMES if asked.get(name, "").strip()}
    found = FailedFilter(
        strategy_account_id=_number(given.get("strategy_account_id")),
        symbol=_symbol(given.get("symbol")),
        error_type=_error_type(given.get("error_type")),
        created_after=_moment(given.get("created_after")),
        created_before=_moment(given.get("created_before")),
    )
    if found.created_after and found.created_before and found.created_after >= found.created_before:
        raise FilterRefused(_("The range of dates ends before it begins."))
    return found


def _number(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 19 and int(text)):
        raise FilterRefused(_("There is no such strategy account."))
    return int(text)


def _symbol(text: str | None) -> str | None:
    if text is None:
        return None
    if not SYMBOL.fullmatch(text):
        raise FilterRefused(_("A symbol looks like BTC/USDT."))
    return text.upper()


def _error_type(text: str | None) -> str | None:
    if text is None:
        return None
    if text not in set(ErrorType):
        raise FilterRefused(_("There is no such reason."))
    return text


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = parse_datetime(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None or not 2000 <= moment.year < 2200:
        raise FilterRefused(_("A date looks like 2026-07-21."))
    return moment
