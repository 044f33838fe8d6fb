"""docs/cases.md promises tests by name: they are there, and every case has one."""

from __future__ import annotations

import ast
import re

import pytest

from tests.processes import ROOT

PAGE = (ROOT / "docs" / "cases.md").read_text()
CASES = {"Tracking": 13, "The queue": 11}
NAMED = re.compile(r"`([\w/]+\.py)((?:::\w+)*)`")


def rows(section: str) -> dict[int, str]:
    """The last column of a section's table, by the number of the case."""
    text = PAGE.split(f"## {section}\n")[1].split("\n## ")[0]
    found = re.findall(r"^\| (\d+) \|.*\| (.+) \|$", text, re.MULTILINE)
    return {int(number): held_by for number, held_by in found}


def has(body: list[ast.stmt], names: list[str]) -> bool:
    """Tell whether a class or function of this name stands there, and in it the next one."""
    if not names:
        return True
    return any(
        isinstance(one, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and one.name == names[0]
        and has(one.body, names[1:])
        for one in body
    )


class TestCasesPage:
    @pytest.mark.parametrize(("section", "number"), CASES.items())
    def test_has_a_test_for_every_case(self, section: str, number: int) -> None:
        told = rows(section)
        assert list(told) == list(range(1, number + 1))
        assert all(NAMED.search(held_by) for held_by in told.values())

    @pytest.mark.parametrize(("path", "names"), sorted(set(NAMED.findall(PAGE))))
    def test_names_only_what_is_there(self, path: str, names: str) -> None:
        tree = ast.parse((ROOT / path).read_text())
        assert has(tree.body, names.split("::")[1:])

    def test_gives_each_numbered_class_its_own_row(self) -> None:
        for path in ("tracking/tests/test_tracking_cases.py", "tests/services/test_tracking_processes.py"):
            for name in re.findall(r"^class (TestCase\d+)", (ROOT / path).read_text(), re.MULTILINE):
                assert f"`{path}::{name}`" in rows("Tracking")[int(name.removeprefix("TestCase"))]
