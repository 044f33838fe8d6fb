from __future__ import annotations

from typing import Any

from channels.security.websocket import WebsocketDenier
from django.urls import path, re_path

from tracking.consumers import PositionsConsumer

# Django's stubs know views only, Channels routes ASGI applications the same way.
_positions: Any = PositionsConsumer.as_asgi()
_nowhere: Any = WebsocketDenier.as_asgi()

websocket_urlpatterns: list[Any] = [
    path("ws/positions/", _positions),
    re_path(r"", _nowhere),  # any other address: refused, not an error of ours
]
