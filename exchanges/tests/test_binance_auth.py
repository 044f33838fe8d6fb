"""The vectors that Binance documents, and the text that is signed."""

from __future__ import annotations

from decimal import Decimal

import pytest

from exchanges.adapters.binance.auth import Signer, compact_json, encode_query, percent_encode, plain
from exchanges.adapters.types import Credentials

# Source: binance-spot-api-docs rest-api.md and web-socket-api.md, "SIGNED request example (HMAC)".
KEY = "vmPUZE6mv9SD5VNHk4HlWFsOr6aKE2zvsw0MuIgwCIPy6utIco14y7Ju91duEh8A"
SECRET = "NhqPtmdSJYdKjVHjA7PZj4Mge3R5YNiP1e3UZjInClVN65XAbvqqM6A7H5fATj0j"


def make_signer(recv_window_ms: int) -> Signer:
    return Signer(Credentials(KEY, SECRET), recv_window_ms=recv_window_ms)


class TestSigner:
    def test_signs_the_documented_rest_request(self) -> None:
        query = "symbol=LTCBTC&side=BUY&type=LIMIT&timeInForce=GTC&quantity=1&price=0.1"
        signed, headers = make_signer(5000).query(query, 1499827319559)
        assert signed == (
            f"{query}&recvWindow=5000&timestamp=1499827319559"
            "&signature=c8db56825ae71d6d79447849e617115f4a920fa2acdcab2b053c4b2838bd6b71"
        )
        assert headers == {"X-MBX-APIKEY": KEY}

    def test_signs_the_documented_websocket_request(self) -> None:
        order = {
            "symbol": "BTCUSDT", "side": "SELL", "type": "LIMIT", "timeInForce": "GTC",
            "quantity": "0.01000000", "price": "52000.00",
        }  # fmt: skip
        params = make_signer(100).websocket_params(order, 1645423376532)
        assert params["signature"] == "aa1b5712c094bc4e57c05a1a5c1fd8d88dcd628338ea863fec7b88e59fe2db24"

    def test_signs_a_request_without_params(self) -> None:
        assert make_signer(5000).query("", 1).query.startswith("recvWindow=5000&timestamp=1&signature=")

    def test_shows_no_secret(self) -> None:
        assert SECRET not in repr(make_signer(5000))


class TestPercentEncode:
    @pytest.mark.parametrize(
        ("text", "encoded"),
        [
            ("BTCUSDT_260327-x.y~z", "BTCUSDT_260327-x.y~z"),
            ('[{"a":"1.5","b":"x/y"}]', "%5B%7B%22a%22%3A%221.5%22%2C%22b%22%3A%22x%2Fy%22%7D%5D"),
            ("币安人生USDT", "%E5%B8%81%E5%AE%89%E4%BA%BA%E7%94%9FUSDT"),
            ("a b&c=d%+", "a%20b%26c%3Dd%25%2B"),
            ("", ""),
        ],
    )
    def test_escapes_all_but_the_unreserved(self, text: str, encoded: str) -> None:
        assert percent_encode(text) == encoded


class TestEncodeQuery:
    def test_escapes_values_and_keeps_the_order(self) -> None:
        assert encode_query([("b", "x:y"), ("a", compact_json(["1"]))]) == "b=x%3Ay&a=%5B%221%22%5D"


class TestPlain:
    @pytest.mark.parametrize(
        ("number", "text"),
        [
            ("1E-7", "0.0000001"),
            ("1E+3", "1000"),
            ("100", "100"),
            ("0.0100", "0.01"),
            ("100.000", "100"),
            ("12345678901234567.12345678901234567", "12345678901234567.12345678901234567"),
        ],
    )
    def test_writes_no_exponent_and_loses_no_digit(self, number: str, text: str) -> None:
        assert plain(Decimal(number)) == text
