"""Whose rows a person sees on the live page: their own, or for staff everybody's, narrowed by a filter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orders.selectors import Visible


def number_from(text: str | None) -> int | None:
    """Read an id from an address; nonsense is as good as none."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 19 else None


def visible_to(user: Any, query: Mapping[str, str]) -> Visible:
    """Return what `user` may see of what the filter in `query` (user, strategy_account) asks for."""
    return Visible(
        user_id=number_from(query.get("user")) if user.is_staff else user.pk,
        strategy_account_id=number_from(query.get("strategy_account")),
    )
