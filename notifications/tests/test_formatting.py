from __future__ import annotations

from decimal import Decimal

import pytest
from django.utils.translation import gettext, override
from hypothesis import given
from hypothesis import strategies as st

from exchanges.adapters.exceptions import ErrorType
from notifications import formatting
from notifications.formatting import CAUSES, ORDER_TYPES, SIDES, orders_failed
from notifications.tests.bot_api import Message, markup_fault
from notifications.tests.making import make_failure
from orders.models import FailedStatus
from orders.models.intent import OrderTypeChoice, SideChoice

ENDED = {FailedStatus.REJECTED, FailedStatus.EXPIRED, FailedStatus.CANCELED}


def written(*failures: formatting.Failure, language: str = "en") -> str:
    return orders_failed(failures, language=language, time_zone="Asia/Seoul")


def read(*failures: formatting.Failure, language: str = "en") -> str:
    return Message("", written(*failures, language=language)).text


class TestOrdersFailed:
    def test_says_what_failed_why_and_what_to_do(self) -> None:
        assert read(make_failure()) == (
            "⚠️ 1 order failed\n"
            "\n"
            "test1 · w1 · 07-21 21:00:00 KST\n"
            "main: Insufficient balance\n"
            "• BTC/USDT Buy Limit 0.5 @ 95000\n"
            "Account has insufficient balance for requested action.\n"
            "→ Add funds to the account, then retry the order on the positions page; or trade less."
        )

    def test_speaks_korean(self) -> None:
        assert read(make_failure(), make_failure(), language="ko") == (
            "⚠️ 주문 2건 실패\n"
            "\n"
            "test1 · w1 · 07-21 21:00:00 KST\n"
            "main: 잔고가 부족합니다\n"
            "• BTC/USDT 매수 지정가 0.5 @ 95000\n"
            "• BTC/USDT 매수 지정가 0.5 @ 95000\n"
            "Account has insufficient balance for requested action.\n"
            "→ 계정에 자금을 입금한 뒤 포지션 페이지에서 재시도하거나, 주문 규모를 줄이세요."
        )

    def test_names_three_of_those_that_failed_alike(self) -> None:
        failures = [make_failure(id=number, price=Decimal(number)) for number in range(1, 26)]

        text = read(*failures, make_failure(error_type="rate_limit", exchange_error=""))

        assert text.count("•") == 5
        assert "@ 1\n• BTC/USDT Buy Limit 0.5 @ 2\n• BTC/USDT Buy Limit 0.5 @ 3\n• and 22 more\n" in text
        assert text.count("w1") == 1
        assert "main: The exchange's rate limit is reached" in text

    def test_puts_every_webhook_under_its_own_heading(self) -> None:
        text = read(make_failure(), make_failure(strategy="test2"), make_failure(webhook_id="w2"))

        assert [line[:10] for line in text.splitlines() if "·" in line] == [
            "test1 · w1", "test1 · w2", "test2 · w1",
        ]  # fmt: skip

    def test_fits_into_one_message_and_counts_the_rest(self) -> None:
        failures = [
            make_failure(account=f"account{number:03}", exchange_error="x" * 500) for number in range(90)
        ]

        text = read(*failures)

        told = text.count("→")
        assert 3000 < len(text) <= 4096
        assert text.endswith(f"… and {90 - told} more: see “Failed orders” on the positions page.")

    def test_says_what_the_exchange_did_to_an_order_that_it_ended(self) -> None:
        failure = make_failure(status="expired", error_type="unknown", reason="Expired on the exchange")

        assert "main: Expired on the exchange\n" in read(failure)

    def test_says_when_all_retries_are_used_up(self) -> None:
        text = read(make_failure(retry_count=5), make_failure(retry_count=4))

        assert text.count("→ All retries are used up: send a new signal") == 1
        assert text.count("retry the order on the positions page") == 1

    def test_gives_our_own_words_where_the_exchange_has_none(self) -> None:
        failure = make_failure(exchange_error="", reason="Quantity 0.0001 is under the minimum 0.001")

        assert "\nQuantity 0.0001 is under the minimum 0.001\n→" in read(failure)

    def test_writes_numbers_without_exponent(self) -> None:
        order = make_failure(
            order_type="STOP_LIMIT", quantity=Decimal("1E+3"), stop_price=Decimal("0.00000010")
        )

        assert "Buy Stop limit 1000 stop 0.0000001 @ 95000" in read(order)

    def test_escapes_the_exchanges_words(self) -> None:
        words = "<b>Filter</b> failure: price < min & 'x' > \"y\" <a href='http://evil'>*_`[click](x)"

        html = written(
            make_failure(exchange_error=words, account="a<i>", strategy="s&amp;", webhook_id="</code>")
        )

        assert markup_fault(html) == ""
        assert f"\n{words}\n" in Message("", html).text
        assert "s&amp; · </code> ·" in Message("", html).text

    @given(st.text(max_size=400))
    def test_is_markup_that_telegram_reads_whatever_the_exchange_says(self, words: str) -> None:
        assert markup_fault(written(make_failure(exchange_error=words))) == ""

    def test_knows_no_such_time_zone(self) -> None:
        assert "12:00:00 UTC" in orders_failed([make_failure()], language="en", time_zone="Mars/Olympus")


class TestWords:
    def test_exist_for_every_stored_value(self) -> None:
        assert set(CAUSES) == {*(kind.value for kind in ErrorType), *(status.value for status in ENDED)}
        assert set(SIDES) == set(SideChoice.values)
        assert set(ORDER_TYPES) == set(OrderTypeChoice.values)

    @pytest.mark.parametrize(
        "words",
        sorted(
            {
                formatting._USED_UP,
                *SIDES.values(),
                *ORDER_TYPES.values(),
                *(text for pair in CAUSES.values() for text in pair),
            }
        ),
    )
    def test_are_there_in_korean(self, words: str) -> None:
        with override("ko"):
            assert gettext(words) != words
