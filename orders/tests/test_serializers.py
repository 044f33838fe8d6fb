from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import quote_plus, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchanges.adapters.types import MarketType, OrderType, Side
from orders.webhook.serializers import (
    ACTIONS,
    MAX_DEPTH,
    MAX_ORDERS,
    OrderSpec,
    PayloadFault,
    decode,
    order_specs,
    signal_time,
)

ORDER: dict[str, Any] = {
    "symbol": "BTC/USDT",
    "side": "buy",
    "order_type": "LIMIT",
    "price": "95000",
    "qty_per": 10,
}


def body(payload: Any) -> bytes:
    return json.dumps(payload).encode()


def specs(payload: dict[str, Any], *, default_market: str = "SPOT") -> list[OrderSpec]:
    """What a payload becomes on its way through JSON, as a sender writes it."""
    return order_specs(decode(body(payload)), default_market=default_market)


def faults(payload: dict[str, Any]) -> list[tuple[int | None, str, str]]:
    with pytest.raises(PayloadFault) as caught:
        specs(payload)
    assert caught.value.code == "invalid_payload"
    return [(fault.order_index, fault.field, fault.message) for fault in caught.value.faults]


class TestDecode:
    @pytest.mark.parametrize(
        "text",
        [
            '{"a": 1}',
            '  \r\n{"a": 1}\n\t ',
            '\ufeff{"a": 1}',
            '{"a": 1}=',
            '{"a": 1}\r\n=\n',
            '{"a": 1}\0\0',
            quote_plus('{"a": 1}'),
            quote_plus('{"a": 1}') + "=",
            "payload=" + quote_plus('{"a": 1}'),
            "x=1&payload=" + quote_plus('{"a": 1}'),
            "%7B%22a%22%3A%201%7D",
        ],
    )
    def test_finds_the_json_in_what_senders_wrap_around_it(self, text: str) -> None:
        assert decode(text.encode()) == {"a": Decimal(1)}

    def test_keeps_what_looks_like_wrapping_inside_the_json(self) -> None:
        assert decode(b'{"comment": "a=b%20c+d="}') == {"comment": "a=b%20c+d="}

    def test_keeps_every_digit(self) -> None:
        found = decode(b'{"price": 0.1000000000000000000000001, "n": 123456789012345678901234567890}')

        assert [str(value) for value in found.values()] == [
            "0.1000000000000000000000001",
            "123456789012345678901234567890",
        ]

    @pytest.mark.parametrize(
        ("sent", "said"),
        [
            (b"", "not valid JSON"),
            (b"buy BTC", "not valid JSON"),
            (b'{"a": 1', "not valid JSON"),
            (b"{'a': 1}", "not valid JSON"),
            (b'{"a": 1} {"b": 2}', "not valid JSON"),
            (b'{"a": 1e99999999999999999999}', "not valid JSON"),
            (b"\xff\xfe{}", "not UTF-8"),
            (b"[1, 2]", "must be a JSON object"),
            (b'"text"', "must be a JSON object"),
            (b"null", "must be a JSON object"),
            (b"1", "must be a JSON object"),
            (b'{"group_name": "\\ud800"}', "broken character"),
            (b'{"a": [{"\\udfff": 1}]}', "broken character"),
            (b"[" * 100_000, "not valid JSON"),
        ],
    )
    def test_says_what_is_wrong_with_the_rest(self, sent: bytes, said: str) -> None:
        with pytest.raises(PayloadFault) as caught:
            decode(sent)

        assert caught.value.code == "invalid_json"
        assert [fault.field for fault in caught.value.faults] == ["body"]
        assert said in caught.value.faults[0].message

    def test_takes_whole_surrogate_pairs(self) -> None:
        assert decode(b'{"comment": "\\ud83d\\ude80"}') == {"comment": "\U0001f680"}

    @pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 600, sys.getrecursionlimit() - 50])
    @pytest.mark.parametrize(("opening", "closing"), [('{"a":', "}"), ("[", "]")])
    def test_refuses_endless_nesting(self, depth: int, opening: str, closing: str) -> None:
        sent = '{"x":' + opening * depth + "1" + closing * depth + "}"

        with pytest.raises(PayloadFault, match="invalid_json"):
            decode(sent.encode())

    def test_takes_as_much_nesting_as_it_says(self) -> None:
        sent = '{"a":' * MAX_DEPTH + "1" + "}" * MAX_DEPTH

        assert list(decode(sent.encode())) == ["a"]

    @given(st.binary(max_size=200))
    def test_never_raises_anything_else(self, sent: bytes) -> None:
        try:
            assert isinstance(decode(sent), dict)
        except PayloadFault as fault:
            assert fault.code == "invalid_json"  # noqa: PT017  both ends are fine


