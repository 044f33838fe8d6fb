"""Whose address a login has."""

from __future__ import annotations

from django.http import HttpRequest

from orders.webhook.authentication import client_address


def login_address(request: HttpRequest) -> str:
    """Return what django-axes counts failures by: the sender, as far as our proxies vouch for it."""
    forwarded_for = request.headers.get("X-Forwarded-For")
    return client_address(request.META.get("REMOTE_ADDR"), forwarded_for) or "0.0.0.0"
