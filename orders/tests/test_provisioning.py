from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from orders.provisioning import ProvisionFaults, parse_provision, read_provision_file

ACCOUNT = {
    "name": "main",
    "user": "trader",
    "exchange": "binance",
    "environment": "SIMULATOR",
    "api_key": "k1",
    "api_secret": "s1",
}
STRATEGY = {"group_name": "test1", "user": "trader", "token": "secret-token"}


def faults_of(content: Any, environment: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ProvisionFaults) as caught:
        parse_provision(content, environment=environment or {})
    return caught.value.faults


class TestParseProvision:
    def test_names_every_fault_with_its_path(self) -> None:
        content = {
            "users": [{"username": "no spaces allowed"}, {"username": "ok", "language": "fr"}],
            "accounts": [ACCOUNT | {"exchange": "mtgox", "api_key": "env:MISSING_KEY"}],
            "strategies": [
                STRATEGY | {"accounts": [{"account": "main", "allocated_capital": "NaN", "leverage": 0}]},
                STRATEGY | {"group_name": "test2", "token": "short", "markettype": "SPOT"},
            ],
        }

        faults = faults_of(content)

        assert [fault.partition(":")[0] for fault in faults] == [
            "users[0].username",
            "users[1].language",
            "accounts[0].exchange",
            "accounts[0].api_key",
            "strategies[0].accounts[0].allocated_capital",
            "strategies[0].accounts[0].leverage",
            "strategies[1].token",
            "strategies[1].markettype",
        ]
        assert "the environment variable MISSING_KEY is not set" in faults[3]

    def test_names_what_stands_there_twice(self) -> None:
        content = {
            "users": [{"username": "trader"}, {"username": "trader"}],
            "accounts": [ACCOUNT, ACCOUNT],
            "strategies": [
                STRATEGY | {"accounts": [{"account": "main", "allocated_capital": 1}] * 2},
                STRATEGY | {"group_name": "test2"},
            ],
        }

        assert faults_of(content) == [
            "users[1]: trader stands in users[0] already",
            "accounts[1]: trader/main stands in accounts[0] already",
            "strategies[1].token: token stands in strategies[0] already",
            "strategies[0].accounts[1]: main stands in strategies[0].accounts[0] already",
        ]

    def test_never_repeats_a_secret_in_a_fault(self) -> None:
        content = {
            "strategies": [STRATEGY | {"token": "short", "group_name": ""}],
            "accounts": [ACCOUNT | {"api_secret": 12345}],
        }

        text = " ".join(faults_of(content))

        assert "short" not in text.replace("should", "")
        assert "12345" not in text

    def test_takes_secrets_from_the_environment(self) -> None:
        file = parse_provision(
            {"accounts": [ACCOUNT | {"api_secret": "env:MAIN_SECRET"}]},
            environment={"MAIN_SECRET": "from-outside"},
        )

        assert file.accounts[0].api_secret.get_secret_value() == "from-outside"

    @pytest.mark.parametrize("content", [[], "users", None, {"people": []}])
    def test_refuses_another_shape(self, content: Any) -> None:
        assert faults_of(content)


class TestReadProvisionFile:
    def test_reads_json_and_toml_to_the_last_digit(self, tmp_path: Path) -> None:
        follower = '{"account": "main", "allocated_capital": 1234567.8901234567}'
        as_json = tmp_path / "file.json"
        as_json.write_text(
            json.dumps({"strategies": [STRATEGY | {"accounts": ["FOLLOWER"]}]}).replace(
                '"FOLLOWER"', follower
            )
        )
        as_toml = tmp_path / "file.toml"
        as_toml.write_text(
            "[[strategies]]\n"
            'group_name = "test1"\nuser = "trader"\ntoken = "secret-token"\n'
            '[[strategies.accounts]]\naccount = "main"\nallocated_capital = 1234567.8901234567\n'
        )

        first = read_provision_file(as_json, environment={})
        second = read_provision_file(as_toml, environment={})

        assert first == second
        assert first.strategies[0].accounts[0].allocated_capital == Decimal("1234567.8901234567")

    @pytest.mark.parametrize(
        ("name", "text"), [("a.json", "{"), ("a.toml", "= 1"), ("a.yaml", "a: 1"), ("a", "{}")]
    )
    def test_says_what_is_wrong_with_the_file_itself(self, tmp_path: Path, name: str, text: str) -> None:
        path = tmp_path / name
        path.write_text(text)

        with pytest.raises(ProvisionFaults, match=f"^{name}: "):
            read_provision_file(path, environment={})
