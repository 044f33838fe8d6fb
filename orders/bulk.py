"""Writing many rows with one statement.

Django's own bulk writes prepare and compile every value of every row; for thirty orders that takes
longer than the database does. On PostgreSQL these hand over one array per column instead, with a
statement that is the same for any number of rows. SQLite takes Django's way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, TypeVar

from django.db import DEFAULT_DB_ALIAS, connection, connections, models

from exchanges.fields import ExactDecimalField

# Fields whose Python values the driver takes as they stand: preparing them would return the same.
AS_THEY_ARE = frozenset(
    {
        ExactDecimalField,
        models.BigIntegerField,
        models.BooleanField,
        models.CharField,
        models.DateTimeField,
        models.ForeignKey,
        models.OneToOneField,
        models.PositiveSmallIntegerField,
    }
)

Row = TypeVar("Row", bound=models.Model)


def bulk_insert(rows: Iterable[Row]) -> list[Row]:
    """Insert new rows of one model and give each its primary key, with one statement."""
    new = list(rows)
    if not new:
        return new
    model = type(new[0])
    if connection.vendor != "postgresql":
        model._default_manager.bulk_create(new)
        return new
    statement, columns = _insert_statement(model)
    with connection.cursor() as cursor:
        cursor.execute(statement, [_column(new, field) for field in columns])
        keys = cursor.fetchall()
    for row, (key,) in zip(new, keys, strict=True):
        row.pk = key
        row._state.adding, row._state.db = False, connection.alias
    return new


def bulk_save(rows: Iterable[Row], *, fields: Sequence[str]) -> None:
    """Write `fields` of rows that exist already, each with its own values, in one statement.

    The caller holds the lock under which the rows were read.
    """
    existing = list(rows)
    if not existing:
        return
    model = type(existing[0])
    if connection.vendor != "postgresql":
        # An upsert that always meets its row: `bulk_update` builds a CASE per field and row.
        model._default_manager.bulk_create(
            existing, update_conflicts=True, update_fields=fields, unique_fields=[_pk(model).name]
        )
        return
    statement, columns = _update_statement(model, tuple(fields))
    with connection.cursor() as cursor:
        cursor.execute(statement, [_column(existing, field) for field in columns])


def _pk(model: type[models.Model]) -> models.Field[Any, Any]:
    return model._meta.pk


def _column(rows: Sequence[models.Model], field: models.Field[Any, Any]) -> list[Any]:
    if type(field) in AS_THEY_ARE and not getattr(field, "auto_now", False):
        return [getattr(row, field.attname) for row in rows]
    wrapper = connections[DEFAULT_DB_ALIAS]  # looked up once: the proxy looks it up for every value
    return [field.get_db_prep_save(field.pre_save(row, row._state.adding), wrapper) for row in rows]


def _array_of(field: models.Field[Any, Any]) -> str:
    # The type itself, without its length: unnest(%s::varchar(20)[]) would cut what is too long in silence.
    return (field.rel_db_type(connection) or "").partition("(")[0] + "[]"


def _quoted(name: str | None) -> str:
    return connection.ops.quote_name(name or "")


@lru_cache(maxsize=64)
def _insert_statement(model: type[models.Model]) -> tuple[str, tuple[models.Field[Any, Any], ...]]:
    pk = _pk(model)
    columns = tuple(f for f in model._meta.local_concrete_fields if f is not pk or not _is_auto(pk))
    names = ", ".join(_quoted(field.column) for field in columns)
    arrays = ", ".join(f"%s::{_array_of(field)}" for field in columns)
    table, key = _quoted(model._meta.db_table), _quoted(pk.column)
    # unnest keeps the order of its arrays, and INSERT … SELECT inserts and returns in that order.
    return f"INSERT INTO {table} ({names}) SELECT * FROM unnest({arrays}) RETURNING {key}", columns


@lru_cache(maxsize=64)
def _update_statement(
    model: type[models.Model], names: tuple[str, ...]
) -> tuple[str, tuple[models.Field[Any, Any], ...]]:
    pk = _pk(model)
    fields = tuple(model._meta.get_field(name) for name in names)
    columns: tuple[Any, ...] = (pk, *fields)
    table, key = _quoted(model._meta.db_table), _quoted(pk.column)
    arrays = ", ".join(f"%s::{_array_of(field)}" for field in columns)
    aliases = ", ".join(f"c{number}" for number in range(len(columns)))
    changes = ", ".join(f"{_quoted(f.column)} = v.c{number}" for number, f in enumerate(columns) if number)
    return (
        f"UPDATE {table} AS t SET {changes} FROM unnest({arrays}) AS v({aliases}) WHERE t.{key} = v.c0",
        columns,
    )


def _is_auto(field: models.Field[Any, Any]) -> bool:
    return isinstance(field, models.AutoField)