class TestOrderSpecs:
    def test_makes_a_single_order_a_batch_of_one(self) -> None:
        assert specs(ORDER | {"group_name": "test1", "comment": "ignored"}) == [
            OrderSpec(
                index=0,
                action="LIMIT",
                order_type=OrderType.LIMIT,
                symbol="BTC/USDT",
                side=Side.BUY,
                price=Decimal(95000),
                stop_price=None,
                qty_per=Decimal(10),
                quantity=None,
                market_type=MarketType.SPOT,
                order_id=None,
            )
        ]

    def test_takes_symbol_side_and_order_type_from_the_top_where_an_order_lacks_them(self) -> None:
        found = specs(
            {
                "symbol": "BTC/USDT",
                "side": "sell",
                "order_type": "LIMIT",
                "market_type": "futures",
                "price": "1",
                "qty_per": 50,
                "orders": [
                    {"price": "2", "qty_per": 10},
                    {"price": "3", "qty_per": 10, "symbol": "ETH/USDT", "side": "buy", "market_type": "spot"},
                    {"order_type": "MARKET", "quantity": "1", "side": None},
                ],
            }
        )

        assert [(one.action, one.symbol, one.side, one.price, one.market_type) for one in found] == [
            ("LIMIT", "BTC/USDT", Side.SELL, Decimal(2), MarketType.FUTURES),
            ("LIMIT", "ETH/USDT", Side.BUY, Decimal(3), MarketType.SPOT),
            ("MARKET", "BTC/USDT", Side.SELL, None, MarketType.FUTURES),
        ]

    def test_takes_no_price_and_no_quantity_from_the_top(self) -> None:
        payload = ORDER | {"quantity": "5", "orders": [{}]}

        assert faults(payload) == [
            (0, "price", "is missing: LIMIT needs it"),
            (0, "qty_per", "is missing: give qty_per or quantity"),
        ]

    @pytest.mark.parametrize(
        ("word", "side"),
        [("buy", "BUY"), ("BUY", "BUY"), (" Long ", "BUY"), ("sell", "SELL"), ("Short", "SELL")],
    )
    def test_knows_the_sides_in_any_case(self, word: str, side: str) -> None:
        assert specs(ORDER | {"side": word})[0].side == side

    @pytest.mark.parametrize("action", ACTIONS)
    def test_knows_the_order_types_in_any_case(self, action: str) -> None:
        order = ORDER | {"stop_price": "94000", "order_id": "1", "order_type": action.lower()}

        assert specs(order)[0].action == action

    @pytest.mark.parametrize(
        ("spelled", "kept"),
        [
            ("btc/usdt", "BTC/USDT"),
            (" BINANCE:btcusdt.p ", "BINANCE:BTCUSDT.P"),
            ("005930", "005930"),
            ("AAPL", "AAPL"),
        ],
    )
    def test_keeps_the_symbol_as_it_is_spelled_in_upper_case(self, spelled: str, kept: str) -> None:
        assert specs(ORDER | {"symbol": spelled})[0].symbol == kept

    def test_takes_an_order_id_that_came_as_a_number(self) -> None:
        assert specs({"order_type": "CANCEL", "order_id": 12345})[0].order_id == "12345"

    @pytest.mark.parametrize(
        ("number", "value"),
        [
            ('"95000"', "95000"),
            ("95000", "95000"),
            ("95000.10", "95000.10"),
            ('" 95000.5 "', "95000.5"),
            ("9.5e4", "9.5E+4"),
            ('"+1"', "1"),
            ("0.000000000000000001", "1E-18"),
            ('"1.' + "0" * 5000 + '"', "1"),
            ('"0.1' + "0" * 30 + '"', "0.1"),
            ('"99999999999999999999.999999999999999999"', "99999999999999999999.999999999999999999"),
        ],
    )
    def test_reads_numbers_and_texts_exactly(self, number: str, value: str) -> None:
        sent = json.dumps(ORDER).replace('"95000"', number)

        found = order_specs(decode(sent.encode()), default_market="SPOT")[0].price

        assert str(found) == value
        assert found == Decimal(value)

    @pytest.mark.parametrize(
        ("number", "said"),
        [
            ("NaN", "must be a number"),
            ('"NaN"', "must be a number"),
            ('"sNaN"', "must be a number"),
            ("Infinity", "must be a number"),
            ("-Infinity", "must be a number"),
            ('"inf"', "must be a number"),
            ("true", "must be a number"),
            ("false", "must be a number"),
            ("[]", "must be a number"),
            ("{}", "must be a number"),
            ('"1_000"', "must be a number"),
            ('"1,000"', "must be a number"),
            ('"1 000"', "must be a number"),
            ('"0x10"', "must be a number"),
            ('"{{close}}"', "must be a number"),
            ('"-"', "must be a number"),
            ("1e400", "is too large"),
            ('"1e400"', "is too large"),
            ("9" * 21, "is too large"),
            ("9" * 5000, "is too large"),
            ("0.0000000000000000001", "has more than 18 decimals"),
            ("1234567890123456789.1234567890123456789", "has more than 18 decimals"),
            ("1e-400", "has more than 18 decimals"),
            ("1e-999999999", "has more than 18 decimals"),
            ('"1e-999999999"', "has more than 18 decimals"),
            ("-1", "must be above zero"),
            ("0", "must be above zero"),
            ('"-0"', "must be above zero"),
            ("0e-999999999", "must be above zero"),
        ],
    )
    @pytest.mark.parametrize("field", ["price", "stop_price", "quantity"])
    def test_refuses_what_is_no_usable_number(self, field: str, number: str, said: str) -> None:
        order = ORDER | {"order_type": "STOP_LIMIT", "stop_price": 1, "quantity": 1, field: "HERE"}
        del order["qty_per"]
        sent = json.dumps(order).replace('"HERE"', number)

        with pytest.raises(PayloadFault) as caught:
            order_specs(decode(sent.encode()), default_market="SPOT")

        assert [(fault.field, fault.message) for fault in caught.value.faults] == [(field, said)]

    @pytest.mark.parametrize(
        ("qty_per", "said"),
        [
            (0, "must not be zero"),
            ("-100.0001", "cannot close more than 100 percent of a position"),
            ("NaN", "must be a number"),
            (True, "must be a number"),
        ],
    )
    def test_refuses_a_percentage_that_means_nothing(self, qty_per: Any, said: str) -> None:
        assert faults(ORDER | {"qty_per": qty_per}) == [(0, "qty_per", said)]

    @pytest.mark.parametrize("qty_per", ["250", "-100", "-0.5", "0.01"])
    def test_takes_more_than_all_with_leverage_and_less_than_nothing_to_close(self, qty_per: str) -> None:
        found = specs(ORDER | {"qty_per": qty_per})[0]

        assert (found.qty_per, found.is_close) == (Decimal(qty_per), qty_per.startswith("-"))

    def test_needs_no_side_to_close(self) -> None:
        order = {"symbol": "BTC/USDT", "order_type": "MARKET", "qty_per": -100}

        assert specs(order)[0].side is None

    @pytest.mark.parametrize(
        ("order_type", "missing"),
        [
            ("MARKET", []),
            ("LIMIT", ["price"]),
            ("STOP_MARKET", ["stop_price"]),
            ("STOP_LIMIT", ["price", "stop_price"]),
        ],
    )
    def test_names_the_prices_that_a_kind_of_order_needs(self, order_type: str, missing: list[str]) -> None:
        order = {"symbol": "BTC/USDT", "side": "buy", "order_type": order_type, "qty_per": 10}

        if missing:
            assert [field for _, field, _ in faults(order)] == missing
        else:
            assert specs(order)[0].order_type == OrderType.MARKET

    def test_names_everything_that_an_empty_order_lacks(self) -> None:
        assert faults({}) == [(0, "order_type", "is missing")]
        assert faults({"order_type": "LIMIT"}) == [
            (0, "symbol", "is missing"),
            (0, "side", "is missing"),
            (0, "price", "is missing: LIMIT needs it"),
            (0, "qty_per", "is missing: give qty_per or quantity"),
        ]
        assert faults({"order_type": "CANCEL"}) == [
            (0, "order_id", "is missing: CANCEL needs order_id or client_order_id")
        ]

    def test_wants_one_way_to_say_how_much(self) -> None:
        assert faults(ORDER | {"quantity": 1}) == [
            (0, "quantity", "cannot stand beside qty_per: give one of them")
        ]

    def test_needs_nothing_to_cancel_everything(self) -> None:
        found = specs({"order_type": "CANCEL_ALL_ORDER"})[0]

        assert (found.order_type, found.symbol, found.side) == (None, None, None)

    def test_names_every_fault_of_every_order_at_once(self) -> None:
        payload = {
            "symbol": "BTC/USDT",
            "orders": [
                ORDER | {"price": "NaN", "side": "up"},
                ORDER,
                {"order_type": "LIMT", "price": "-5", "qty_per": "x"},
                7,
                {"order_type": "STOP_LIMIT", "side": "buy", "price": "1", "market_type": "moon"},
            ],
        }

        found = faults(payload)

        assert [(index, field) for index, field, _ in found] == [
            (0, "side"),
            (0, "price"),
            (2, "order_type"),
            (2, "price"),
            (2, "qty_per"),
            (3, "orders"),
            (4, "market_type"),
            (4, "stop_price"),
            (4, "qty_per"),
        ]
        assert found[0][2] == "must be buy or sell (or long, short)"
        assert found[2][2] == (
            "must be one of MARKET, LIMIT, STOP_MARKET, STOP_LIMIT, CANCEL, CANCEL_ALL_ORDER"
        )

    @pytest.mark.parametrize(
        ("orders", "said"),
        [
            ([], "is empty: there is nothing to do"),
            ({}, "must be a list"),
            ("LIMIT", "must be a list"),
            ([ORDER] * 31, "has 31 orders; at most 30 fit in one webhook"),
        ],
    )
    def test_refuses_orders_that_are_no_list_of_one_to_thirty(self, orders: Any, said: str) -> None:
        assert faults({"orders": orders}) == [(None, "orders", said)]

    def test_takes_thirty(self) -> None:
        found = specs({"orders": [ORDER] * MAX_ORDERS})

        assert [one.index for one in found] == list(range(30))

    @pytest.mark.parametrize("symbol", [True, ["BTC/USDT"], {"a": 1}, "x" * 65, "BTC\0USDT", "1e-999999999"])
    def test_refuses_symbols_that_are_no_text(self, symbol: Any) -> None:
        sent = json.dumps(ORDER).replace('"BTC/USDT"', json.dumps(symbol).replace('"1e-999999999"', "true"))

        with pytest.raises(PayloadFault) as caught:
            order_specs(decode(sent.encode()), default_market="SPOT")

        assert [fault.field for fault in caught.value.faults] == ["symbol"]

    @pytest.mark.parametrize("number", ["1e999999999", "1e-999999999"])
    def test_writes_no_gigabyte_for_a_short_number(self, number: str) -> None:
        sent = f'{{"order_type": "CANCEL", "order_id": {number}}}'

        assert len(order_specs(decode(sent.encode()), default_market="SPOT")[0].order_id or "") < 20

    def test_does_not_change_what_was_delivered(self) -> None:
        payload = decode(body({"symbol": "btcusdt", "orders": [dict(ORDER, symbol=None)]}))
        before = json.dumps(payload, default=str)

        order_specs(payload, default_market="SPOT")

        assert json.dumps(payload, default=str) == before


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=True)
    | st.text(max_size=12)
    | st.sampled_from(["LIMIT", "MARKET", "CANCEL", "buy", "FUTURES", "NaN", "1e400", "-1", "BTC/USDT"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(max_size=6)
            | st.sampled_from(
                [
                    "orders",
                    "symbol",
                    "side",
                    "order_type",
                    "price",
                    "stop_price",
                    "qty_per",
                    "quantity",
                    "market_type",
                    "order_id",
                    "client_order_id",
                    "timestamp",
                ]
            ),
            inner,
            max_size=8,
        )
    ),
    max_leaves=25,
)


