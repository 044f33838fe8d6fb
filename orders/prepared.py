"""The statements that a webhook waits for: compiled once per process, parsed and planned once per connection.

Django compiles a query each time anew, and its cursor quotes every value into the text, so that PostgreSQL
plans it each time anew as well: for most of ours both take longer than to run it. Here the text is kept, text
and values travel apart, and the server keeps the plan. Results are the same as the ORM's.

    _RESTING = Query(lambda ids: OpenOrder.objects.filter(pk__any=ids))
    orders = _RESTING([1, 2, 3])

The settings say from how many uses on a statement's plan is kept (`prepare_threshold`), or that none is.
SQLite runs the same text through Django's cursor.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from inspect import signature
from itertools import count
from typing import Any, Generic, TypeVar

import psycopg
from django.db import DEFAULT_DB_ALIAS, connection, connections, models
from django.db.backends.utils import CursorWrapper
from django.db.models.fields.related import ForeignObject
from django.db.models.query import ModelIterable, QuerySet, get_related_populators
from psycopg.types.datetime import TimestamptzLoader

Row = tuple[Any, ...]
T = TypeVar("T")


# --- statements -----------------------------------------------------------------------------------


class _Cursor(psycopg.RawCursor[Row]):
    """Takes Django's placeholders, and shows its text to whoever watches or logs queries.

    Times are read by the driver's C code. Django's reader is Python and takes several times as long; both
    give aware UTC, because Django sets the time zone of its connections.
    """

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        super().__init__(connection)
        self.adapters.register_loader("timestamptz", TimestamptzLoader)

    def execute(self, query: Any, params: Any = None, **options: Any) -> _Cursor:
        super().execute(_numbered(query), params, **options)
        self._query: Any = _Shown(self, query, params)  # where Django looks for it
        return self


@dataclass(frozen=True, slots=True)
class _Shown:
    """A statement with its values in the text, made when somebody asks."""

    cursor: _Cursor
    sql: str
    values: Any

    @property
    def query(self) -> bytes:
        return psycopg.ClientCursor(self.cursor.connection).mogrify(self.sql, self.values).encode()


@lru_cache(maxsize=1024)
def _numbered(sql: str) -> bytes:
    """Return the text with $1, $2, … in place of each %s."""
    first, *others = sql.split("%s")
    numbered = (f"${number}{part}" for number, part in zip(count(1), others, strict=False))
    return "".join([first, *numbered]).replace("%%", "%").encode()


@contextmanager
def cursor() -> Iterator[CursorWrapper]:
    """Open a cursor whose statements are prepared where the database can do that."""
    if connection.vendor != "postgresql":
        with connection.cursor() as simple:
            yield simple
        return
    database: Any = connections[DEFAULT_DB_ALIAS]  # once: the proxy looks it up for each attribute
    database.ensure_connection()
    raw = _Cursor(database.connection)
    with database.make_debug_cursor(raw) if database.queries_logged else database.make_cursor(raw) as opened:
        yield opened


def rows(sql: str, values: Sequence[Any]) -> list[Row]:
    with cursor() as opened:
        opened.execute(sql, values)
        found: list[Row] = opened.fetchall()
        return found


def row(sql: str, values: Sequence[Any]) -> Row | None:
    with cursor() as opened:
        opened.execute(sql, values)
        found: Row | None = opened.fetchone()
        return found


def changed(sql: str, values: Sequence[Any]) -> int:
    """Run an UPDATE or DELETE; return how many rows it met."""
    with cursor() as opened:
        opened.execute(sql, values)
        return int(opened.rowcount)


# --- lists as one value ---------------------------------------------------------------------------


def is_any(column: str) -> str:
    """Return the condition that a column is one of a list, given as one value: `listed`."""
    if connection.vendor == "postgresql":
        return f"{column} = ANY(%s)"
    return f"{column} IN (SELECT value FROM json_each(%s))"


def listed(keys: Collection[int]) -> str:
    text = json.dumps(list(keys))
    return "{" + text[1:-1] + "}" if connection.vendor == "postgresql" else text


@models.Field.register_lookup
@ForeignObject.register_lookup
class AnyOf(models.Lookup[Any]):
    """`pk__any=[…]`: as `in`, but the statement is the same for any number of keys."""

    lookup_name = "any"
    prepare_rhs = False

    def as_sql(self, compiler: Any, connection: Any) -> Any:
        column, values = self.process_lhs(compiler, connection)
        keys = self.rhs if isinstance(self.rhs, Given) else listed(self.rhs)
        return is_any(column), [*values, keys]


# --- queries --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, slots=True)
class Given:
    """Stands in a query for what is given each time it runs. Not iterable: Django leaves it alone."""

    index: int


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A query's text, and how its rows become what the ORM makes of them."""

    sql: str
    values: tuple[Any, ...]
    converters: tuple[tuple[int, tuple[Any, ...], Any], ...]
    model: type[models.Model] | None  # None: rows of values
    first: int
    names: tuple[str, ...]
    populators: tuple[Any, ...]
    annotations: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, queryset: QuerySet[Any, Any]) -> _Compiled:
        compiler: Any = queryset.query.get_compiler(using=connection.alias)
        sql, values = compiler.as_sql()
        columns = [one[0] for one in compiler.select]
        found = compiler.get_converters(columns)
        converters = tuple((at, tuple(some), expression) for at, (some, expression) in found.items())
        info = compiler.klass_info
        if not issubclass(queryset._iterable_class, ModelIterable):
            return cls(sql, tuple(values), converters, None, 0, (), (), ())
        fields = info["select_fields"]
        names = tuple(columns[at].target.attname for at in range(fields[0], fields[-1] + 1))
        related: Any = get_related_populators  # its signature is another one in later versions of Django
        populators = tuple(related(info, compiler.select, connection.alias))
        noted = tuple((compiler.annotation_col_map or {}).items())
        return cls(sql, tuple(values), converters, info["model"], fields[0], names, populators, noted)

    def run(self, given: Sequence[Any]) -> list[Any]:
        given = [listed(one) if isinstance(one, list | tuple | set | frozenset) else one for one in given]
        values = [given[one.index] if isinstance(one, Given) else one for one in self.values]
        found: list[Any] = rows(self.sql, values)
        if self.converters:
            found = [self._converted(one) for one in found]
        return found if self.model is None else [self._instance(one) for one in found]

    def _converted(self, row: Row) -> list[Any]:
        converted = list(row)
        for at, converters, expression in self.converters:
            for converter in converters:
                converted[at] = converter(converted[at], expression, connection)
        return converted

    def _instance(self, row: Sequence[Any]) -> models.Model:
        assert self.model is not None
        last = self.first + len(self.names)
        instance = self.model.from_db(connection.alias, self.names, row[self.first : last])
        for populator in self.populators:
            populator.populate(row, instance)
        for name, at in self.annotations:
            setattr(instance, name, row[at])
        return instance


class Query(Generic[T]):
    """A query of the ORM that is compiled when it first runs, and called with its values from then on.

    `build` gets a stand-in for each value and may put it where a value goes as it is: in `…__any` (a list
    of keys, given as a list) and among the parameters of RawSQL. No prefetches, no slices that vary.
    `values`: how many there are, where `build` takes any number.
    """

    def __init__(self, build: Callable[..., QuerySet[Any, T]], *, values: int | None = None) -> None:
        self._build = build
        self._values = len(signature(build).parameters) if values is None else values
        self._compiled: dict[str, _Compiled] = {}  # by kind of database

    def __call__(self, *given: Any) -> list[T]:
        compiled = self._compiled.get(connection.vendor)
        if compiled is None:
            stand_ins = [Given(number) for number in range(self._values)]
            compiled = self._compiled[connection.vendor] = _Compiled.of(self._build(*stand_ins))
        return compiled.run(given)
