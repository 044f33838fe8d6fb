"""Writing many rows of one model with one statement; what one transaction writes together: writes.py."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from django.db import models

from orders.writes import Writes

Row = TypeVar("Row", bound=models.Model)


def bulk_insert(rows: Iterable[Row]) -> list[Row]:
    """Insert new rows of one model and give each its primary key, with one statement."""
    new = list(rows)
    writes = Writes()
    writes.insert(new)
    writes.run()
    return new


def bulk_save(rows: Iterable[models.Model], *, fields: Sequence[str]) -> None:
    """Write `fields` of rows that exist already, each with its own values, in one statement.

    The caller holds the lock under which the rows were read.
    """
    writes = Writes()
    writes.save(rows, fields=fields)
    writes.run()
