"""How numbers, words and times of trading look on a page.

Numbers are grouped by thousands with a point for decimals in both languages, and padded to the
instrument's grid, so that a column of them lines up.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from django import template
from django.utils.html import format_html
from django.utils.safestring import SafeString

from exchanges.fields import plain as plain_text
from tracking import wording

register = template.Library()

MINUS = "−"  # as wide as a plus sign
NOTHING = "–"
PNL_PLACES = {"KRW": 0, "JPY": 0, "BTC": 8, "ETH": 8}  # decimals of quote assets that have not two
_WORDS: dict[str, Mapping[str, Any]] = {
    "side": wording.SIDES,
    "order_type": wording.ORDER_TYPES,
    "market": wording.MARKETS,
    "order_status": wording.ORDER_STATUSES,
    "failed_status": wording.FAILED_STATUSES,
    "error_type": wording.ERROR_TYPES,
    "event": wording.EVENTS,
    "source": wording.SOURCES,
    "session": wording.SESSIONS,
    "stream": wording.STREAMS,
    "breaker": wording.BREAKERS,
}


def places_of(step: Decimal | None) -> int:
    """How many decimals a grid step has: 0.10 has one."""
    return max(0, -int(step.normalize().as_tuple().exponent)) if step else 0


def grouped(value: Decimal, places: int) -> str:
    return f"{value:,.{places}f}".replace("-", MINUS)


@register.filter
def on_grid(value: Decimal | None, step: Decimal | None) -> str:
    """The exact number, padded to the grid and never rounded."""
    if value is None:
        return NOTHING
    return grouped(value, max(places_of(step), places_of(value)))


@register.filter
def rounded_to(value: Decimal | None, step: Decimal | None) -> str:
    """An average, rounded to the grid; without a grid to eight decimals."""
    if value is None:
        return NOTHING
    if step is None:
        return grouped(value, min(8, places_of(value)))
    return grouped(value.quantize(Decimal(1).scaleb(-places_of(step)), ROUND_HALF_UP), places_of(step))


@register.filter
def amount(value: Decimal, quote_asset: str) -> str:
    """An amount of money, rounded to what its asset is counted in."""
    places = PNL_PLACES.get(quote_asset, 2)
    return grouped(value.quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP), places)


@register.filter
def pnl(value: Decimal | None, quote_asset: str) -> str:
    """Money won or lost, with its sign; zero has none."""
    if value is None:
        return NOTHING
    places = PNL_PLACES.get(quote_asset, 2)
    shown = value.quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP)
    return ("+" if shown > 0 else "") + grouped(abs(shown) if shown == 0 else shown, places)


@register.filter
def percent(value: Decimal | None) -> str:
    return "" if value is None else pnl(value, "") + " %"


@register.filter
def plain(value: Decimal | None) -> str:
    """All digits, as a machine writes them."""
    return "" if value is None else plain_text(value)


@register.filter
def trend(value: Decimal | None) -> str:
    """The class that colours a number: `gain`, `loss` or neither."""
    return "" if not value else "gain" if value > 0 else "loss"


@register.filter
def word(value: str, kind: str) -> str:
    """The reader's word for a stored value; one that has none is shown as it is."""
    return str(_WORDS[kind].get(value, value))


@register.simple_tag
def moment(value: datetime | None) -> SafeString | str:
    """A point in time, in UTC; the page's script rewrites it in the viewer's time zone."""
    if value is None:
        return NOTHING
    utc = value.astimezone(UTC)
    return format_html(
        '<time datetime="{}" title="{}">{}</time>',
        utc.isoformat(timespec="milliseconds"),
        f"{utc:%Y-%m-%d %H:%M:%S}.{utc.microsecond // 1000:03d} UTC",
        f"{utc:%H:%M:%S}",
    )


@register.simple_tag
def age(since: datetime) -> SafeString:
    """How long ago something began: its time, until the page's script rewrites it as an age."""
    utc = since.astimezone(UTC)
    return format_html(
        '<time class="age" datetime="{}" title="{}">{}</time>',
        utc.isoformat(timespec="milliseconds"),
        f"{utc:%Y-%m-%d %H:%M:%S} UTC",
        f"{utc:%H:%M:%S}",
    )
