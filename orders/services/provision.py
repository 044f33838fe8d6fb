"""Make the database say what a provision file says: people, accounts and strategies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import structlog
from cryptography.fernet import InvalidToken
from django.contrib.auth import get_user_model
from django.contrib.auth.hashers import check_password
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.db import models, transaction

from exchanges.adapters.types import Credentials
from exchanges.fields import plain
from exchanges.markets import account_types_of
from exchanges.models import Account
from orders.following import reason_against_following
from orders.models import Book, Strategy, StrategyAccount, UserProfile
from orders.models.strategy import token_hashes
from orders.provisioning import (
    AccountEntry,
    FollowerEntry,
    ProvisionFaults,
    ProvisionFile,
    StrategyEntry,
    UserEntry,
)

logger = structlog.get_logger(__name__)

HIDDEN = "(hidden)"
STRATEGY_FIELDS = (
    "execution_mode", "is_active", "dedupe_window_seconds", "max_signal_age_seconds", "symbol_allowlist",
    "symbol_blocklist", "max_orders_per_minute", "max_price_deviation_percent",
)  # fmt: skip
FOLLOWER_FIELDS = (
    "leverage", "is_active", "max_order_notional", "max_position_notional", "max_symbols", "daily_loss_limit",
    "max_drawdown_percent",
)  # fmt: skip
ACCOUNT_FIELDS = (
    "is_active", "queue_limit_cap", "queue_stop_cap", "queue_total_cap", "max_orders_per_minute",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that differed between the file and the database; `fields`: name, before, after."""

    what: str
    is_new: bool
    fields: tuple[tuple[str, str, str], ...]

    def __str__(self) -> str:
        if self.is_new:
            return f"new {self.what}"
        return f"{self.what}: " + ", ".join(
            f"{name} {before} -> {after}" for name, before, after in self.fields
        )


@dataclass(slots=True)
class ProvisionResult:
    changes: list[Change] = field(default_factory=list)


def provision(file: ProvisionFile, *, check_only: bool = False) -> ProvisionResult:
    """Write what `file` asks for, all of it or nothing; a second run changes nothing.

    What the file leaves out stays as it is, except that an account which no longer stands under a
    strategy stops following it. `check_only`: take everything back at the end.
    Raises ProvisionFaults when the file does not fit what is in the database.
    """
    with transaction.atomic():
        result = ProvisionResult()
        for user_entry in file.users:
            _provision_user(user_entry, result)
        if faults := list(_unknown_owners(file)):
            raise ProvisionFaults(faults)
        for number, account_entry in enumerate(file.accounts):
            faults += _provision_account(f"accounts[{number}]", account_entry, result)
        if faults:  # without these accounts the strategies' faults would be mere consequences
            raise ProvisionFaults(faults)
        for number, strategy_entry in enumerate(file.strategies):
            faults += _provision_strategy(f"strategies[{number}]", strategy_entry, result)
        if faults:
            raise ProvisionFaults(faults)
        if check_only:
            transaction.set_rollback(True)
    if not check_only:
        for change in result.changes:
            logger.info("Provisioned", change=str(change))
    return result


def _save(
    what: str, row: models.Model, values: dict[str, Any], hidden: dict[str, Any], result: ProvisionResult
) -> None:
    """Write into `row` those of `values` that differ, and all of `hidden`; note what changed.

    Hidden values are not shown. Whoever gives one has compared it already.
    """
    is_new = row.pk is None or row._state.adding
    differing = {name: value for name, value in values.items() if is_new or getattr(row, name) != value}
    shown = (
        [(name, _shown(getattr(row, name)), _shown(value)) for name, value in differing.items()]
        if not is_new
        else []
    )
    for name, value in (differing | hidden).items():
        setattr(row, name, value)
    if is_new or differing or hidden:
        row.save()
        fields = [*shown, *((name, HIDDEN, HIDDEN) for name in hidden)]
        result.changes.append(Change(what=what, is_new=is_new, fields=tuple(fields)))


def _shown(value: Any) -> str:
    return plain(value) if hasattr(value, "as_tuple") else str(value)


# --- people ---------------------------------------------------------------------------------------------


def _provision_user(entry: UserEntry, result: ProvisionResult) -> None:
    user: User = get_user_model().objects.filter(username=entry.username).first() or User(
        username=entry.username
    )
    is_new = user.pk is None
    if is_new:
        user.set_unusable_password()
    values = entry.given("email", "is_staff", "is_superuser", "is_active")
    hidden: dict[str, Any] = {}
    if entry.password is not None and not check_password(entry.password.get_secret_value(), user.password):
        user.set_password(entry.password.get_secret_value())
        hidden["password"] = user.password
    _save(f"user {entry.username}", user, values, hidden, result)
    profile = UserProfile.objects.filter(user=user).first() or UserProfile(user=user)
    _save(f"profile of {entry.username}", profile, entry.given("language", "time_zone"), {}, result)


