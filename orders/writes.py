"""All that a transaction writes, in one round trip.

On PostgreSQL every insert, update and delete becomes a part of one statement. SQLite, where a round trip
costs nothing, runs them one after the other in the order in which they were collected.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import connection, models, transaction
from django.db.models.expressions import RawSQL

from orders import prepared
from orders.statements import (
    Statement,
    delete_statement,
    insert_statement,
    keys_of,
    pk_field,
    quoted,
    update_statement,
)


def draw_keys(*wanted: tuple[type[models.Model], int]) -> list[list[int]]:
    """Draw primary keys for rows that are still to be inserted: so many for each model, with one query.

    With its key drawn a row can be referred to by other rows of the same `Writes`. Drawn inside the
    transaction that inserts them; a key that is not used is lost, which does no harm.
    """
    keys: list[list[int]] = [[] for _ in wanted]
    some = [(number, model, count) for number, (model, count) in enumerate(wanted) if count]
    if not some:
        return keys
    if connection.vendor != "postgresql":
        for number, model, count in some:
            keys[number] = _draw_on_sqlite(model, count)
        return keys
    # The sequence is looked up once for all its rows: an uncorrelated subquery.
    one = (
        "ARRAY(SELECT nextval((SELECT pg_get_serial_sequence(%s, %s)::regclass)) FROM generate_series(1, %s))"
    )
    values: list[Any] = []
    for _, model, count in some:
        values += [quoted(model._meta.db_table), pk_field(model).column, count]
    drawn = prepared.row(f"SELECT {', '.join([one] * len(some))}", values)
    assert drawn is not None
    for (number, _, _), found in zip(some, drawn, strict=True):
        keys[number] = found
    return keys


def next_key(model: type[models.Model]) -> RawSQL | None:
    """Return a drawn key as a column of a query that is made anyway, one per row. None on SQLite."""
    if connection.vendor != "postgresql":
        return None
    sequence = [quoted(model._meta.db_table), pk_field(model).column]
    sql = "nextval((SELECT pg_get_serial_sequence(%s, %s)::regclass))"
    return RawSQL(sql, sequence, output_field=models.BigIntegerField())


def _draw_on_sqlite(model: type[models.Model], count: int) -> list[int]:
    """Move AUTOINCREMENT's own counter on; the transaction holds the database's write lock from then on."""
    table = model._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE sqlite_sequence SET seq = seq + %s WHERE name = %s RETURNING seq", [count, table]
        )
        row = cursor.fetchone()
        if row is None:  # the table never had a row
            cursor.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (%s, %s)", [table, count])
    last: int = count if row is None else row[0]
    return list(range(last - count + 1, last + 1))


@dataclass(frozen=True, slots=True)
class _Insert:
    rows: list[Any]
    unique: Sequence[str] = ()
    fields: Sequence[str] = ()

    def statement(self) -> Statement:
        return insert_statement(self.rows, unique=self.unique, update=self.fields)

    def run(self) -> None:
        type(self.rows[0])._default_manager.bulk_create(
            self.rows,
            update_conflicts=bool(self.unique),
            unique_fields=self.unique or None,
            update_fields=self.fields or None,
        )


@dataclass(frozen=True, slots=True)
class _Save:
    rows: list[Any]
    fields: Sequence[str]

    def statement(self) -> Statement:
        return update_statement(self.rows, self.fields)

    def run(self) -> None:
        # An upsert that always meets its row: `bulk_update` builds a CASE per field and row.
        model = type(self.rows[0])
        model._default_manager.bulk_create(
            self.rows, update_conflicts=True, update_fields=self.fields, unique_fields=[pk_field(model).name]
        )


@dataclass(frozen=True, slots=True)
class _Delete:
    model: type[models.Model]
    pks: list[Any]

    def statement(self) -> Statement:
        return delete_statement(self.model, self.pks)

    def run(self) -> None:
        self.model._default_manager.filter(pk__in=self.pks).delete()


class Writes:
    """Inserts, updates and deletes, collected and then sent together by `run`.

    All parts see the rows as they stood before, and PostgreSQL runs them in no order that it promises. So
    one row may have one part only (asserted), and a row may not be inserted with the unique key of
    another that is deleted: `run` in between. Foreign keys are checked at the commit, their order does
    not matter; parents come first all the same, for SQLite. Values are read when `run` sends them.
    """

    def __init__(self) -> None:
        self._parts: list[_Insert | _Save | _Delete] = []
        self._written: set[tuple[type[models.Model], Any]] = set()

    def insert(self, rows: Iterable[models.Model]) -> None:
        """New rows of one model, all with a drawn key or all without: `run` then gives each its own."""
        if new := list(rows):
            self._once(type(new[0]), [key for key in keys_of(new) if key is not None])
            self._parts.append(_Insert(new))

    def upsert(self, rows: Iterable[models.Model], *, unique: Sequence[str], fields: Sequence[str]) -> None:
        """New rows without keys; where one meets a row with the same `unique`, that one gets `fields`."""
        if new := list(rows):
            self._parts.append(_Insert(new, unique, fields))

    def save(self, rows: Iterable[models.Model], *, fields: Sequence[str]) -> None:
        """Fields of rows that exist; the caller holds the lock under which they were read."""
        if existing := list(rows):
            self._once(type(existing[0]), keys_of(existing))
            self._parts.append(_Save(existing, fields))

    def delete(self, model: type[models.Model], pks: Collection[Any]) -> None:
        """Rows that no other row refers to: nothing is deleted with them."""
        if pks:
            self._once(model, pks)
            self._parts.append(_Delete(model, list(pks)))

    def run(self, condition: str = "", *parameters: Any) -> bool:
        """Send what was collected, and begin anew. Nothing is sent where there is nothing.

        `condition`: SQL that is judged by what is committed when the statement begins. A caller that had
        to wait for its locks finds out here, without a round trip, whether what it had read before them
        still stands. If the answer is False it must raise, so that the transaction is rolled back.
        """
        parts, self._parts, self._written = self._parts, [], set()
        if not parts and not condition:
            return True
        if connection.vendor == "postgresql":
            return _run_at_once(parts, condition or "TRUE", parameters)
        return _run_in_order(parts, condition or "TRUE", parameters)

    def _once(self, model: type[models.Model], pks: Collection[Any]) -> None:
        keys = {(model, pk) for pk in pks}
        assert len(keys) == len(pks), f"a {model.__name__} twice in one part"
        assert not keys & self._written, f"a {model.__name__} in two parts of one statement"
        self._written |= keys


def _run_at_once(
    parts: Sequence[_Insert | _Save | _Delete], condition: str, parameters: Sequence[Any]
) -> bool:
    statements: list[str] = []
    values: list[Any] = []
    results = [f"({condition})"]
    inserts: list[_Insert] = []
    for number, part in enumerate(parts):
        sql, its_values = part.statement()
        statements.append(f"w{number} AS ({sql})")
        values += its_values
        if isinstance(part, _Insert):
            key = quoted(pk_field(type(part.rows[0])).column)
            results.append(f"ARRAY(SELECT {key} FROM w{number})")
            inserts.append(part)
    parted = f"WITH {', '.join(statements)} " if statements else ""
    found = prepared.row(f"{parted}SELECT {', '.join(results)}", [*values, *parameters])
    assert found is not None
    holds, *keys = found
    if holds:
        for part, its_keys in zip(inserts, keys, strict=True):
            _stored(part.rows, its_keys)
    return bool(holds)


def _stored(rows: Sequence[models.Model], keys: Sequence[Any]) -> None:
    alias = connection.alias
    for row, had, key in zip(rows, keys_of(rows), keys, strict=True):
        if had != key:
            row.pk = key
        state = row._state
        state.adding, state.db = False, alias


def _run_in_order(
    parts: Sequence[_Insert | _Save | _Delete], condition: str, parameters: Sequence[Any]
) -> bool:
    with transaction.atomic(savepoint=False):
        if condition != "TRUE":
            with connection.cursor() as cursor:
                cursor.execute(f"SELECT ({condition})", list(parameters))
                if not cursor.fetchone()[0]:
                    return False
        for part in parts:
            part.run()
    return True
