"""Who may do what: Binance's api key, HMAC signature and time window.

Source: fact sheet A2. The signed text is the query string followed, without a separator, by
the form body, as sent, less the `signature` itself.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation

from exchanges.simulator.wire import Params, WireError

DEFAULT_RECV_WINDOW = Decimal(5000)
MAX_RECV_WINDOW = Decimal(60000)
MAX_AHEAD_MS = 1000


def sign(secret: str, text: str) -> str:
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()


def signed_text(query: str, body: str) -> str:
    """Return what the signature of a REST request is made over."""
    return _without_signature(query) + _without_signature(body)


def signed_ws_text(params: Mapping[str, object]) -> str:
    """Return what a WebSocket-API signature is made over: sorted, not percent-encoded."""
    return "&".join(f"{name}={params[name]}" for name in sorted(params) if name != "signature")


def check_signature(secret: str, text: str, signature: str) -> None:
    # Bytes: a client may send anything, and compare_digest takes only ASCII strings.
    if not hmac.compare_digest(sign(secret, text).encode(), signature.lower().encode()):
        raise WireError(400, -1022, "Signature for this request is not valid.")


def check_time(params: Params, now_ms: int, *, late: tuple[int, str] | None = None) -> None:
    """Check `timestamp` against the server's time and `recvWindow`.

    `late` is the code and text of the engine's own check, where that differs.
    """
    timestamp = _number(params, "timestamp")
    if timestamp >= 10**14:
        timestamp /= 1000  # microseconds are accepted too
    window = _number(params, "recvWindow") if params.get("recvWindow") else DEFAULT_RECV_WINDOW
    if window > MAX_RECV_WINDOW:
        raise WireError(400, -1131, "recvWindow must be less than 60000.")
    if timestamp >= now_ms + MAX_AHEAD_MS:
        raise WireError(400, -1021, "Timestamp for this request was 1000ms ahead of the server's time.")
    if now_ms - timestamp > window:
        code, text = late or (-1021, "Timestamp for this request is outside of the recvWindow.")
        raise WireError(400, code, text)


def _number(params: Params, name: str) -> Decimal:
    value = params.get(name, "")
    try:
        number = Decimal(value)
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite() or number < 0:
        raise WireError(
            400,
            -1102,
            f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.",
        )
    return number


def _without_signature(text: str) -> str:
    if "signature=" not in text:
        return text
    return "&".join(part for part in text.split("&") if not part.startswith("signature="))
