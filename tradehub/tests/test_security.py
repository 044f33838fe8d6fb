from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.test import Client
from pytest_django.fixtures import Settings


def directives(header: str) -> dict[str, list[str]]:
    return {words[0]: words[1:] for part in header.split(";") if (words := part.split())}


class TestContentSecurityPolicy:
    def test_allows_no_inline_script_on_any_page(self, client: Client) -> None:
        for path in ("/healthz", "/admin/login/"):
            policy = directives(client.get(path)["Content-Security-Policy"])

            assert "'unsafe-inline'" not in policy["script-src"]
            assert policy["default-src"] == ["'self'"]
            assert policy["frame-ancestors"] == ["'none'"]

    def test_is_loose_for_the_admin_theme_only(self, client: Client) -> None:
        page = directives(client.get("/healthz")["Content-Security-Policy"])
        admin = directives(client.get("/admin/login/")["Content-Security-Policy"])

        assert (page["script-src"], page["style-src"]) == (["'self'"], ["'self'"])
        assert (admin["script-src"], admin["style-src"]) == (
            ["'self'", "'unsafe-eval'"],
            ["'self'", "'unsafe-inline'"],
        )


@pytest.mark.django_db
class TestLogin:
    def test_is_locked_after_ten_wrong_passwords_even_for_the_right_one(self, client: Client) -> None:
        User.objects.create_superuser("trader", password="right-password")
        wrong = {"username": "trader", "password": "wrong-password"}
        for _ in range(10):
            client.post("/admin/login/", wrong)

        answer = client.post("/admin/login/", wrong | {"password": "right-password"})

        assert answer.status_code == 429
        assert "_auth_user_id" not in client.session

    def test_stays_open_for_another_address(self, client: Client) -> None:
        User.objects.create_superuser("trader", password="right-password")
        for _ in range(10):
            client.post(
                "/admin/login/", {"username": "trader", "password": "wrong"}, REMOTE_ADDR="203.0.113.9"
            )

        client.post("/admin/login/", {"username": "trader", "password": "right-password"})

        assert "_auth_user_id" in client.session

    def test_counts_by_the_address_that_our_proxy_names(self, client: Client, settings: Settings) -> None:
        settings.TRUSTED_PROXIES = ["127.0.0.1"]
        User.objects.create_superuser("trader", password="right-password")
        for _ in range(10):
            client.post(
                "/admin/login/",
                {"username": "trader", "password": "wrong"},
                headers={"X-Forwarded-For": "6.6.6.6, 203.0.113.9"},
            )

        right = {"username": "trader", "password": "right-password"}
        assert (
            client.post("/admin/login/", right, headers={"X-Forwarded-For": "203.0.113.9"}).status_code == 429
        )
        assert (
            client.post("/admin/login/", right, headers={"X-Forwarded-For": "198.51.100.7"}).status_code
            == 302
        )
