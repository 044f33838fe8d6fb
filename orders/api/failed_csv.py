"""Failed orders as CSV, line by line as the database gives them."""

from __future__ import annotations

import csv
from collections.abc import AsyncIterator, Generator
from contextlib import closing
from itertools import islice
from typing import Any

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, StreamingHttpResponse

from orders.api.failed_serializers import as_json

COLUMNS = (
    "id", "uid", "created_at", "strategy", "account", "symbol", "market_type", "side", "order_type",
    "quantity", "price", "stop_price", "reduce_only", "status", "reason", "error_type", "exchange_error",
    "retry_count", "next_retry_at", "webhook_id", "updated_at",
)  # fmt: skip
# What a spreadsheet takes for a formula, or for the end of a cell with one behind it.
DANGEROUS = ("=", "+", "-", "@", "\t", "\r", "\n")
LINES_AT_ONCE = 200
Rows = Generator[dict[str, Any], None, None]


class _Echo:
    """A file that gives every line back."""

    def write(self, line: str) -> str:
        return line


def cell(value: Any) -> str:
    """Return what stands in a cell; what a spreadsheet would run begins with an apostrophe."""
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(DANGEROUS) else text


def csv_response(request: HttpRequest, rows: Rows) -> StreamingHttpResponse:
    lines = _lines(rows)
    response = StreamingHttpResponse(
        _in_turn(lines) if isinstance(request, ASGIRequest) else lines, content_type="text/csv; charset=utf-8"
    )
    response["Content-Disposition"] = 'attachment; filename="failed-orders.csv"'
    response["Cache-Control"] = "no-store"
    return response


def _lines(rows: Rows) -> Generator[str, None, None]:
    """Whoever stops reading closes this, and with it the database's cursor."""
    writer = csv.writer(_Echo())
    with closing(rows):
        yield writer.writerow(COLUMNS)
        for row in rows:
            told = as_json(row)
            yield writer.writerow([cell(told[name]) for name in COLUMNS])


async def _in_turn(lines: Generator[str, None, None]) -> AsyncIterator[str]:
    """Read in the request's own thread, which has its database connection; send in between."""
    take = sync_to_async(lambda: "".join(islice(lines, LINES_AT_ONCE)))
    try:
        while block := await take():
            yield block
    finally:
        await sync_to_async(lines.close)()
