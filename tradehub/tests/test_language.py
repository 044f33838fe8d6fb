from __future__ import annotations

import re
from pathlib import Path

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client

from orders.models import UserProfile


@pytest.fixture
def trader(db: None, client: Client) -> User:
    user = User.objects.create_user("trader", password="correct horse battery")
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return user


def language_of(client: Client, path: str = "/positions", accept: str = "") -> str:
    return client.get(path, headers={"accept-language": accept}).headers["Content-Language"]


class TestProfileLanguageMiddleware:
    def test_asks_the_browser_of_a_stranger(self, db: None, client: Client) -> None:
        assert language_of(client, "/login/", accept="ko-KR,ko;q=0.9") == "ko"

    def test_asks_the_browser_of_a_person_without_a_profile(self, trader: User, client: Client) -> None:
        assert language_of(client, accept="ko") == "ko"

    def test_speaks_the_language_of_the_profile(self, trader: User, client: Client) -> None:
        UserProfile.objects.create(user=trader, language="ko")

        assert language_of(client, accept="en") == "ko"


@pytest.mark.django_db
class TestLanguageChoose:
    def test_is_kept_in_the_profile(self, trader: User, client: Client) -> None:
        answer = client.post("/language/", {"language": "ko", "next": "/positions?x=1"})

        assert (answer.status_code, answer["Location"]) == (302, "/positions?x=1")
        assert UserProfile.objects.get().language == "ko"
        assert language_of(client, accept="en") == "ko"
        assert "포지션" in client.get("/positions").content.decode()

    def test_is_kept_in_a_strangers_browser(self, client: Client) -> None:
        client.post("/language/", {"language": "ko"})

        assert language_of(client, "/login/", accept="en") == "ko"

    def test_takes_no_language_that_we_do_not_speak(self, trader: User, client: Client) -> None:
        client.post("/language/", {"language": "xx"})

        assert UserProfile.objects.exists() is False

    def test_does_not_send_anybody_elsewhere(self, client: Client) -> None:
        answer = client.post("/language/", {"language": "ko", "next": "https://evil.example/"})

        assert answer["Location"] == "/"

    def test_wants_a_csrf_token(self) -> None:
        assert Client(enforce_csrf_checks=True).post("/language/", {"language": "ko"}).status_code == 403


class TestKorean:
    def test_has_a_word_for_everything(self) -> None:
        catalog = Path(settings.LOCALE_PATHS[0], "ko/LC_MESSAGES/django.po").read_text()
        _, _, entries = catalog.partition("\n\n")

        assert re.findall(r'msgid (".*")\nmsgstr ""\n(?!")', entries) == []
        assert entries.count("msgid ") > 100


class TestLogin:
    def test_opens_the_live_page(self, db: None, client: Client) -> None:
        User.objects.create_user("trader", password="correct horse battery")

        answer = client.post("/login/", {"username": "trader", "password": "correct horse battery"})

        assert (answer.status_code, answer["Location"]) == (302, "/positions")

    def test_says_when_the_password_is_wrong(self, db: None, client: Client) -> None:
        User.objects.create_user("trader", password="correct horse battery")

        answer = client.post("/login/", {"username": "trader", "password": "wrong"})

        assert 'role="alert"' in answer.content.decode()
        assert client.get("/positions").status_code == 302

    def test_is_locked_after_ten_wrong_passwords(self, db: None, client: Client) -> None:
        for _ in range(10):
            answer = client.post("/login/", {"username": "trader", "password": "wrong"})

        assert answer.status_code == 429
        assert "Too many attempts" in answer.content.decode()
