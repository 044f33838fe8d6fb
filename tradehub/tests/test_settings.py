from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings
from django.db import OperationalError, connection
from django.db.utils import ConnectionHandler
from pytest_django import DjangoDbBlocker

from tradehub.databases import POSTGRESQL_SETTINGS, PREPARE_FROM, database_settings

PRODUCTION = {
    "SECRET_KEY": "a-key-of-more-than-fifty-characters-0123456789-abcdefghijk",
    "FIELD_ENCRYPTION_KEYS": "b25lLWtleS1mb3ItdGVzdHMtYW5kLW5vdGhpbmctMDE=",
    "ALLOWED_HOSTS": "tradehub.example",
}


def manage(*arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a management command as a process with nothing but `env` of our settings."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=settings.BASE_DIR,
        env=inherited | {"DOTENV": os.devnull} | env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class TestProduction:
    def test_passes_the_deployment_check_without_a_warning(self) -> None:
        result = manage("check", "--deploy", "--fail-level", "WARNING", env=PRODUCTION)

        assert (result.returncode, result.stdout.strip()) == (
            0,
            "System check identified no issues (0 silenced).",
        ), result.stderr

    @pytest.mark.parametrize("share", ["0", "-0.5", "1.01", "nan"])
    def test_refuses_to_start_with_a_share_of_the_rate_limits_that_is_none(self, share: str) -> None:
        result = manage("check", env=PRODUCTION | {"EXCHANGE_RATE_SHARE": share})

        assert result.returncode != 0
        assert "EXCHANGE_RATE_SHARE" in result.stderr

    @pytest.mark.parametrize("seconds", ["0", "-1", "nan"])
    def test_refuses_to_start_with_a_breaker_that_never_opens(self, seconds: str) -> None:
        result = manage("check", env=PRODUCTION | {"EXCHANGE_BREAKER_SECONDS": seconds})

        assert result.returncode != 0
        assert "EXCHANGE_BREAKER_SECONDS" in result.stderr

    @pytest.mark.parametrize("cap", ["0", "-1"])
    def test_refuses_to_start_with_a_queue_that_lets_nothing_out(self, cap: str) -> None:
        result = manage("check", env=PRODUCTION | {"QUEUE_LIMIT_CAP": cap})

        assert result.returncode != 0
        assert "QUEUE_LIMIT_CAP must be at least 1" in result.stderr

    @pytest.mark.parametrize(
        ("name", "value", "words"),
        [
            ("WORKERS", "0", "must be at least 1"),
            ("WEBHOOK_THREADS", "0", "must be at least 1"),
            ("WEBHOOK_TIMEOUT_SECONDS", "0", "must be above 0"),
            ("TICKER_SECONDS", "0", "must be at least 0.5"),
            ("TRACKING_VERIFY", "gap", 'must be "gaps" or "always"; it is "gap"'),
            ("TRACKING_VERIFY", "Always", 'must be "gaps" or "always"; it is "Always"'),
        ],
    )
    def test_refuses_to_start_with_a_value_that_means_nothing(
        self, name: str, value: str, words: str
    ) -> None:
        result = manage("check", env=PRODUCTION | {name: value})

        assert result.returncode != 0
        assert f"{name} {words}" in result.stderr

    @pytest.mark.parametrize("missing", ["SECRET_KEY", "FIELD_ENCRYPTION_KEYS"])
    def test_refuses_to_start_without_a_secret(self, missing: str) -> None:
        result = manage("check", env=PRODUCTION | {missing: ""})

        assert result.returncode != 0
        assert f"{missing} must be set" in result.stderr

    def test_refuses_a_key_that_cannot_encrypt(self) -> None:
        result = manage("check", env=PRODUCTION | {"FIELD_ENCRYPTION_KEYS": "not-a-key"})

        assert result.returncode != 0
        assert "FIELD_ENCRYPTION_KEYS" in result.stderr

    def test_starts_without_secrets_only_for_development(self) -> None:
        result = manage("check", env={"DEBUG": "true"})

        assert result.returncode == 0, result.stderr


class TestEnvExample:
    def test_documents_every_setting_and_no_other(self) -> None:
        source = Path(settings.BASE_DIR, "tradehub", "settings.py").read_text()
        read = set(re.findall(r'(?:env\.\w+|_durations\.seconds)\(\s*"(\w+)"', source)) - {
            "TEST_DATABASE_NAME",
            "DOTENV",
        }
        example = Path(settings.BASE_DIR, ".env.example").read_text()
        documented = set(re.findall(r"^(?:# )?([A-Z][A-Z0-9_]+)=", example, re.MULTILINE))

        assert {name for name in documented if not name.startswith("EXCHANGE_URL_")} == read


class TestSqlite:
    """Checked on a file of its own, so that the suite on PostgreSQL checks it too."""

    @pytest.fixture
    def databases(self, tmp_path: Path, django_db_blocker: DjangoDbBlocker) -> Iterator[ConnectionHandler]:
        config = database_settings(f"sqlite:///{tmp_path / 'orders.sqlite3'}")
        impatient = config | {"OPTIONS": config["OPTIONS"] | {"timeout": 0}}
        handler = ConnectionHandler({"default": config, "other": impatient})
        with django_db_blocker.unblock():
            yield handler
            handler.close_all()

    def test_writes_ahead_and_syncs_fully(self, databases: ConnectionHandler) -> None:
        with databases["default"].cursor() as cursor:
            found = {}
            for pragma in ("journal_mode", "synchronous", "foreign_keys"):
                cursor.execute(f"PRAGMA {pragma}")
                found[pragma] = cursor.fetchone()[0]

        assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}  # 2 is FULL

    def test_takes_the_write_lock_when_a_transaction_begins(self, databases: ConnectionHandler) -> None:
        first, second = databases["default"], databases["other"]
        first.set_autocommit(False, force_begin_transaction_with_broken_autocommit=True)
        try:
            with pytest.raises(OperationalError, match="locked"):
                second.set_autocommit(False, force_begin_transaction_with_broken_autocommit=True)
        finally:
            first.rollback()

    def test_lets_a_reader_read_while_another_writes(self, databases: ConnectionHandler) -> None:
        first, second = databases["default"], databases["other"]
        with first.cursor() as cursor:
            cursor.execute("CREATE TABLE fills (id integer)")
        first.set_autocommit(False, force_begin_transaction_with_broken_autocommit=True)
        try:
            with first.cursor() as cursor:
                cursor.execute("INSERT INTO fills VALUES (1)")
            with second.cursor() as cursor:
                cursor.execute("SELECT count(*) FROM fills")
                assert cursor.fetchone() == (0,)
        finally:
            first.rollback()


