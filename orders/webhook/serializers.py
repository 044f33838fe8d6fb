"""The payload's shape: from bytes to order specs, or to every fault by order index and field.

Shape and numbers only; what needs the database (symbols, accounts, sizes) comes later.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any
from urllib.parse import unquote_plus

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic_core import PydanticCustomError

from exchanges.adapters.types import MarketType, OrderType, Side

MAX_ORDERS = 30
MAX_DIGITS = 20  # before the decimal point: more is a slip of the keyboard, not an order
MAX_DECIMALS = 18
MAX_TEXT = 64
MAX_DEPTH = 32  # of nesting: deeper than any alert, far from the interpreter's own limit

TOO_DEEP = f"the body is nested deeper than {MAX_DEPTH} levels"

ACTIONS = ("MARKET", "LIMIT", "STOP_MARKET", "STOP_LIMIT", "CANCEL", "CANCEL_ALL_ORDER")
REQUIRED: dict[str, tuple[str, ...]] = {
    "MARKET": (),
    "LIMIT": ("price",),
    "STOP_MARKET": ("stop_price",),
    "STOP_LIMIT": ("price", "stop_price"),
}
DEFAULTED = ("symbol", "side", "order_type")
SIDES = {"buy": Side.BUY, "long": Side.BUY, "sell": Side.SELL, "short": Side.SELL}


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong. `order_index` is None for the payload as a whole."""

    field: str
    message: str
    order_index: int | None = None

    def as_json(self) -> dict[str, Any]:
        return {"order_index": self.order_index, "field": self.field, "message": self.message}


class PayloadFault(Exception):
    """The payload cannot be worked at all, or at all as it stands; every fault is listed."""

    def __init__(self, code: str, *faults: Fault) -> None:
        super().__init__(code)
        self.code = code
        self.faults = faults


def decode(body: bytes) -> dict[str, Any]:
    """Read a body as a JSON object, leniently: white space, a trailing `=`, a form around the JSON.

    Numbers keep their digits (Decimal). Raises PayloadFault("invalid_json").
    """
    try:
        text = body.decode("utf-8-sig").strip().rstrip("\0")
    except UnicodeDecodeError as exc:
        raise PayloadFault("invalid_json", Fault("body", "the body is not UTF-8 text")) from exc
    for candidate in _readings(text):
        try:
            value = json.loads(candidate, parse_float=Decimal, parse_int=Decimal, parse_constant=str)
        except (ValueError, RecursionError, InvalidOperation):
            continue
        if not isinstance(value, dict):
            raise PayloadFault("invalid_json", Fault("body", "the body must be a JSON object: {…}"))
        # Only an escape can spell half a character: the bytes were UTF-8.
        fault = oddity(value) if "\\u" in candidate else _nesting(value)
        if fault:
            raise PayloadFault("invalid_json", Fault("body", fault))
        return value
    raise PayloadFault("invalid_json", Fault("body", "the body is not valid JSON"))