class TestAnything:
    @given(JSON)
    def test_that_is_json_becomes_orders_or_named_faults(self, value: Any) -> None:
        try:
            payload = decode(body(value))
            signal_time(payload)
            found = order_specs(payload, default_market="SPOT")
        except PayloadFault as fault:
            assert fault.faults  # noqa: PT017  both ends are fine
            assert all(one.message for one in fault.faults)  # noqa: PT017
        else:
            assert found
            sized = [one for one in found if one.order_type is not None]
            assert all(one.qty_per is not None or one.quantity is not None for one in sized)
            assert all((one.price or 1) > 0 for one in sized)


class TestSignalTime:
    @pytest.mark.parametrize(
        "stamp",
        [
            "2026-07-21T12:00:00Z",
            "2026-07-21T12:00:00",
            "2026-07-21 12:00:00+00:00",
            "2026-07-21T21:00:00+09:00",
            1784635200,
            1784635200000,
            "1784635200",
            "1784635200000",
            " 1784635200000 ",
        ],
    )
    def test_reads_iso_seconds_and_milliseconds(self, stamp: Any) -> None:
        assert signal_time(decode(body({"timestamp": stamp}))) == datetime(2026, 7, 21, 12, tzinfo=UTC)

    def test_takes_milliseconds_for_no_day_of_the_eighteenth_century(self) -> None:
        assert signal_time(decode(b'{"timestamp": "1764112500123"}')) == datetime(
            2025, 11, 25, 23, 15, 0, 123000, tzinfo=UTC
        )

    @pytest.mark.parametrize("payload", [{}, {"timestamp": ""}, {"timestamp": None}])
    def test_is_none_where_there_is_none(self, payload: dict[str, Any]) -> None:
        assert signal_time(payload) is None

    @pytest.mark.parametrize("stamp", ["soon", "{{timenow}}", True, [], -1, 0, "NaN", "1e19", "²", 10**19])
    def test_refuses_what_it_cannot_read(self, stamp: Any) -> None:
        with pytest.raises(PayloadFault) as caught:
            signal_time(decode(body({"timestamp": stamp})))

        assert [fault.field for fault in caught.value.faults] == ["timestamp"]


class TestForm:
    def test_around_the_json_may_have_other_fields(self) -> None:
        sent = urlencode({"payload": json.dumps(ORDER)}).encode()

        assert order_specs(decode(sent), default_market="SPOT") == specs(ORDER)
