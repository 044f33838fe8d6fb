from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from tracking.rows import Added, Changed, Gone, changes


@dataclass(frozen=True)
class Item:
    key: str
    value: int = 0


def shown(*rows: Item) -> dict[str, Item]:
    return {row.key: row for row in rows}


class TestChanges:
    def test_is_empty_when_nothing_changed(self) -> None:
        assert changes(shown(Item("a"), Item("b")), [Item("a"), Item("b")]) == []

    def test_names_what_goes_what_changes_and_what_comes_after_what(self) -> None:
        before = shown(Item("a"), Item("b"), Item("c"))

        steps = changes(before, [Item("new"), Item("a", 1), Item("newer"), Item("c")])

        assert steps == [
            Gone("b"),
            Added(Item("new"), None),
            Changed(Item("a", 1)),
            Added(Item("newer"), "a"),
        ]

    def test_gives_up_when_rows_change_places(self) -> None:
        assert changes(shown(Item("a"), Item("b")), [Item("b"), Item("a")]) is None

    @given(
        before=st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 2)),
        after=st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 2)),
    )
    def test_leads_from_any_list_to_any_other(self, before: dict[str, int], after: dict[str, int]) -> None:
        old, new = [Item(*pair) for pair in before.items()], [Item(*pair) for pair in after.items()]
        steps = changes(shown(*old), new)

        page = list(old)
        for step in steps if steps is not None else []:
            match step:
                case Gone(key):
                    page = [row for row in page if row.key != key]
                case Changed(row):
                    page = [row if row.key == one.key else one for one in page]
                case Added(row, above):
                    at = 0 if above is None else [one.key for one in page].index(above) + 1
                    page.insert(at, row)
        assert steps is None or page == new
