"""Binance's signatures: percent-encode first, sign the encoded text, send exactly that text.

Source: binance/binance-spot-api-docs rest-api.md "SIGNED request example (HMAC)", enforced since
        2026-01-15 (-1022); web-socket-api.md signs raw UTF-8, sorted by name. Futures sign alike.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from urllib.parse import quote

from exchanges.adapters.departure import Signed
from exchanges.adapters.types import Credentials

API_KEY_HEADER = "X-MBX-APIKEY"
_UNRESERVED = re.compile(r"[A-Za-z0-9_.~-]*")
# A batch is a kilobyte of JSON in which only these seven need escaping: far quicker than quote().
_PLAIN_JSON = re.compile(r'[A-Za-z0-9_.~\-"{}\[\]:,/]*')
_JSON_ESCAPES = tuple((mark, quote(mark, safe="")) for mark in '"{}[]:,/')


def percent_encode(text: str) -> str:
    """Escape everything but RFC 3986's unreserved characters, as UTF-8."""
    if _UNRESERVED.fullmatch(text):
        return text
    if _PLAIN_JSON.fullmatch(text):
        for mark, escape in _JSON_ESCAPES:
            text = text.replace(mark, escape)
        return text
    return quote(text, safe="")


def encode_query(params: Iterable[tuple[str, str]]) -> str:
    return "&".join(f"{name}={percent_encode(value)}" for name, value in params)


def compact_json(value: Sequence[object]) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def plain(number: Decimal) -> str:
    """Write a Decimal without an exponent and without trailing zeros: 1E-7 is 0.0000001."""
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


class Signer:
    """Signs for one account with its HMAC key. `repr` shows nothing of it."""

    def __init__(self, credentials: Credentials, *, recv_window_ms: int) -> None:
        self._secret = credentials.api_secret.encode()
        self._api_key = credentials.api_key
        self._recv_window_ms = recv_window_ms
        self.headers = {API_KEY_HEADER: credentials.api_key}

    def signature(self, payload: str) -> str:
        return hmac.digest(self._secret, payload.encode(), "sha256").hex()

    def query(self, query: str, timestamp_ms: int) -> Signed:
        """Add receive window, time and signature to a percent-encoded query."""
        glue = "&" if query else ""
        text = f"{query}{glue}recvWindow={self._recv_window_ms}&timestamp={timestamp_ms}"
        return Signed(f"{text}&signature={self.signature(text)}", self.headers)

    def websocket_params(self, params: Mapping[str, str | int], timestamp_ms: int) -> dict[str, str | int]:
        """Return the params of a signed WebSocket-API request."""
        complete: dict[str, str | int] = {
            **params,
            "apiKey": self._api_key,
            "recvWindow": self._recv_window_ms,
            "timestamp": timestamp_ms,
        }
        payload = "&".join(f"{name}={complete[name]}" for name in sorted(complete))
        return {**complete, "signature": self.signature(payload)}
