from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.db import connection
from pytest_django.fixtures import Settings

from orders.models import Strategy
from orders.models.strategy import token_hashes

TOKEN = "a-token-that-tradingview-sends"


def make_strategy(token: str = TOKEN) -> Strategy:
    strategy = Strategy(user=User.objects.create(username="trader"), group_name="test1")
    strategy.set_token(token)
    strategy.save()
    return strategy


@pytest.mark.django_db
class TestStrategyToken:
    def test_proves_the_strategy(self) -> None:
        strategy = make_strategy()

        assert strategy.has_token(TOKEN) is True
        assert strategy.has_token(TOKEN + "x") is False
        assert strategy.has_token("") is False

    def test_is_nowhere_in_clear_in_the_raw_row(self) -> None:
        strategy = make_strategy()

        with connection.cursor() as cursor:
            cursor.execute("SELECT * FROM orders_strategy WHERE id = %s", [strategy.pk])
            assert TOKEN not in repr(cursor.fetchone())

    def test_stays_good_while_its_key_is_a_fallback_and_no_longer(self, settings: Settings) -> None:
        settings.SECRET_KEY = "the-old-key"
        strategy = make_strategy()

        settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "the-new-key", ["the-old-key"]
        assert strategy.has_token(TOKEN) is True

        settings.SECRET_KEY_FALLBACKS = []
        assert strategy.has_token(TOKEN) is False


class TestTokenHashes:
    def test_depend_on_the_key(self, settings: Settings) -> None:
        settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "one", ["two"]

        first, second = token_hashes(TOKEN)

        assert first != second
        assert len(first) == 64