class TestPostgresql:
    def test_is_opened_through_the_pool_unless_the_process_forks(self) -> None:
        url = "postgres://postgres@127.0.0.1:5432/tradehub"

        assert database_settings(url, pool_min=1, pool_max=5)["OPTIONS"]["pool"] == {
            "min_size": 1,
            "max_size": 5,
            "timeout": 3,
        }
        assert "pool" not in database_settings(url, pooled=False).get("OPTIONS", {})

    def test_keeps_plans_unless_a_pooler_cannot(self) -> None:
        url = "postgres://postgres@127.0.0.1:5432/tradehub"

        assert database_settings(url)["OPTIONS"]["prepare_threshold"] == PREPARE_FROM
        assert database_settings(url, prepare=False)["OPTIONS"]["prepare_threshold"] is None

    def test_joins_without_merging_and_keeps_what_the_address_asks_for(self) -> None:
        url = "postgres://postgres@127.0.0.1:5432/tradehub?options=-c%20statement_timeout%3D9000"

        options = database_settings(url, pooled=False)["OPTIONS"]["options"]

        assert options == f"{POSTGRESQL_SETTINGS} -c statement_timeout=9000"

    @pytest.mark.django_db
    def test_has_the_settings_in_this_very_suite(self) -> None:
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SHOW enable_mergejoin")
                assert cursor.fetchone() == ("off",)
                cursor.execute("SHOW idle_in_transaction_session_timeout")
                assert cursor.fetchone() == ("15s",)

    @pytest.mark.django_db
    def test_serves_this_very_suite_from_the_pool(self) -> None:
        if connection.vendor == "postgresql":
            assert connection.pool.get_stats()["pool_size"] >= 1  # type: ignore[attr-defined]
        else:
            assert connection.settings_dict["OPTIONS"]["transaction_mode"] == "IMMEDIATE"
