"""The words of a message, in Telegram's HTML. Pure: facts in, text out.

Source: core.telegram.org/bots/api "HTML style": only <, > and & have to be escaped outside of tags.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from html import escape
from itertools import groupby
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop, ngettext, override

from orders.models.failed_order import MAX_RETRIES

MAX_LENGTH = 3800  # characters with markup; Telegram takes 4,096 without
ORDERS_NAMED = 3  # of those that failed alike
STRANGERS_NAMED = 5
WORDS_LENGTH = 300

SIDES = {"BUY": gettext_noop("Buy"), "SELL": gettext_noop("Sell")}
ORDER_TYPES = {
    "MARKET": gettext_noop("Market"),
    "LIMIT": gettext_noop("Limit"),
    "STOP_MARKET": gettext_noop("Stop market"),
    "STOP_LIMIT": gettext_noop("Stop limit"),
}
_REPEAT = gettext_noop("It is not on the exchange. Retry it on the positions page if you still want it.")
_LOOK = gettext_noop(
    "Look at the account on the exchange, then retry the order on the positions page if you still want it."
)
_USED_UP = gettext_noop("All retries are used up: send a new signal if you still want it.")
# Error type, or status of an order that ended on the exchange -> what happened, what to do about it.
CAUSES: dict[str, tuple[str, str]] = {
    "insufficient_balance": (
        gettext_noop("Insufficient balance"),
        gettext_noop("Add funds to the account, then retry the order on the positions page; or trade less."),
    ),
    "rate_limit": (
        gettext_noop("The exchange's rate limit is reached"),
        gettext_noop("Wait a minute and retry the order on the positions page. Send fewer orders at once."),
    ),
    "invalid_symbol": (
        gettext_noop("The exchange does not know this symbol"),
        gettext_noop("Correct the symbol or the market type of the signal."),
    ),
    "invalid_quantity": (
        gettext_noop("Quantity or price does not fit the exchange's rules"),
        gettext_noop("Correct size and price, or the capital allocated to the strategy."),
    ),
    "limit_exceeded": (
        gettext_noop("A limit of the exchange is reached"),
        gettext_noop("Cancel orders that are no longer needed, or lower size or leverage."),
    ),
    "network_error": (gettext_noop("The exchange could not be reached"), _REPEAT),
    "timeout": (gettext_noop("Execution timeout"), _REPEAT),
    "authentication": (
        gettext_noop("The exchange refused the account's credentials"),
        gettext_noop("Check the account's API key: its permissions, its allowed addresses, its expiry."),
    ),
    "risk_limit": (
        gettext_noop("A risk limit stopped the order"),
        gettext_noop("Check the limits of the strategy and the account."),
    ),
    "unknown": (gettext_noop("The exchange refused the order"), _LOOK),
    "rejected": (gettext_noop("Rejected by the exchange"), _LOOK),
    "expired": (gettext_noop("Expired on the exchange"), _LOOK),
    "canceled": (gettext_noop("Canceled on the exchange, not by us"), _LOOK),
}
_KNOWN_REASONS = {what for what, _advice in CAUSES.values()}


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed order as a message tells it. Quantity in base asset or contracts, prices in quote asset."""

    id: int
    strategy: str
    account: str
    webhook_id: str
    symbol: str
    side: str
    order_type: str
    quantity: Decimal
    price: Decimal | None
    stop_price: Decimal | None
    reason: str
    error_type: str
    exchange_error: str
    status: str
    created_at: datetime
    retry_count: int = 0

    @property
    def is_used_up(self) -> bool:
        return self.retry_count >= MAX_RETRIES

    @property
    def cause(self) -> str:
        return self.status if self.status in CAUSES else self.error_type

    @property
    def words(self) -> str:
        """What was said beyond the cause: the exchange's own words, or ours where they are special."""
        return self.exchange_error or ("" if self.reason in _KNOWN_REASONS else self.reason)


def orders_failed(failures: Sequence[Failure], *, language: str, time_zone: str) -> str:
    """Return one message about all these orders: by webhook, and within it by what went wrong."""
    with override(language):
        count = len(failures)
        title = ngettext("%(count)d order failed", "%(count)d orders failed", count) % {"count": count}
        text, told, above = f"⚠️ <b>{title}</b>", 0, ("", "")
        for group in _alike(failures):
            webhook = group[0].strategy, group[0].webhook_id
            block = ("" if webhook == above else _heading(group[0], time_zone)) + _block(group)
            if told and len(text) + len(block) > MAX_LENGTH:
                more = _("… and %(count)d more: see “Failed orders” on the positions page.")
                return text + "\n\n" + more % {"count": count - told}
            text, told, above = text + block, told + len(group), webhook
        return text


@dataclass(frozen=True, slots=True)
class Trip:
    """A loss guard that tripped. `limit` and `value`: quote asset, or percent of a drawdown."""

    kind: str
    strategy: str
    account: str
    limit: Decimal
    value: Decimal
    tripped_at: datetime
    ends_at: datetime | None


