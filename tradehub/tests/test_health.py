from __future__ import annotations

import pytest
from django.db import OperationalError
from django.test import Client

from tradehub import health


class TestHealthz:
    def test_answers_without_a_database(self, client: Client) -> None:
        assert client.get("/healthz").json() == {"status": "ok"}


@pytest.mark.django_db
class TestReadyz:
    def test_names_everything_it_looked_at(self, client: Client) -> None:
        answer = client.get("/readyz")

        assert (answer.status_code, answer.json()) == (
            200,
            {"status": "ok", "checks": {"database": "ok", "migrations": "ok", "channel_layer": "ok"}},
        )

    def test_answers_503_and_names_what_is_missing(
        self, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails() -> str:
            raise OperationalError("connection refused at 10.0.0.1 for user secret")

        monkeypatch.setitem(health.CHECKS, "database", fails)

        answer = client.get("/readyz")

        assert (answer.status_code, answer.json()["checks"]["database"]) == (503, "OperationalError")
