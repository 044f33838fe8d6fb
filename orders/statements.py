"""SQL that writes many rows of one model at once, for PostgreSQL.

Django's own bulk writes prepare and compile every value of every row; for thirty orders that takes
longer than the database does. These hand over one array per column instead, written as PostgreSQL reads
arrays, or the value itself where all rows have the same. Each returns its SQL and parameters.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any

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
        models.DecimalField,
        models.ForeignKey,
        models.OneToOneField,
        models.PositiveSmallIntegerField,
        models.TextField,
    }
)
PLAIN = (int, float)  # bool, too

Columns = tuple[models.Field[Any, Any], ...]
Statement = tuple[str, list[Any]]


def insert_statement(
    rows: Sequence[models.Model], *, unique: Sequence[str] = (), update: Sequence[str] = ()
) -> Statement:
    """Insert rows and return their keys in their order; the key itself is written where the rows have one.

    Where a row meets another with the same `unique` fields, that one gets its `update` fields.
    """
    model = type(rows[0])
    keys = [key is not None for key in keys_of(rows)]
    with_key = keys[0]
    assert keys.count(with_key) == len(rows), "some rows have a key, some have not"
    values, shared = _values(rows, _insert_columns(model, with_key))
    return _insert_sql(model, with_key, shared, tuple(unique), tuple(update)), values


def update_statement(rows: Sequence[models.Model], fields: Sequence[str]) -> Statement:
    model = type(rows[0])
    columns = _update_columns(model, tuple(fields))
    values, shared = _values(rows, columns)
    return _update_sql(model, columns, shared), values


def delete_statement(model: type[models.Model], pks: Collection[Any]) -> Statement:
    return _delete_sql(model), [array_text(pks)]


def array_text(values: Collection[Any]) -> str:
    """Write values of one column as PostgreSQL reads an array; the driver's own way takes far longer."""
    return "{" + ",".join(map(_element, values)) + "}"


def _element(value: Any) -> str:
    if value is None:
        return "NULL"
    kind = type(value)
    if kind is Decimal or issubclass(kind, PLAIN):
        return str(value)
    if kind is datetime:
        return value.isoformat()  # type: ignore[no-any-return]
    assert isinstance(value, str), f"no array of {kind.__name__}"
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def pk_field(model: type[models.Model]) -> models.Field[Any, Any]:
    return model._meta.pk


def keys_of(rows: Sequence[models.Model]) -> list[Any]:
    """Return the primary keys of rows of one model."""
    name = pk_field(type(rows[0])).attname
    return [row.__dict__.get(name) for row in rows]


def _column(rows: Sequence[models.Model], field: models.Field[Any, Any]) -> list[Any]:
    if type(field) in AS_THEY_ARE and not getattr(field, "auto_now", False):
        name = field.attname
        try:
            return [row.__dict__[name] for row in rows]  # without the descriptors, which are Python
        except KeyError:  # a field that was not read
            return [getattr(row, name) for row in rows]
    if type(field) is models.JSONField:
        return [_json(getattr(row, field.attname), field.encoder) for row in rows]
    wrapper = connections[DEFAULT_DB_ALIAS]  # looked up once: the proxy looks it up for every value
    return [field.get_db_prep_save(field.pre_save(row, row._state.adding), wrapper) for row in rows]


def _json(value: Any, encoder: type[json.JSONEncoder] | None) -> str | None:
    return None if value is None else json.dumps(value, cls=encoder)


def _values(rows: Sequence[models.Model], columns: Columns) -> tuple[list[Any], tuple[bool, ...]]:
    """Return a statement's parameters, and which columns have one value for all rows."""
    values: list[Any] = []
    shared: list[bool] = []
    for field in columns:
        column = _column(rows, field)
        same = column.count(column[0]) == len(column)
        shared.append(same)
        values.append(column[0] if same else array_text(column))
    if all(shared) and len(rows) > 1:  # something has to say how many rows they are
        shared[0], values[0] = False, array_text(_column(rows, columns[0]))
    return values, tuple(shared)


def _type_of(field: models.Field[Any, Any]) -> str:
    # The type itself, without its length: a cast to varchar(20) would cut what is too long in silence.
    return (field.rel_db_type(connection) or "").partition("(")[0]


def quoted(name: str | None) -> str:
    return connection.ops.quote_name(name or "")


@lru_cache(maxsize=64)
def _insert_columns(model: type[models.Model], with_key: bool) -> Columns:
    pk = pk_field(model)
    return tuple(f for f in model._meta.local_concrete_fields if f is not pk or with_key)


@lru_cache(maxsize=64)
def _update_columns(model: type[models.Model], names: tuple[str, ...]) -> Columns:
    fields: tuple[Any, ...] = tuple(model._meta.get_field(name) for name in names)
    return (pk_field(model), *fields)


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
def _insert_sql(
    model: type[models.Model],
    with_key: bool,
    shared: tuple[bool, ...],
    unique: tuple[str, ...],
    update: tuple[str, ...],
) -> str:
    columns = _insert_columns(model, with_key)
    names = ", ".join(quoted(field.column) for field in columns)
    table, key = quoted(model._meta.db_table), quoted(pk_field(model).column)
    source, expressions = _source(columns, shared)
    # unnest keeps the order of its arrays, and INSERT … SELECT inserts and returns in that order.
    selected = f"SELECT {', '.join(expressions)} FROM {source}"
    return f"INSERT INTO {table} ({names}) {selected} {_on_conflict(model, unique, update)} RETURNING {key}"


def _on_conflict(model: type[models.Model], unique: tuple[str, ...], update: tuple[str, ...]) -> str:
    if not unique:
        return ""
    met = ", ".join(quoted(field.column) for field in _update_columns(model, unique)[1:])
    changed = [quoted(field.column) for field in _update_columns(model, update)[1:]]
    return f"ON CONFLICT ({met}) DO UPDATE SET {', '.join(f'{one} = EXCLUDED.{one}' for one in changed)}"


@lru_cache(maxsize=256)
def _update_sql(model: type[models.Model], columns: Columns, shared: tuple[bool, ...]) -> str:
    table, key = quoted(model._meta.db_table), quoted(pk_field(model).column)
    source, expressions = _source(columns, shared)
    changes = ", ".join(
        f"{quoted(field.column)} = {value}" for field, value in zip(columns[1:], expressions[1:], strict=True)
    )
    return f"UPDATE {table} AS t SET {changes} FROM {source} WHERE t.{key} = {expressions[0]}"


@lru_cache(maxsize=64)
def _delete_sql(model: type[models.Model]) -> str:
    pk = pk_field(model)
    return f"DELETE FROM {quoted(model._meta.db_table)} WHERE {quoted(pk.column)} = ANY(%s::{_type_of(pk)}[])"
