from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from django.template.loader import render_to_string
from django.utils import translation

from orders.models import EventSource, EventType
from tracking.templatetags import figures


class TestOnGrid:
    @pytest.mark.parametrize(
        ("value", "step", "text"),
        [
            ("95000", "0.10", "95,000.0"),
            ("0.5", "0.001", "0.500"),
            ("-1234.5", "1", "−1,234.5"),  # a value off the grid keeps its digits
            ("0.000000000000000001", None, "0.000000000000000001"),
            ("1E+3", "100", "1,000"),
        ],
    )
    def test_pads_and_never_rounds(self, value: str, step: str | None, text: str) -> None:
        assert figures.on_grid(Decimal(value), Decimal(step) if step else None) == text

    def test_shows_a_dash_for_nothing(self) -> None:
        assert figures.on_grid(None, None) == "–"


class TestRoundedTo:
    def test_rounds_an_average_to_the_grid(self) -> None:
        assert figures.rounded_to(Decimal("94999.3666666"), Decimal("0.1")) == "94,999.4"

    def test_shows_at_most_eight_decimals_without_a_grid(self) -> None:
        assert figures.rounded_to(Decimal(1) / 3, None) == "0.33333333"


class TestPnl:
    @pytest.mark.parametrize(
        ("value", "quote", "text"),
        [
            ("12.345", "USDT", "+12.35"),
            ("-0.5", "USDT", "−0.50"),
            ("-0.001", "USDT", "0.00"),
            ("1234567.4", "KRW", "+1,234,567"),
            ("0.00001", "BTC", "+0.00001000"),
        ],
    )
    def test_carries_its_sign(self, value: str, quote: str, text: str) -> None:
        assert figures.pnl(Decimal(value), quote) == text


class TestMoment:
    def test_is_machine_readable_and_shows_utc_in_its_title(self) -> None:
        at = datetime(2026, 7, 21, 12, 34, 56, 789_000, tzinfo=UTC)

        assert figures.moment(at) == (
            '<time datetime="2026-07-21T12:34:56.789+00:00" '
            'title="2026-07-21 12:34:56.789 UTC">12:34:56</time>'
        )


class TestEventRow:
    @pytest.mark.parametrize(
        ("language", "state", "words"),
        [
            ("en", "OPEN", "Way to the exchange interrupted"),
            ("en", "CLOSED", "Way to the exchange restored"),
            ("ko", "OPEN", "거래소 연결 끊김"),
            ("ko", "CLOSED", "거래소 연결 복구됨"),
        ],
    )
    def test_says_in_the_readers_language_whether_an_exchange_can_be_reached(
        self, language: str, state: str, words: str
    ) -> None:
        row = {
            "type": EventType.BREAKER,
            "after": state,
            "source": EventSource.BREAKER,
            "created_at": datetime(2026, 7, 21, tzinfo=UTC),
        }

        with translation.override(language):
            drawn = render_to_string("positions/rows/events.html", {"row": row})

        assert f"<b>{words}</b>" in drawn
