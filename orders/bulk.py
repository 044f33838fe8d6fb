"""Writing many rows with one statement.

Django's own bulk writes prepare and compile every value of every row; for thirty orders that takes
longer than the database does. On PostgreSQL these hand over one array per column instead, or the value
itself where all rows have the same, which the driver quotes ten times as fast. SQLite takes Django's way.
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
Columns = tuple[models.Field[Any, Any], ...]


def bulk_insert(rows: Iterable[Row]) -> list[Row]:
    """Insert new rows of one model and give each its primary key, with one statement."""
    new = list(rows)
    if not new:
        return new
    model = type(new[0])
    if connection.vendor != "postgresql":
        model._default_manager.bulk_create(new)
        return new
    values, shared = _values(new, _insert_columns(model))
    with connection.cursor() as cursor:
        cursor.execute(_insert_statement(model, shared), values)
        keys = cursor.fetchall()
    for row, (key,) in zip(new, keys, strict=True):
        row.pk = key
        row._state.adding, row._state.db = False, connection.alias
    return new


def insert_where(row: models.Model, condition: str, *parameters: Any) -> bool:
    """Insert a row if an SQL condition holds at the moment of the insert; tell whether it did.

    PostgreSQL only. A statement that waited for a lock still sees everything else as it stood before it
    waited; this one sees what is committed now, and costs no round trip more than the insert.
    """
    model = type(row)
    values, shared = _values([row], _insert_columns(model))
    with connection.cursor() as cursor:
        cursor.execute(_insert_statement(model, shared, condition), [*values, *parameters])
        key = cursor.fetchone()
    if key is None:
        return False
    row.pk = key[0]
    row._state.adding, row._state.db = False, connection.alias
    return True


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
    columns = _update_columns(model, tuple(fields))
    values, shared = _values(existing, columns)
    with connection.cursor() as cursor:
        cursor.execute(_update_statement(model, columns, shared), values)


def _pk(model: type[models.Model]) -> models.Field[Any, Any]:
    return model._meta.pk


def _column(rows: Sequence[models.Model], field: models.Field[Any, Any]) -> list[Any]:
    if type(field) in AS_THEY_ARE and not getattr(field, "auto_now", False):
        return [getattr(row, field.attname) for row in rows]
    wrapper = connections[DEFAULT_DB_ALIAS]  # looked up once: the proxy looks it up for every value
    return [field.get_db_prep_save(field.pre_save(row, row._state.adding), wrapper) for row in rows]


def _values(rows: Sequence[models.Model], columns: Columns) -> tuple[list[Any], tuple[bool, ...]]:
    """Return a statement's parameters, and which columns have one value for all rows."""
    values: list[Any] = []
    shared: list[bool] = []
    for field in columns:
        column = _column(rows, field)
        same = len(column) == 1 or (type(field) in AS_THEY_ARE and column.count(column[0]) == len(column))
        shared.append(same)
        values.append(column[0] if same else column)
    if all(shared) and len(rows) > 1:  # something has to say how many rows they are
        shared[0], values[0] = False, _column(rows, columns[0])
    return values, tuple(shared)


def _type_of(field: models.Field[Any, Any]) -> str:
    # The type itself, without its length: a cast to varchar(20) would cut what is too long in silence.
    return (field.rel_db_type(connection) or "").partition("(")[0]


def _quoted(name: str | None) -> str:
    return connection.ops.quote_name(name or "")


@lru_cache(maxsize=64)
def _insert_columns(model: type[models.Model]) -> Columns:
    pk = _pk(model)
    return tuple(f for f in model._meta.local_concrete_fields if f is not pk or not _is_auto(pk))


@lru_cache(maxsize=64)
def _update_columns(model: type[models.Model], names: tuple[str, ...]) -> Columns:
    fields: tuple[Any, ...] = tuple(model._meta.get_field(name) for name in names)
    return (_pk(model), *fields)


def _source(columns: Columns, shared: tuple[bool, ...]) -> tuple[str, list[str]]:
    """Return the rows as a FROM item, and each column's expression; parameters in the columns' order."""
    if all(shared):
        row = ", ".join(f"%s::{_type_of(field)} AS c{number}" for number, field in enumerate(columns))
        return f"(SELECT {row}) AS s", [f"s.c{number}" for number in range(len(columns))]
    # One row of what they share, beside the rows of what they do not.
    items = [
        f"%s::{_type_of(field)} AS c{number}" if same else f"%s::{_type_of(field)}[] AS a{number}"
        for number, (field, same) in enumerate(zip(columns, shared, strict=True))
    ]
    arrays = [number for number, same in enumerate(shared) if not same]
    unnest = ", ".join(f"s.a{number}" for number in arrays)
    names = ", ".join(f"c{number}" for number in arrays)
    source = f"(SELECT {', '.join(items)}) AS s, LATERAL unnest({unnest}) AS v({names})"
    return source, [f"{'s' if same else 'v'}.c{number}" for number, same in enumerate(shared)]


@lru_cache(maxsize=256)
def _insert_statement(model: type[models.Model], shared: tuple[bool, ...], condition: str = "") -> str:
    columns = _insert_columns(model)
    names = ", ".join(_quoted(field.column) for field in columns)
    table, key = _quoted(model._meta.db_table), _quoted(_pk(model).column)
    source, expressions = _source(columns, shared)
    # unnest keeps the order of its arrays, and INSERT … SELECT inserts and returns in that order.
    where = f"WHERE {condition}" if condition else ""
    selected = f"SELECT {', '.join(expressions)} FROM {source} {where}"
    return f"INSERT INTO {table} ({names}) {selected} RETURNING {key}"


@lru_cache(maxsize=256)
def _update_statement(model: type[models.Model], columns: Columns, shared: tuple[bool, ...]) -> str:
    table, key = _quoted(model._meta.db_table), _quoted(_pk(model).column)
    source, expressions = _source(columns, shared)
    changes = ", ".join(
        f"{_quoted(field.column)} = {value}"
        for field, value in zip(columns[1:], expressions[1:], strict=True)
    )
    return f"UPDATE {table} AS t SET {changes} FROM {source} WHERE t.{key} = {expressions[0]}"


def _is_auto(field: models.Field[Any, Any]) -> bool:
    return isinstance(field, models.AutoField)
