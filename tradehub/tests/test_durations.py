"""Waiting times: a default, a least value, and what may go below it."""

from __future__ import annotations

import environ
import pytest
from django.core.exceptions import ImproperlyConfigured

from tradehub.durations import Durations


def read(monkeypatch: pytest.MonkeyPatch, value: str | None, *, short: bool = False) -> float:
    monkeypatch.delenv("MARGIN_SECONDS", raising=False)
    if value is not None:
        monkeypatch.setenv("MARGIN_SECONDS", value)
    return Durations(environ.Env(), short=short).seconds("MARGIN_SECONDS", default=10, least=5)


class TestSeconds:
    @pytest.mark.parametrize(("value", "seconds"), [(None, 10), ("5", 5), ("7.5", 7.5)])
    def test_are_what_the_environment_says(
        self, monkeypatch: pytest.MonkeyPatch, value: str | None, seconds: float
    ) -> None:
        assert read(monkeypatch, value) == seconds

    def test_are_never_less_than_is_safe(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(
            ImproperlyConfigured, match="MARGIN_SECONDS must be at least 5 seconds.*it is 4.9"
        ):
            read(monkeypatch, "4.9")

    def test_may_be_short_in_tests(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert read(monkeypatch, "0.5", short=True) == 0.5

    @pytest.mark.parametrize("value", ["0", "-1"])
    def test_are_above_zero_even_then(self, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
        with pytest.raises(ImproperlyConfigured, match="must be above 0"):
            read(monkeypatch, value, short=True)
