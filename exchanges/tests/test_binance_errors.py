"""What each reply proves. -2010 twice with opposite facts, 503 three times."""

from __future__ import annotations

import pytest

from exchanges.adapters import exceptions as exc
from exchanges.adapters.binance.errors import error_from
from exchanges.adapters.exceptions import ErrorType, ExchangeError
from exchanges.adapters.secrets import Masker
from exchanges.adapters.types import MarketType

SPOT, FUTURES = MarketType.SPOT, MarketType.FUTURES


def judge(market: MarketType, status: int, code: int, message: str) -> ExchangeError:
    error = error_from(market, Masker(), status, {"code": code, "msg": message})
    assert error is not None
    return error


class TestErrorFrom:
    @pytest.mark.parametrize(
        ("market", "status", "code", "message", "expected", "label"),
        [
            (SPOT, 400, -2010, "Account has insufficient balance for requested action.",
             exc.InsufficientFunds, ErrorType.INSUFFICIENT_BALANCE),
            (SPOT, 400, -2010, "Duplicate order sent.", exc.DuplicateClientOrderId, ErrorType.UNKNOWN),
            (SPOT, 400, -2010, "Order would trigger immediately.", exc.InvalidOrder, ErrorType.UNKNOWN),
            (SPOT, 400, -2010, "This symbol is not permitted for this account.",
             exc.RefusedForGood, ErrorType.AUTHENTICATION),
            (SPOT, 400, -2010, "Something that nobody has written down.", exc.OutcomeUnknown, None),
            (SPOT, 400, -1013, "Filter failure: LOT_SIZE", exc.InvalidOrder, ErrorType.INVALID_QUANTITY),
            (SPOT, 400, -1013, "Filter failure: NOTIONAL", exc.InvalidOrder, ErrorType.INVALID_QUANTITY),
            (SPOT, 400, -1013, "Filter failure: PRICE_FILTER", exc.InvalidOrder, ErrorType.UNKNOWN),
            (SPOT, 400, -1013, "Filter failure: MAX_NUM_ORDERS",
             exc.TooManyOpenOrders, ErrorType.LIMIT_EXCEEDED),
            (SPOT, 400, -1121, "Invalid symbol.", exc.InvalidSymbol, ErrorType.INVALID_SYMBOL),
            (SPOT, 400, -1100, "Illegal characters found in a parameter.", exc.InvalidOrder, None),
            (SPOT, 400, -1111, "Parameter 'quantity' has too much precision.",
             exc.InvalidOrder, ErrorType.INVALID_QUANTITY),
            (SPOT, 400, -2011, "Unknown order sent.", exc.OrderNotFound, None),
            (SPOT, 400, -2013, "Order does not exist.", exc.OrderNotFound, None),
            (SPOT, 401, -2015, "Invalid API-key, IP, or permissions for action.",
             exc.AuthenticationFailed, ErrorType.AUTHENTICATION),
            (SPOT, 400, -1022, "Signature for this request is not valid.", exc.AuthenticationFailed, None),
            (SPOT, 429, -1003, "Too much request weight used.", exc.RateLimited, ErrorType.RATE_LIMIT),
            (SPOT, 418, -1003, "Way too much request weight used.", exc.RateLimited, None),
            (SPOT, 400, -1006, "Execution status unknown.", exc.OutcomeUnknown, None),
            (SPOT, 400, -1007, "Send status unknown; execution status unknown.", exc.OutcomeUnknown, None),
            (SPOT, 503, -1008, "Server is currently overloaded.", exc.ExchangeBusy, None),
            (SPOT, 503, -1001, "Internal error; unable to process your request. Please try again.",
             exc.OutcomeUnknown, None),
            (SPOT, 500, -1121, "Invalid symbol.", exc.OutcomeUnknown, None),
            (SPOT, 400, -4003, "Quantity less than zero.", exc.OutcomeUnknown, None),
            (FUTURES, 200, -2019, "Margin is insufficient.", exc.InsufficientFunds, None),
            (FUTURES, 200, -2018, "Balance is insufficient.", exc.InsufficientFunds, None),
            (FUTURES, 200, -2021, "Order would immediately trigger.", exc.InvalidOrder, None),
            (FUTURES, 200, -2022, "ReduceOnly Order is rejected.", exc.InvalidOrder, None),
            (FUTURES, 200, -2025, "Reach max open order limit.", exc.TooManyOpenOrders, None),
            (FUTURES, 200, -4003, "Quantity less than zero.",
             exc.InvalidOrder, ErrorType.INVALID_QUANTITY),
            (FUTURES, 200, -4014, "Price not increased by tick size.", exc.InvalidOrder, None),
            (FUTURES, 200, -4116, "ClientOrderId is duplicated.", exc.DuplicateClientOrderId, None),
            (FUTURES, 200, -4164, "Order's notional must be no smaller than 5.",
             exc.InvalidOrder, ErrorType.INVALID_QUANTITY),
            (FUTURES, 200, -4120, "Order type not supported for this endpoint.", exc.InvalidOrder, None),
            (FUTURES, 200, -5022, "The Post Only order will be rejected.", exc.InvalidOrder, None),
            (FUTURES, 200, -1007, "Send status unknown; execution status unknown.",
             exc.OutcomeUnknown, None),
            (FUTURES, 200, -9999, "What is this?", exc.OutcomeUnknown, None),
            (FUTURES, 503, -1000, "Unknown error, please check your request or try again later.",
             exc.OutcomeUnknown, None),
            (FUTURES, 503, -1001, "Internal error; unable to process your request. Please try again.",
             exc.ExchangeBusy, None),
            (FUTURES, 503, 0, "Service Unavailable.", exc.ExchangeBusy, None),
            (FUTURES, 503, -1008, "Request throttled by system-level protection.", exc.ExchangeBusy, None),
            (FUTURES, 502, 0, "Service Unavailable.", exc.OutcomeUnknown, None),
            (FUTURES, 408, -1007, "Timeout waiting for response from backend server.",
             exc.OutcomeUnknown, None),
            (FUTURES, 429, -1015, "Too many new orders.", exc.RateLimited, None),
        ],
    )  # fmt: skip
    def test_names_what_is_proven(
        self,
        market: MarketType,
        status: int,
        code: int,
        message: str,
        expected: type[ExchangeError],
        label: ErrorType | None,
    ) -> None:
        error = judge(market, status, code, message)
        assert type(error) is expected
        assert error.venue_code == str(code)
        assert message in error.message
        if label is not None:
            assert error.error_type is label

    def test_says_how_to_leave_hedge_mode(self) -> None:
        error = judge(FUTURES, 400, -4061, "Order's position side does not match user's setting.")
        assert type(error) is exc.RefusedForGood
        assert error.venue_code == "-4061"
        assert "hedge mode" in error.message
        assert "switch it to one-way mode" in error.message

    @pytest.mark.parametrize(
        ("market", "code", "message", "account_wide"),
        [
            (SPOT, -1013, "Filter failure: MAX_NUM_ALGO_ORDERS", False),
            (SPOT, -1013, "Filter failure: EXCHANGE_MAX_NUM_ORDERS", True),
            (FUTURES, -2025, "Reach max open order limit.", False),
            (FUTURES, -4045, "Reach max stop order limit.", True),
        ],
    )
    def test_tells_the_symbols_cap_from_the_accounts(
        self, market: MarketType, code: int, message: str, account_wide: bool
    ) -> None:
        error = judge(market, 400, code, message)
        assert isinstance(error, exc.TooManyOpenOrders)
        assert error.account_wide is account_wide

    @pytest.mark.parametrize(
        ("status", "expected"),
        [
            (400, exc.OutcomeUnknown),
            (403, exc.RefusedForNow),
            (404, exc.RefusedForGood),
            (451, exc.RefusedForGood),
            (500, exc.OutcomeUnknown),
            (503, exc.OutcomeUnknown),
            (504, exc.OutcomeUnknown),
        ],
    )
    def test_judges_a_gateways_page_by_its_status(self, status: int, expected: type[ExchangeError]) -> None:
        error = error_from(SPOT, Masker(), status, None, "<html>a proxy speaks</html>")
        assert type(error) is expected

    def test_hands_on_how_long_to_wait(self) -> None:
        error = error_from(
            SPOT, Masker(), 429, {"code": -1003, "msg": "Too many"}, headers={"Retry-After": "7"}
        )
        assert isinstance(error, exc.RateLimited)
        assert error.retry_after == 7

    @pytest.mark.parametrize("body", [{"orderId": 1}, [], {"code": 200, "msg": "done"}, {"code": "200"}])
    def test_finds_nothing_wrong_with_a_good_answer(self, body: object) -> None:
        assert error_from(FUTURES, Masker(), 200, body) is None
