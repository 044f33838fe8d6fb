"""What an operator switches: everything, a strategy, its token.

Each switch takes effect with the very next webhook in every process, because the rows behind it
bump the configuration version, and each leaves a line in the log that says who and why.
"""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from django.db import transaction
from django.db.models import Exists, QuerySet

from orders.clock import database_now
from orders.config import cache
from orders.events import EventsLogged, publish
from orders.models import EventSource, EventType, KillSwitch, OrderEvent, Strategy, StrategyAccount

KILL_SWITCH = "Kill switch"  # how its lines in the log begin


def kill_switch_set(*, engaged: bool, reason: str, by: str, user_id: int | None = None) -> KillSwitch:
    """Stop accepting webhooks, or accept them again. `by`: who did it; `user_id`: their login, if any."""
    with transaction.atomic():
        switch, _ = KillSwitch.objects.update_or_create(
            pk=1, defaults={"engaged": engaged, "reason": reason, "changed_by_id": user_id}
        )
        operator_log(f"{KILL_SWITCH} {switch}", by=by, reason=reason)
    return switch


def kill_switch_state() -> KillSwitch:
    """Return the switch; a system that never used it has it off."""
    return KillSwitch.objects.filter(pk=1).first() or KillSwitch(pk=1, engaged=False)


def strategies_set_active(*, strategy_ids: Iterable[int], active: bool, by: str, reason: str = "") -> int:
    """Pause or resume strategies; returns how many were in the other state."""
    with transaction.atomic():
        rows = list(
            Strategy.objects.select_for_update()
            .filter(pk__in=list(strategy_ids), is_active=not active)
            .order_by("pk")
        )
        for strategy in rows:
            strategy.is_active = active
            strategy.save(update_fields=["is_active", "updated_at"])
            word = "resumed" if active else "paused"
            operator_log(f"Strategy {strategy} {word}", by=by, reason=reason, user_id=strategy.user_id)
    return len(rows)


def strategy_rotate_token(*, strategy_id: int, by: str) -> str:
    """Give a strategy a new token and return it: the only time that anybody sees it.

    The old one is refused from the next webhook on.
    """
    token = secrets.token_urlsafe(24)
    with transaction.atomic():
        strategy = Strategy.objects.select_for_update().get(pk=strategy_id)
        strategy.set_token(token)
        strategy.save(update_fields=["token_hash", "updated_at"])
        operator_log(f"Token of strategy {strategy} rotated", by=by, reason="", user_id=strategy.user_id)
    return token


def stop_reasons(strategy_account_ids: Collection[int]) -> dict[int, str]:
    """Return which of these strategy accounts may not send now, each with why, with one query.

    Read it in the transaction that claims orders for the exchange: nothing leaves after a switch.
    """
    return _reasons(StrategyAccount.objects.filter(pk__in=strategy_account_ids))


def _reasons(rows: QuerySet[StrategyAccount]) -> dict[int, str]:
    system = Exists(KillSwitch.objects.filter(pk=1, engaged=True))
    known = rows.select_related("account", "strategy__user__profile").annotate(all_stopped=system)
    reasons = {row.pk: _stop_reason(row, system=row.all_stopped) for row in known}
    return {pk: reason for pk, reason in reasons.items() if reason}


def stopped_by_account(*, version: int) -> Mapping[int, frozenset[int]]:
    """Return the strategy accounts of each account that may not send: read once per configuration version.

    Whoever claims orders by it writes on the condition that the version still stands.
    """
    return cache.get(("stopped",), version, _load_stopped)


def _load_stopped() -> dict[int, frozenset[int]]:
    stopped: dict[int, set[int]] = defaultdict(set)
    reasons = _reasons(StrategyAccount.objects.all())
    for pk, account_id in StrategyAccount.objects.filter(pk__in=reasons).values_list("pk", "account_id"):
        stopped[account_id].add(pk)
    return {account_id: frozenset(rows) for account_id, rows in stopped.items()}


def _stop_reason(row: StrategyAccount, *, system: bool) -> str:
    profile = getattr(row.strategy.user, "profile", None)
    killed = row.strategy.kill_switch or row.account.kill_switch or (profile and profile.kill_switch)
    if system or killed:
        return "the kill switch was on when the order was to be sent"
    if not row.strategy.is_active:
        return "the strategy was switched off when the order was to be sent"
    if not (row.is_active and row.account.is_active):
        return "the account was switched off when the order was to be sent"
    return ""


def operator_log(
    message: str,
    *,
    by: str,
    reason: str = "",
    user_id: int | None = None,
    account_id: int | None = None,
) -> None:
    """Write down what an operator did, and why."""
    OrderEvent.objects.create(
        type=EventType.OPERATOR,
        source=EventSource.OPERATOR,
        user_id=user_id,
        account_id=account_id,
        message=message[:500],
        data={"by": by, "reason": reason},
        created_at=database_now(),
    )
    publish(EventsLogged())
