from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.test import Client, RequestFactory
from pytest_django.fixtures import Settings

from tradehub.security import client_address


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


class TestClientAddress:
    @pytest.mark.parametrize(
        ("proxies", "remote", "forwarded", "expected"),
        [
            ([], "203.0.113.9", "198.51.100.7", "203.0.113.9"),  # nobody to be believed
            (["10.0.0.0/8"], "10.0.0.1", "198.51.100.7", "198.51.100.7"),
            (["10.0.0.0/8"], "10.0.0.1", "6.6.6.6, 198.51.100.7", "198.51.100.7"),  # the left one is forged
            (["10.0.0.0/8"], "10.0.0.1", "198.51.100.7, 10.0.0.2", "198.51.100.7"),  # two proxies
            (["10.0.0.0/8"], "203.0.113.9", "198.51.100.7", "203.0.113.9"),  # came round the proxy
            (["10.0.0.0/8"], "10.0.0.1", "", "10.0.0.1"),
            (["10.0.0.0/8"], "10.0.0.1", "<script>", "10.0.0.1"),
            (["::1"], "::1", "2001:db8::7", "2001:db8::7"),
        ],
    )
    def test_believes_only_our_proxies(
        self,
        rf: RequestFactory,
        settings: Settings,
        proxies: list[str],
        remote: str,
        forwarded: str,
        expected: str,
    ) -> None:
        settings.TRUSTED_PROXIES = proxies
        request = rf.get("/", REMOTE_ADDR=remote, HTTP_X_FORWARDED_FOR=forwarded)

        assert client_address(request) == expected


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