def _nesting(value: Any) -> str | None:
    """Say that a value is nested deeper than anybody would."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for one in level
            for inner in (one.values() if isinstance(one, dict) else one)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return None
    return TOO_DEEP if any(level) else None


def oddity(value: Any, depth: int = 0) -> str | None:
    """Say what JSON allows and nobody after us could store: endless nesting, half a character."""
    if depth > MAX_DEPTH:
        return TOO_DEEP
    if isinstance(value, str):
        return None if value.isascii() or _is_encodable(value) else "the body has a broken character"
    if isinstance(value, dict):
        found = (oddity(one, depth + 1) for pair in value.items() for one in pair)
    elif isinstance(value, list):
        found = (oddity(one, depth + 1) for one in value)
    else:
        return None
    return next(filter(None, found), None)


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # one half of a surrogate pair
        return False
    return True


def _readings(text: str) -> list[str]:
    readings = [text, text.rstrip("= \t\r\n")]
    if "%7b" in text[:200].lower() or text[:1] not in "{[":
        form = unquote_plus(text).strip()
        readings += [form.rstrip("= \t\r\n")]
        if "={" in form.replace(" ", ""):
            readings.append(form[form.index("{") :].rstrip("= \t\r\n"))
    return readings


def _number(value: Any) -> Decimal | None:
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, Decimal | str | int):
        raise PydanticCustomError("number", "must be a number")
    try:
        number = Decimal(str(value).strip().replace("_", "x"))
    except InvalidOperation as exc:
        raise PydanticCustomError("number", "must be a number") from exc
    if not number.is_finite():
        raise PydanticCustomError("number", "must be a number")
    if number and number.adjusted() >= MAX_DIGITS:
        raise PydanticCustomError("number", "is too large")
    return _without_spare_zeros(number)


def _without_spare_zeros(number: Decimal) -> Decimal:
    """Refuse more decimals than we keep; zeros at the end are none. Exact, whatever the length."""
    sign, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)  # it is finite
    if exponent >= -MAX_DECIMALS:
        return number
    if not number:
        return Decimal(0)
    spare = next(count for count, digit in enumerate(reversed(digits)) if digit)
    if exponent + spare < -MAX_DECIMALS:
        raise PydanticCustomError("number", f"has more than {MAX_DECIMALS} decimals")
    return Decimal((sign, digits[: len(digits) - spare], exponent + spare))


def _positive(value: Any) -> Decimal | None:
    number = _number(value)
    if number is not None and number <= 0:
        raise PydanticCustomError("number", "must be above zero")
    return number


def _nonzero(value: Any) -> Decimal | None:
    number = _number(value)
    if number is not None and number == 0:
        raise PydanticCustomError("number", "must not be zero")
    return number


def _text(value: Any) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, Decimal):
        value = format(value, "f") if abs(value.adjusted()) < MAX_TEXT else str(value)
    if not isinstance(value, str):
        raise PydanticCustomError("text", "must be text")
    text = value.strip()
    if len(text) > MAX_TEXT or "\0" in text:
        raise PydanticCustomError("text", f"is not a usable text of at most {MAX_TEXT} characters")
    return text or None


def _side(value: Any) -> Side | None:
    text = _text(value)
    if text is None:
        return None
    if text.lower() not in SIDES:
        raise PydanticCustomError("side", "must be buy or sell (or long, short)")
    return SIDES[text.lower()]


def _order_type(value: Any) -> str | None:
    text = _text(value)
    if text is None:
        return None
    if text.upper() not in ACTIONS:
        raise PydanticCustomError("order_type", "must be one of " + ", ".join(ACTIONS))
    return text.upper()


def _market_type(value: Any) -> MarketType | None:
    text = _text(value)
    if text is None:
        return None
    try:
        return MarketType(text.upper())
    except ValueError as exc:
        words = ", ".join(MarketType)
        raise PydanticCustomError("market_type", "must be one of {words}", {"words": words}) from exc


def _symbol(value: Any) -> str | None:
    text = _text(value)
    return text.upper() if text else None


Text = Annotated[str | None, BeforeValidator(_text)]
Positive = Annotated[Decimal | None, BeforeValidator(_positive)]


class OrderFields(BaseModel):
    """One entry of `orders` (or the payload itself, for a single order). Unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    symbol: Annotated[str | None, BeforeValidator(_symbol)] = None
    side: Annotated[Side | None, BeforeValidator(_side)] = None
    order_type: Annotated[str | None, BeforeValidator(_order_type)] = None
    price: Positive = None
    stop_price: Positive = None
    qty_per: Annotated[Decimal | None, BeforeValidator(_nonzero)] = None
    quantity: Positive = None
    market_type: Annotated[MarketType | None, BeforeValidator(_market_type)] = None
    order_id: Text = None
    client_order_id: Text = None


@dataclass(frozen=True, slots=True)
class OrderSpec:
    """One order of a payload, shape checked. `order_type` is None for the two cancels."""

    index: int
    action: str  # one of ACTIONS
    order_type: OrderType | None
    symbol: str | None  # as the sender spells it, upper case
    side: Side | None
    price: Decimal | None
    stop_price: Decimal | None
    qty_per: Decimal | None
    quantity: Decimal | None
    market_type: MarketType
    order_id: str | None

    @property
    def is_close(self) -> bool:
        return self.order_type is not None and self.qty_per is not None and self.qty_per < 0


