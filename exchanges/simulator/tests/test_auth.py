from __future__ import annotations

import pytest

from exchanges.simulator.dialects.binance import auth
from exchanges.simulator.wire import WireError

# From Binance's documentation (fact sheet A2).
KEY = "vmPUZE6mv9SD5VNHk4HlWFsOr6aKE2zvsw0MuIgwCIPy6utIco14y7Ju91duEh8A"
SECRET = "NhqPtmdSJYdKjVHjA7PZj4Mge3R5YNiP1e3UZjInClVN65XAbvqqM6A7H5fATj0j"
ORDER = (
    "symbol=LTCBTC&side=BUY&type=LIMIT&timeInForce=GTC&quantity=1&price=0.1"
    "&recvWindow=5000&timestamp=1499827319559"
)
ORDER_SIGNATURE = "c8db56825ae71d6d79447849e617115f4a920fa2acdcab2b053c4b2838bd6b71"
NOW = 1_700_000_000_000


class TestSignedText:
    def test_makes_the_documented_signature_of_a_rest_request(self) -> None:
        assert auth.sign(SECRET, auth.signed_text(ORDER, "")) == ORDER_SIGNATURE
        assert auth.sign(SECRET, auth.signed_text("", ORDER)) == ORDER_SIGNATURE

    def test_joins_query_and_body_without_a_separator(self) -> None:
        query, body = ORDER[:50], ORDER[50:]

        assert auth.sign(SECRET, auth.signed_text(query, body)) == ORDER_SIGNATURE

    def test_leaves_the_signature_out_wherever_it_stands(self) -> None:
        first = f"signature={ORDER_SIGNATURE}&{ORDER}"
        last = f"{ORDER}&signature={ORDER_SIGNATURE}"

        assert auth.signed_text(first, "") == auth.signed_text("", last) == ORDER

    def test_makes_the_documented_signature_of_a_websocket_request(self) -> None:
        params = {
            "type": "LIMIT",
            "timestamp": 1645423376532,
            "symbol": "BTCUSDT",
            "side": "SELL",
            "timeInForce": "GTC",
            "quantity": "0.01000000",
            "price": "52000.00",
            "recvWindow": 100,
            "apiKey": KEY,
            "signature": "left out",
        }

        signature = auth.sign(SECRET, auth.signed_ws_text(params))

        assert signature == "aa1b5712c094bc4e57c05a1a5c1fd8d88dcd628338ea863fec7b88e59fe2db24"


class TestCheckSignature:
    def test_accepts_hex_in_either_case(self) -> None:
        auth.check_signature(SECRET, ORDER, ORDER_SIGNATURE)
        auth.check_signature(SECRET, ORDER, ORDER_SIGNATURE.upper())

    @pytest.mark.parametrize("signature", ["", "0" * 64, "ä", ORDER_SIGNATURE[:-1]])
    def test_refuses_anything_else(self, signature: str) -> None:
        with pytest.raises(WireError) as caught:
            auth.check_signature(SECRET, ORDER, signature)

        assert caught.value.code == -1022


class TestCheckTime:
    @pytest.mark.parametrize("timestamp", [NOW, NOW - 5000, NOW + 999, NOW * 1000, NOW * 1000 - 5_000_000])
    def test_accepts_what_is_inside_the_window(self, timestamp: int) -> None:
        auth.check_time({"timestamp": str(timestamp)}, NOW)

    @pytest.mark.parametrize("timestamp", [NOW - 5001, NOW + 1000, NOW * 1000 - 5_000_001])
    def test_refuses_what_is_outside(self, timestamp: int) -> None:
        with pytest.raises(WireError) as caught:
            auth.check_time({"timestamp": str(timestamp)}, NOW)

        assert caught.value.code == -1021

    def test_takes_a_window_with_decimals(self) -> None:
        auth.check_time({"timestamp": str(NOW - 100), "recvWindow": "100.000"}, NOW)
        with pytest.raises(WireError):
            auth.check_time({"timestamp": str(NOW - 101), "recvWindow": "100.999"}, NOW)

    def test_refuses_a_window_over_a_minute(self) -> None:
        with pytest.raises(WireError) as caught:
            auth.check_time({"timestamp": str(NOW), "recvWindow": "60001"}, NOW)

        assert caught.value.code == -1131

    @pytest.mark.parametrize("timestamp", ["", "NaN", "soon", "-1", "1e400"])
    def test_refuses_what_is_no_time(self, timestamp: str) -> None:
        with pytest.raises(WireError) as caught:
            auth.check_time({"timestamp": timestamp}, NOW)

        assert caught.value.code in (-1102, -1021)