def _unknown_owners(file: ProvisionFile) -> Iterator[str]:
    known = set(get_user_model().objects.values_list("username", flat=True))
    for number, account in enumerate(file.accounts):
        if account.user not in known:
            yield f"accounts[{number}].user: there is no user {account.user}"
    for number, strategy in enumerate(file.strategies):
        if strategy.user not in known:
            yield f"strategies[{number}].user: there is no user {strategy.user}"


# --- accounts -------------------------------------------------------------------------------------------


def _provision_account(path: str, entry: AccountEntry, result: ProvisionResult) -> list[str]:
    user = User.objects.get(username=entry.user)
    account = Account.objects.filter(user=user, name=entry.name).first() or Account(
        user=user, name=entry.name
    )
    if entry.account_type not in account_types_of(entry.exchange):
        return [f"{path}.account_type: {entry.exchange} has no {entry.account_type} accounts"]
    values: dict[str, Any] = {
        "exchange": entry.exchange.value,
        "account_type": entry.account_type.value,
        "environment": entry.environment.value,
    }
    if account.pk and (moved := [name for name, value in values.items() if getattr(account, name) != value]):
        # Its orders and its ids are the old exchange's: reports of the new one would be matched to them.
        if Book.objects.filter(account=account).exists():
            return [f"{path}.{name}: {entry.name} has traded already; make another account" for name in moved]
    wanted = Credentials(
        api_key=entry.api_key.get_secret_value(),
        api_secret=entry.api_secret.get_secret_value(),
        passphrase=entry.passphrase.get_secret_value(),
    )
    hidden = {} if _credentials_of(account) == wanted else {"credentials": wanted}
    values |= entry.given(*ACCOUNT_FIELDS)
    if faults := _cap_faults(path, account, values):
        return faults
    _save(f"account {entry.user}/{entry.name}", account, values, hidden, result)
    return []


def _cap_faults(path: str, account: Account, values: dict[str, Any]) -> list[str]:
    """Return what the account itself says against its caps as they would be."""
    caps = ("queue_limit_cap", "queue_stop_cap", "queue_total_cap")
    try:
        Account(**{name: values.get(name, getattr(account, name)) for name in caps}).clean()
    except ValidationError as fault:
        return [f"{path}.{name}: {' '.join(words)}" for name, words in fault.message_dict.items()]
    return []


def _credentials_of(account: Account) -> Credentials | None:
    """Return the stored credentials, None where there are none or no key of ours reads them."""
    if not account.pk:
        return None
    try:
        return account.credentials
    except InvalidToken:
        return None


# --- strategies -----------------------------------------------------------------------------------------


def _provision_strategy(path: str, entry: StrategyEntry, result: ProvisionResult) -> list[str]:
    user = User.objects.get(username=entry.user)
    strategy = Strategy.objects.filter(group_name=entry.group_name).first()
    if strategy is None:
        strategy = Strategy(user=user, group_name=entry.group_name)
    elif strategy.user_id != user.pk:
        return [f"{path}.user: strategy {entry.group_name} belongs to somebody else"]
    hashes = token_hashes(entry.token.get_secret_value())
    if Strategy.objects.filter(token_hash__in=hashes).exclude(pk=strategy.pk).exists():
        return [f"{path}.token: another strategy has this token"]
    values = entry.given(*STRATEGY_FIELDS) | {"market_type": entry.market_type.value}
    # A hash under a former key is replaced too: the former key can then be dropped.
    hidden = {} if strategy.token_hash == hashes[0] else {"token_hash": hashes[0]}
    accounts = {account.name: account for account in Account.objects.filter(user=user)}
    if faults := [
        fault
        for number, follower in enumerate(entry.accounts)
        if (fault := _misfit(f"{path}.accounts[{number}]", follower, entry, accounts))
    ]:
        return faults
    _save(f"strategy {entry.group_name}", strategy, values, hidden, result)
    if "accounts" in entry.model_fields_set:
        _provision_followers(strategy, entry, accounts, result)
    return []


def _misfit(
    path: str, follower: FollowerEntry, entry: StrategyEntry, accounts: dict[str, Account]
) -> str | None:
    """Return why this account cannot follow this strategy, in words, or None."""
    account = accounts.get(follower.account)
    if account is None:
        return f"{path}.account: {entry.user} has no account {follower.account}"
    if reason := reason_against_following(account, market_type=entry.market_type.value):
        return f"{path}.account: {reason}"
    return None


def _provision_followers(
    strategy: Strategy, entry: StrategyEntry, accounts: dict[str, Account], result: ProvisionResult
) -> None:
    rows = {row.account_id: row for row in StrategyAccount.objects.filter(strategy=strategy)}
    for follower in entry.accounts:
        account = accounts[follower.account]
        row = rows.pop(account.pk, None) or StrategyAccount(strategy=strategy, account=account)
        values = {"allocated_capital": follower.allocated_capital} | follower.given(*FOLLOWER_FIELDS)
        _save(f"{follower.account} under {entry.group_name}", row, values, {}, result)
    for row in rows.values():
        # Not deleted: its orders and positions point at it.
        _save(f"{row.account.name} under {entry.group_name}", row, {"is_active": False}, {}, result)
