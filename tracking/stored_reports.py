"""Reports as their rows hold them: JSON, and whose they look like."""

from __future__ import annotations

import re
from typing import Any

from pydantic import TypeAdapter

from exchanges.adapters.types import OrderReport
from tracking.models import UnmatchedReport

_OUR_SHAPE = re.compile(r"th[0-9A-Z]{26}[0-9]{4}")  # `orders.models.intent.client_order_id`
_REPORTS = TypeAdapter(OrderReport)


def to_json(report: OrderReport) -> dict[str, Any]:
    """Write a report as JSON: decimals as text, times as ISO 8601."""
    written: dict[str, Any] = _REPORTS.dump_python(report, mode="json")
    return written


def from_json(written: dict[str, Any]) -> OrderReport:
    return _REPORTS.validate_python(written)


def has_our_shape(row: UnmatchedReport) -> bool:
    """Tell whether its client order id looks like one that we make.

    Ours are written down before they are sent: an id of our shape without a placement was made elsewhere.
    """
    return _OUR_SHAPE.fullmatch(row.client_order_id) is not None
