from __future__ import annotations

import json
from collections import Counter
from decimal import Decimal

import pytest

from bench.latency import _takes_part
from bench.scenarios import ACCOUNTS, LEVELS, LIMIT, LIMIT_30, LIMIT_60, MARKET, SCENARIOS, Scenario


class TestWebhook:
    @pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.key)
    def test_asks_for_what_the_clients_send(self, scenario: Scenario) -> None:
        payload = json.loads(scenario.webhook(3, token="t"))
        asked = payload.get("orders", [payload])
        sent = [order for order in scenario.round_orders(3) if order.account == 0]

        assert [(one["symbol"], one["order_type"], one["side"].upper()) for one in asked] == [
            (one.symbol, one.kind, one.side) for one in sent
        ]
        if scenario.kind == "LIMIT":
            assert [Decimal(one["price"]) for one in asked] == [one.price for one in sent]

    def test_of_one_order_is_not_a_batch(self) -> None:
        assert "orders" not in json.loads(LIMIT.webhook(0, token="t"))


class TestRoundOrders:
    def test_spread_over_symbols_and_accounts(self) -> None:
        orders = LIMIT_60.round_orders(0)

        assert Counter((one.account, one.symbol) for one in orders) == {
            (account, symbol): 10 for account in (0, 1) for symbol in LEVELS
        }
        assert (LIMIT_60.total, LIMIT_60.books) == (60, 6)

    def test_sell_with_an_account_what_it_bought(self) -> None:
        sides = [MARKET.round_orders(number)[0].side for number in (0, ACCOUNTS, 2 * ACCOUNTS)]

        assert sides == ["BUY", "SELL", "BUY"]


class TestStrategy:
    def test_takes_turns_at_the_accounts(self) -> None:
        assert len({LIMIT_30.strategy(number) for number in range(LIMIT_30.turns)}) == ACCOUNTS
        assert LIMIT_60.turns == ACCOUNTS // 2


class TestTakesPart:
    @pytest.mark.parametrize(("share", "times"), [(1.0, 40), (0.5, 20), (0.25, 10), (0.2, 8)])
    def test_spreads_a_share_over_the_rounds(self, share: float, times: int) -> None:
        rounds = [number for number in range(40) if _takes_part(share, number)]

        assert len(rounds) in (times, times + 1)
        assert rounds[0] == 0
        assert rounds[-1] >= 40 - 1 / share
