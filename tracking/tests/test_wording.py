from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest

from exchanges.adapters.breaker import BreakerState
from exchanges.adapters.exceptions import ErrorType
from exchanges.models import Market
from orders.listing import RESOLVING
from orders.models import EventSource, EventType, FailedStatus
from orders.models.intent import OrderTypeChoice, SideChoice
from orders.services.resolution import ResolutionCode
from orders.services.retries import Code
from orders.states import OrderStatus
from tracking import live, wording
from tracking.models import SessionStatus
from tracking.selectors import StreamState


class TestWords:
    @pytest.mark.parametrize(
        ("words", "values"),
        [
            (wording.SIDES, SideChoice),
            (wording.ORDER_TYPES, OrderTypeChoice),
            (wording.MARKETS, Market),
            (wording.ORDER_STATUSES, OrderStatus),
            (wording.FAILED_STATUSES, [RESOLVING, *FailedStatus]),
            (wording.ERROR_TYPES, ErrorType),
            (wording.EVENTS, EventType),
            (wording.SOURCES, EventSource),
            (wording.SESSIONS, SessionStatus),
            (wording.BREAKERS, BreakerState),
            (wording.STREAMS, StreamState),
            (wording.REFUSALS, [*Code, *ResolutionCode]),
            (live.AFFECTED, EventType),
        ],
    )
    def test_exist_for_every_stored_value(self, words: Mapping[str, object], values: Iterable[str]) -> None:
        assert set(words) == set(values)
