"""Everything that a page says can be said in Korean, and what is compiled is what is written."""

from __future__ import annotations

import ast
import gettext
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CATALOGUE = ROOT / "locale" / "ko" / "LC_MESSAGES" / "django"
CALLS = {"_", "gettext", "gettext_lazy", "ngettext", "pgettext_lazy", "_lazy"}
MARKED = re.compile(r"""\{%\s*translate\s+(?:"([^"]*)"|'([^']*)')""")
BLOCK = re.compile(r"\{%\s*blocktranslate\b[^%]*%\}(.*?)\{%\s*endblocktranslate\s*%\}", re.DOTALL)


def korean() -> gettext.GNUTranslations:
    with CATALOGUE.with_suffix(".mo").open("rb") as compiled:
        return gettext.GNUTranslations(compiled)


def in_templates() -> Iterator[str]:
    for path in (ROOT / "templates").rglob("*.html"):
        text = path.read_text()
        yield from (double or single for double, single in MARKED.findall(text))
        for block in BLOCK.findall(text):
            yield re.sub(r"\{\{\s*(\w+)\s*\}\}", r"%(\1)s", block)


def in_code() -> Iterator[str]:
    """What tracking's words and the filter say; the admin's own words stand in its rooms."""
    for path in (ROOT / "tracking" / "wording.py", ROOT / "orders" / "failed_filter.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CALLS:
                words = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
                yield "\x04".join(map(str, words))  # a context stands before its word


def entries(text: str) -> dict[str, str]:
    """The catalogue as it is written: one line per text is enough for ours."""
    found = {}
    for block in text.split("\n\n"):
        named = dict(re.findall(r'^(msgctxt|msgid|msgstr) "(.*)"$', block, re.MULTILINE))
        if named.get("msgid"):
            key = "\x04".join(filter(None, (named.get("msgctxt"), named["msgid"])))
            found[key.replace('\\"', '"')] = named["msgstr"].replace('\\"', '"')
    return found


class TestKorean:
    @pytest.mark.parametrize("words", [in_templates, in_code])
    def test_has_every_word_of_the_pages(self, words: object) -> None:
        assert callable(words)
        catalogue = korean()._catalog  # type: ignore[attr-defined]

        assert sorted({text for text in words() if not catalogue.get(text)}) == []

    def test_is_compiled_as_it_is_written(self) -> None:
        written = entries(CATALOGUE.with_suffix(".po").read_text())
        compiled = {key: text for key, text in korean()._catalog.items() if key}  # type: ignore[attr-defined]

        assert compiled == written

    def test_names_the_same_values(self) -> None:
        for key, text in entries(CATALOGUE.with_suffix(".po").read_text()).items():
            names = r"%\(\w+\)s|\{\w+\}"
            assert sorted(re.findall(names, key)) == sorted(re.findall(names, text)), key
