"""The shape of a provision file, and everything that can be said of it without a database."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import available_timezones

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError, ValidationInfo

from exchanges.models import AccountType, Environment, ExchangeName, Market
from orders.models import ExecutionMode


class ProvisionFaults(Exception):
    """The file cannot be used. `faults`: every fault in words, each with its path in the file."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = list(faults)
        super().__init__("\n".join(self.faults))


def _secret(value: Any, info: ValidationInfo) -> Any:
    """Read `env:NAME` from the environment that the parser was given."""
    if isinstance(value, str) and value.startswith("env:"):
        name = value.removeprefix("env:")
        found: str | None = (info.context or {}).get(name)
        if not found:
            raise ValueError(f"the environment variable {name} is not set")
        return found
    return value


def _time_zone(value: Any) -> Any:
    if isinstance(value, str) and value not in available_timezones():
        raise ValueError(f"{value} is no time zone")
    return value


Secret = Annotated[SecretStr, BeforeValidator(_secret), Field(min_length=1)]
Token = Annotated[SecretStr, BeforeValidator(_secret), Field(min_length=8, max_length=128)]
Name = Annotated[str, Field(min_length=1, max_length=64)]
Limit = Annotated[Decimal, Field(gt=0, max_digits=38, decimal_places=18)]  # of a guard; null: none
Percent = Annotated[Decimal, Field(gt=0, le=100, max_digits=38, decimal_places=18)]
Count = Annotated[int, Field(ge=1, le=32_767)]
Rate = Annotated[int, Field(ge=1, le=2_147_483_647)]
Symbol = Annotated[str, Field(min_length=1, max_length=48, pattern=r"^[^:\s]+$")]


class _Entry(BaseModel):
    """A misspelled key is a fault: what it meant to say would otherwise silently not happen."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def given(self, *names: str) -> dict[str, Any]:
        """Return those of `names` that the file states; what it leaves out stays as it is."""
        return {name: getattr(self, name) for name in names if name in self.model_fields_set}


class UserEntry(_Entry):
    username: Annotated[str, Field(min_length=1, max_length=150, pattern=r"^[\w.@+-]+$")]
    password: Secret | None = None
    email: str = ""
    language: Annotated[str, Field(pattern="^(en|ko)$")] = "en"
    time_zone: Annotated[str, BeforeValidator(_time_zone)] = "Asia/Seoul"
    is_staff: bool = False
    is_superuser: bool = False
    is_active: bool = True


class AccountEntry(_Entry):
    name: Name
    user: str
    exchange: ExchangeName
    account_type: AccountType = AccountType.CRYPTO
    environment: Environment
    api_key: Secret
    api_secret: Secret
    passphrase: Annotated[SecretStr, BeforeValidator(_secret)] = SecretStr("")
    is_active: bool = True
    queue_limit_cap: Count | None = None
    queue_stop_cap: Count | None = None
    queue_total_cap: Count | None = None
    max_orders_per_minute: Rate | None = 300


class FollowerEntry(_Entry):
    account: str
    allocated_capital: Annotated[Decimal, Field(ge=0, max_digits=38, decimal_places=18)]
    leverage: Annotated[int, Field(ge=1, le=125)] = 1
    is_active: bool = True
    max_order_notional: Limit | None = None
    max_position_notional: Limit | None = None
    max_symbols: Count | None = None
    daily_loss_limit: Limit | None = None
    max_drawdown_percent: Percent | None = None


class StrategyEntry(_Entry):
    group_name: Name
    user: str
    token: Token
    market_type: Market = Market.SPOT
    execution_mode: ExecutionMode = ExecutionMode.QUEUED
    is_active: bool = True
    dedupe_window_seconds: Annotated[int, Field(ge=0, le=86_400)] = 0
    max_signal_age_seconds: Annotated[int, Field(ge=1)] | None = None
    symbol_allowlist: list[Symbol] = []
    symbol_blocklist: list[Symbol] = []
    max_orders_per_minute: Rate | None = 300
    max_price_deviation_percent: Limit | None = None
    accounts: list[FollowerEntry] = []


class ProvisionFile(_Entry):
    users: list[UserEntry] = []
    accounts: list[AccountEntry] = []
    strategies: list[StrategyEntry] = []


def read_provision_file(path: Path, *, environment: Mapping[str, str]) -> ProvisionFile:
    """Return what a JSON or TOML file (told by its suffix) asks for.

    Raises ProvisionFaults that name every fault of the file, and OSError when it cannot be read.
    """
    text = path.read_text(encoding="utf-8")
    try:
        match path.suffix.lower():
            case ".json":
                content = json.loads(text, parse_float=Decimal)
            case ".toml":
                content = tomllib.loads(text, parse_float=Decimal)
            case suffix:
                raise ProvisionFaults(
                    [f"{path.name}: the suffix is {suffix or 'missing'}, not .json or .toml"]
                )
    except ValueError as error:  # both parsers' errors are ValueErrors and say where
        raise ProvisionFaults([f"{path.name}: {error}"]) from None
    return parse_provision(content, environment=environment)


def parse_provision(content: Any, *, environment: Mapping[str, str]) -> ProvisionFile:
    """Return the checked content of a provision file. Raises ProvisionFaults."""
    try:
        file = ProvisionFile.model_validate(content, context=environment)
    except ValidationError as error:
        # Without the input: it may be a secret.
        faults = error.errors(include_url=False, include_input=False, include_context=False)
        raise ProvisionFaults(f"{_path(fault['loc'])}: {fault['msg']}" for fault in faults) from None
    if faults_of_names := [
        *_repeated("users", [user.username for user in file.users]),
        *_repeated("accounts", [f"{account.user}/{account.name}" for account in file.accounts]),
        *_repeated("strategies", [strategy.group_name for strategy in file.strategies]),
        *_repeated(
            "strategies", [strategy.token.get_secret_value() for strategy in file.strategies], "token"
        ),
        *(
            fault
            for number, strategy in enumerate(file.strategies)
            for fault in _repeated(
                f"strategies[{number}].accounts", [follower.account for follower in strategy.accounts]
            )
        ),
    ]:
        raise ProvisionFaults(faults_of_names)
    return file


def _path(location: tuple[int | str, ...]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.lstrip(".") or "file"


def _repeated(path: str, names: list[str], secret: str = "") -> list[str]:
    """Name each entry that says again what an earlier one said; `secret`: without quoting it."""
    return [
        f"{path}[{number}]{'.' + secret if secret else ''}: "
        f"{secret or name} stands in {path}[{names.index(name)}] already"
        for number, name in enumerate(names)
        if names.index(name) < number
    ]
