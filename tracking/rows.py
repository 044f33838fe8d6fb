"""What changed between two readings of a list of rows. Pure: no database, no clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class Row(Protocol):
    @property
    def key(self) -> str: ...


R = TypeVar("R", bound=Row)


@dataclass(frozen=True, slots=True)
class Changed(Generic[R]):
    row: R


@dataclass(frozen=True, slots=True)
class Added(Generic[R]):
    row: R
    after: str | None  # the key of the row above it; None: it is the first


@dataclass(frozen=True, slots=True)
class Gone:
    key: str


def changes(before: Mapping[str, R], after: Sequence[R]) -> list[Changed[R] | Added[R] | Gone] | None:
    """Return the steps that turn `before` into `after`, in the order to take them.

    None means that rows changed places: then the whole list has to be drawn again.
    """
    keys = {row.key for row in after}
    if [key for key in before if key in keys] != [row.key for row in after if row.key in before]:
        return None
    steps: list[Changed[R] | Added[R] | Gone] = [Gone(key) for key in before if key not in keys]
    above: str | None = None
    for row in after:
        if row.key not in before:
            steps.append(Added(row, above))
        elif before[row.key] != row:
            steps.append(Changed(row))
        above = row.key
    return steps