def order_specs(payload: dict[str, Any], *, default_market: str) -> list[OrderSpec]:
    """Return the payload's orders in the order given. Raises PayloadFault("invalid_payload")."""
    raw = payload.get("orders")
    if raw is None:
        entries: list[Any] = [payload]
    elif not isinstance(raw, list):
        raise PayloadFault("invalid_payload", Fault("orders", "must be a list"))
    elif not raw:
        raise PayloadFault("invalid_payload", Fault("orders", "is empty: there is nothing to do"))
    elif len(raw) > MAX_ORDERS:
        raise PayloadFault(
            "invalid_payload",
            Fault("orders", f"has {len(raw)} orders; at most {MAX_ORDERS} fit in one webhook"),
        )
    else:
        entries = raw
    defaults = {name: payload[name] for name in (*DEFAULTED, "market_type") if payload.get(name) is not None}
    faults: list[Fault] = []
    specs = [
        _order_spec(index, entry, defaults, default_market, faults) for index, entry in enumerate(entries)
    ]
    if faults:
        raise PayloadFault("invalid_payload", *faults)
    return [spec for spec in specs if spec is not None]


def _order_spec(
    index: int, entry: Any, defaults: dict[str, Any], default_market: str, faults: list[Fault]
) -> OrderSpec | None:
    if not isinstance(entry, dict):
        faults.append(Fault("orders", "must be an object: {…}", index))
        return None
    merged = defaults | {name: value for name, value in entry.items() if value is not None}
    wrong: dict[str, str] = {}
    try:
        fields = OrderFields.model_validate(merged)
    except ValidationError as exc:
        wrong = {str(error["loc"][0]): error["msg"] for error in exc.errors(include_url=False)}
        # The rest is still read, so that every fault of an order is named at once.
        fields = OrderFields.model_validate({k: v for k, v in merged.items() if k not in wrong})
    for name, message in (wrong | _missing(fields, wrong)).items():
        faults.append(Fault(name, message, index))
    if fields.order_type is None:
        return None
    return OrderSpec(
        index=index,
        action=fields.order_type,
        order_type=OrderType(fields.order_type) if fields.order_type in REQUIRED else None,
        symbol=fields.symbol,
        side=fields.side,
        price=fields.price,
        stop_price=fields.stop_price,
        qty_per=fields.qty_per,
        quantity=fields.quantity,
        market_type=fields.market_type or MarketType(default_market),
        order_id=fields.client_order_id or fields.order_id,
    )


def _missing(fields: OrderFields, wrong: dict[str, str]) -> dict[str, str]:
    """Name what this kind of order needs and does not have (a field that is wrong is not missing)."""
    found: dict[str, str] = {}
    if fields.order_type is None:
        found["order_type"] = "is missing"
    elif fields.order_type == "CANCEL":
        if not fields.order_id and not fields.client_order_id and "client_order_id" not in wrong:
            found["order_id"] = "is missing: CANCEL needs order_id or client_order_id"
    elif fields.order_type != "CANCEL_ALL_ORDER":
        closes = fields.qty_per is not None and fields.qty_per < 0
        if fields.symbol is None:
            found["symbol"] = "is missing"
        if fields.side is None and not closes:
            found["side"] = "is missing"
        for name in REQUIRED[fields.order_type]:
            if getattr(fields, name) is None:
                found[name] = f"is missing: {fields.order_type} needs it"
        if fields.qty_per is None and fields.quantity is None and "quantity" not in wrong:
            found["qty_per"] = "is missing: give qty_per or quantity"
        elif fields.qty_per is not None and fields.quantity is not None:
            found["quantity"] = "cannot stand beside qty_per: give one of them"
        elif closes and fields.qty_per is not None and fields.qty_per < -100:
            found["qty_per"] = "cannot close more than 100 percent of a position"
    return {name: message for name, message in found.items() if name not in wrong}


def signal_time(payload: dict[str, Any]) -> datetime | None:
    """Return the payload's `timestamp`: ISO 8601, or epoch seconds or milliseconds.

    Raises PayloadFault("invalid_payload") when it is there and cannot be read.
    """
    value = payload.get("timestamp")
    if value is None or value == "":
        return None
    fault = PayloadFault(
        "invalid_payload", Fault("timestamp", "must be ISO 8601, or epoch seconds or milliseconds")
    )
    if isinstance(value, str) and not value.strip().isdigit():  # 1764112500123 is also a day of 1764
        try:
            parsed = datetime.fromisoformat(value.strip())
        except ValueError:
            parsed = None
        if parsed is not None:
            return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
    try:
        number = _number(value)
        if number is None or number <= 0:
            raise fault
        seconds = number / 1000 if number > 10**11 else number
        return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=int(seconds * 1_000_000))
    except (PydanticCustomError, OverflowError, ValueError) as exc:
        raise fault from exc