def guard_tripped(trip: Trip, *, language: str, time_zone: str) -> str:
    """Return the message about one loss guard."""
    with override(language):
        names = {"value": _rounded(trip.value), "limit": _rounded(trip.limit)}
        if trip.ends_at is None:
            what = _("Drawdown %(value)s %%, limit %(limit)s %%") % names
            until = _("Nothing is opened until a person resumes it in the admin, under “Who follows what”.")
        else:
            what = _("Realized loss of today %(value)s, limit %(limit)s") % names
            ends_at = f"{trip.ends_at.astimezone(_zone(time_zone)):%m-%d %H:%M %Z}"
            until = _("Nothing is opened until %(time)s.") % {"time": ends_at}
        at = f"{trip.tripped_at.astimezone(_zone(time_zone)):%m-%d %H:%M:%S %Z}"
        lines = (
            f"🛑 <b>{_text(_('A loss guard stopped a strategy'))}</b>",
            f"<b>{_text(trip.strategy)}</b> · {_text(trip.account)} · {at}",
            _text(what),
            f"→ {_text(until)} {_text(_('Closing orders go on; what rests stays.'))}",
        )
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Outage:
    """An exchange that cannot be reached, or can again. `served`: (environment, market type) at this URL."""

    base_url: str
    exchange: str
    served: tuple[tuple[str, str], ...]
    nodes: tuple[str, ...]
    at: datetime
    reason: str
    is_down: bool


def exchange_unreachable(outage: Outage, *, language: str, time_zone: str) -> str:
    """Return the message about one exchange: that it is away, or back."""
    with override(language):
        at = f"{outage.at.astimezone(_zone(time_zone)):%m-%d %H:%M:%S %Z}"
        served = ", ".join(f"{market} {environment}" for environment, market in outage.served)
        names = {"exchange": outage.exchange}
        where = " · ".join(filter(None, (served, outage.base_url)))
        if not outage.is_down:
            title = _("%(exchange)s answers again") % names
            return f"✅ <b>{_text(title)}</b>\n{_text(where)} · {at}"
        title = _("%(exchange)s cannot be reached") % names
        seen = _("seen from %(machines)s") % {"machines": ", ".join(outage.nodes)}
        what = _("Queued orders wait. Market orders fail at once. Cancels are still sent.")
        lines = (
            f"⛔ <b>{_text(title)}</b>",
            f"{_text(where)} · {at} · {_text(seen)}",
            f"<i>{_text(outage.reason[:WORDS_LENGTH])}</i>",
            f"→ {_text(what)}",
        )
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Stranger:
    """An order with an id of our shape that this installation never made."""

    id: int
    account: str
    symbol: str
    client_order_id: str
    seen_at: datetime


def strangers_found(strangers: Sequence[Stranger], *, language: str, time_zone: str) -> str:
    """Return one message about all of them."""
    with override(language):
        count = len(strangers)
        title = ngettext(
            "%(count)d order that tradehub did not place bears an id like its own",
            "%(count)d orders that tradehub did not place bear ids like its own",
            count,
        )
        at = f"{strangers[0].seen_at.astimezone(_zone(time_zone)):%m-%d %H:%M:%S %Z}"
        lines = [f"❓ <b>{_text(title % {'count': count})}</b> · {at}"]
        for one in strangers[:STRANGERS_NAMED]:
            name = f"<code>{_text(one.client_order_id)}</code>"
            lines.append(f"• {_text(one.account)} · {_text(one.symbol)} · {name}")
        if more := max(0, count - STRANGERS_NAMED):
            lines.append("• " + _text(_("and %(count)d more") % {"count": more}))
        why = _("Another installation trades with the same keys, or a backup was restored.")
        what = _("They are under “External orders” on the positions page; nothing touches them.")
        return "\n".join([*lines, f"→ {_text(why)} {_text(what)}"])


def test_message(*, language: str) -> str:
    with override(language):
        return escape(
            _("✅ tradehub reaches this chat. Alerts about failed orders will arrive here."), quote=False
        )


def _alike(failures: Iterable[Failure]) -> list[list[Failure]]:
    def key(failure: Failure) -> tuple[str | bool, ...]:
        return (
            failure.strategy,
            failure.webhook_id,
            failure.account,
            failure.cause,
            failure.words,
            failure.is_used_up,
        )

    return [list(group) for _key, group in groupby(sorted(failures, key=key), key)]


def _heading(failure: Failure, time_zone: str) -> str:
    at = failure.created_at.astimezone(_zone(time_zone))
    name, webhook = _text(failure.strategy), _text(failure.webhook_id)
    return f"\n\n<b>{name}</b> · <code>{webhook}</code> · {at:%m-%d %H:%M:%S %Z}"


def _block(group: Sequence[Failure]) -> str:
    first = group[0]
    cause, advice = CAUSES.get(first.cause, CAUSES["unknown"])
    if first.is_used_up:
        advice = _USED_UP
    lines = [f"\n<b>{_text(first.account)}: {_text(_(cause))}</b>"]
    lines += [f"• {_order(failure)}" for failure in group[:ORDERS_NAMED]]
    if more := len(group) - ORDERS_NAMED:
        lines += ["• " + _("and %(count)d more") % {"count": more}] if more > 0 else []
    if first.words:
        lines.append(f"<i>{_text(first.words[:WORDS_LENGTH])}</i>")
    return "\n".join([*lines, f"→ {_text(_(advice))}"])


def _order(failure: Failure) -> str:
    side, kind = (
        SIDES.get(failure.side, failure.side),
        ORDER_TYPES.get(failure.order_type, failure.order_type),
    )
    text = f"{failure.symbol} {_(side)} {_(kind)} {_plain(failure.quantity)}"
    if failure.stop_price is not None:
        text += f" {_('stop')} {_plain(failure.stop_price)}"
    if failure.price is not None:
        text += f" @ {_plain(failure.price)}"
    return _text(text)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        return ZoneInfo("UTC")


def _rounded(number: Decimal) -> str:
    return _plain(number.quantize(Decimal("0.01"), ROUND_HALF_UP))


def _text(words: object) -> str:
    return escape(str(words), quote=False)


def _plain(number: Decimal) -> str:
    return format(number.normalize(), "f")
