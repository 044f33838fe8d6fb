"""What an operator switches: everything, a strategy, its token.

Each switch takes effect with the very next webhook in every process, because the rows behind it
bump the configuration version, and each leaves a line in the log that says who and why.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable

from django.db import transaction

from orders.clock import database_now
from orders.events import EventsLogged, publish
from orders.models import (
    EventSource,
    EventType,
    KillSwitch,
    OrderEvent,
    Strategy,
    StrategyAccount,
    UserProfile,
)

KILL_SWITCH = "Kill switch"  # how its lines in the log begin


def kill_switch_set(*, engaged: bool, reason: str, by: str, user_id: int | None = None) -> KillSwitch:
    """Stop accepting webhooks, or accept them again. `by`: who did it; `user_id`: their login, if any."""
    with transaction.atomic():
        switch, _ = KillSwitch.objects.update_or_create(
            pk=1, defaults={"engaged": engaged, "reason": reason, "changed_by_id": user_id}
        )
        _log(f"{KILL_SWITCH} {switch}", by=by, reason=reason)
    return switch


def kill_switch_state() -> KillSwitch:
    """Return the switch; a system that never used it has it off."""
    return KillSwitch.objects.filter(pk=1).first() or KillSwitch(pk=1, engaged=False)


def switched_off(strategy_account_ids: Collection[int]) -> dict[int, str]:
    """Return which strategy accounts may send nothing now, each with the reason, with two queries at most.

    For whoever sends outside a webhook, whose own first query reads the switches.
    """
    if not strategy_account_ids:
        return {}
    if kill_switch_state().engaged:
        return dict.fromkeys(strategy_account_ids, "The kill switch is on")
    rows = StrategyAccount.objects.filter(pk__in=strategy_account_ids)
    found = ((row.pk, _off(row)) for row in rows.select_related("strategy__user__profile", "account"))
    return {pk: reason for pk, reason in found if reason}


def _off(row: StrategyAccount) -> str:
    strategy, account = row.strategy, row.account
    profile: UserProfile | None = getattr(strategy.user, "profile", None)
    if strategy.kill_switch or account.kill_switch or (profile is not None and profile.kill_switch):
        return "The kill switch is on"
    if not strategy.is_active:
        return "The strategy is switched off"
    return "" if row.is_active and account.is_active else "The account is switched off"


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
            _log(f"Strategy {strategy} {word}", by=by, reason=reason, user_id=strategy.user_id)
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
        _log(f"Token of strategy {strategy} rotated", by=by, reason="", user_id=strategy.user_id)
    return token


def _log(message: str, *, by: str, reason: str, user_id: int | None = None) -> None:
    OrderEvent.objects.create(
        type=EventType.OPERATOR,
        source=EventSource.OPERATOR,
        user_id=user_id,
        message=message[:500],
        data={"by": by, "reason": reason},
        created_at=database_now(),
    )
    publish(EventsLogged())
