from __future__ import annotations

import json
from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator

from exchanges import access
from orders.tests.factories import LIMIT, TOKEN, Exchanges, make_follower
from tradehub.asgi import application

Communicator: Any = ApplicationCommunicator  # it has no types


@pytest.mark.django_db(transaction=True)
class TestWebhookRoute:
    @pytest.fixture(autouse=True)
    def _follower(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(access, "exchange_for", Exchanges())
        make_follower()

    @pytest.mark.parametrize(
        ("path", "status"),
        [("/api/webhook", 200), ("/api/webhook/", 200), ("/api/webhooks", 404), ("/api/webhook/x", 404)],
    )
    async def test_leads_to_the_webhook_and_nowhere_else(self, path: str, status: int) -> None:
        communicator = Communicator(
            application,
            {
                "type": "http",
                "method": "POST",
                "path": path,
                "query_string": b"",
                "headers": [(b"host", b"localhost")],
                "client": ("127.0.0.1", 40000),
                "server": ("127.0.0.1", 8000),
            },
        )
        body = json.dumps(LIMIT | {"token": TOKEN}).encode()
        await communicator.send_input({"type": "http.request", "body": body})

        assert (await communicator.receive_output(20))["status"] == status
