"""Writing many rows with one statement."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from django.db import models

Row = TypeVar("Row", bound=models.Model)


def bulk_save(rows: Iterable[Row], *, fields: Sequence[str]) -> None:
    """Write `fields` of rows that exist already, each with its own values, in one statement.

    An upsert that always meets its row: Django's `bulk_update` builds a CASE per field and row,
    which takes longer to compile than the database takes to run it. The caller holds the lock
    under which the rows were read.
    """
    existing = list(rows)
    if existing:
        model = type(existing[0])
        model._default_manager.bulk_create(
            existing, update_conflicts=True, update_fields=fields, unique_fields=[model._meta.pk.name]
        )
