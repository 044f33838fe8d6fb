"""Whether a host is worth a request: three network-like failures in a row, and it is left alone for a while.

A dead exchange answers nobody, and every request to it costs a time-out that others wait behind. So the
breaker opens, and what is asked meanwhile is refused at once with `CircuitOpen`: surely not sent. After
`open_seconds` one request may try. Answered, it lets two side by side through, then three, and then it is
closed; failed, it is open again. Any answer counts as one, a refusal too: who refuses can be reached.

Cancels are always tried (`always`): they take risk away, and one time-out is all they can cost.

Units: seconds; moments are `time.monotonic()` unless a name says otherwise. Lives on the I/O loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from exchanges.adapters.exceptions import CircuitOpen

FAILURES_TO_OPEN = 3
ANSWERS_TO_CLOSE = 3
OPEN_SECONDS = 30.0
# Thirty requests that one cut ends in the same instant are one failure, not thirty.
SAME_EVENT_SECONDS = 1.0
AHEAD_SECONDS = 5.0  # news from further ahead was written before the wall clock was set back


class BreakerState(StrEnum):
    CLOSED = "CLOSED"
    OPEN = "OPEN"
    HALF_OPEN = "HALF_OPEN"


@dataclass(frozen=True, slots=True)
class BreakerNews:
    """A breaker as it stands after a change. Moments in epoch seconds, by this machine's wall clock."""

    base_url: str
    venue: str
    state: BreakerState
    failures: int
    changed_at: float
    opened_at: float | None  # None: it is closed
    retry_at: float | None
    reason: str


def is_ahead(changed_at: float) -> bool:
    """Tell whether news is dated so far ahead that its times mean nothing any more. Epoch seconds."""
    return changed_at > time.time() + AHEAD_SECONDS


class Attempt:
    """One request on its way past the breaker; it ends once, one way or the other."""

    __slots__ = ("_breaker", "_is_over", "began_at", "is_try")

    def __init__(self, breaker: Breaker, *, is_try: bool) -> None:
        self._breaker = breaker
        self._is_over = False
        self.is_try = is_try
        self.began_at = time.monotonic()

    def answered(self) -> None:
        """The host has answered, whatever it said."""
        if self._end():
            self._breaker.answered()

    def failed(self, reason: str) -> None:
        """The host could not be reached, or has not answered."""
        if self._end():
            self._breaker.failed(self.began_at, reason)

    def abandon(self) -> None:
        """Nothing was learned: it was held back, or nobody waited for the answer."""
        self._end()

    def _end(self) -> bool:
        if self._is_over:
            return False
        self._is_over = True
        if self.is_try:
            self._breaker.try_ended()
        return True


class Breaker:
    """The breaker of one host in this process."""

    def __init__(
        self,
        base_url: str,
        venue: str,
        *,
        open_seconds: float = OPEN_SECONDS,
        on_change: Callable[[BreakerNews], None] | None = None,
    ) -> None:
        self.base_url, self.venue = base_url, venue
        self.state = BreakerState.CLOSED
        self._open_seconds = open_seconds
        self._on_change = on_change
        self._failures = 0
        self._answers = 0  # since it was open
        self._trying = 0
        self._retry_at = 0.0
        self._last_failure_at = float("-inf")
        self._reason = ""
        self._answered_at = 0.0  # epoch
        self._opened_at: float | None = None  # epoch
        self._changed_at = 0.0  # epoch

    def admit(self, *, always: bool = False) -> Attempt:
        """Let a request pass. Raises CircuitOpen where it would only meet a dead host."""
        if self.state is BreakerState.CLOSED or always:
            return Attempt(self, is_try=False)
        waits = self._retry_at - time.monotonic()
        if self.state is BreakerState.OPEN and waits > 0:
            raise self._refusal(f"the next try is in {waits:.0f} s", retry_after=waits)
        if self._trying > self._answers:
            raise self._refusal("it is being tried just now")
        self._trying += 1
        return Attempt(self, is_try=True)

    def recheck(self, attempt: Attempt, *, always: bool = False) -> None:
        """Look again after a wait: it may have opened since. Raises CircuitOpen."""
        if self.state is BreakerState.OPEN and not attempt.is_try and not always:
            raise self._refusal("it went silent while the request waited its turn")

    def _refusal(self, when: str, *, retry_after: float = 0.0) -> CircuitOpen:
        return CircuitOpen(
            f"not sent: {self.venue} cannot be reached, {when} ({self._reason})",
            venue=self.venue,
            retry_after=retry_after,
        )

    # What requests tell.

    def answered(self) -> None:
        self._failures = 0
        self._answered_at = time.time()
        if self.state is BreakerState.CLOSED:
            return
        self._answers += 1
        if self._answers >= ANSWERS_TO_CLOSE:
            self._become(BreakerState.CLOSED)
        elif self.state is BreakerState.OPEN:
            self._become(BreakerState.HALF_OPEN)

    def failed(self, began_at: float, reason: str) -> None:
        now = time.monotonic()
        if began_at < self._last_failure_at and now - self._last_failure_at < SAME_EVENT_SECONDS:
            return
        self._last_failure_at = now
        self._failures += 1
        self._reason = reason
        if self.state is BreakerState.CLOSED and self._failures < FAILURES_TO_OPEN:
            return
        if self.state is BreakerState.OPEN and now < self._retry_at:
            return  # a request that left before it opened, or a cancel: nothing new
        self._retry_at = now + self._open_seconds
        self._become(BreakerState.OPEN)

    def try_ended(self) -> None:
        self._trying -= 1

    def _become(self, state: BreakerState) -> None:
        was, self.state = self.state, state
        self._changed_at = time.time()
        if state is not BreakerState.HALF_OPEN:
            self._answers = 0
        if state is BreakerState.CLOSED:
            self._failures, self._opened_at = 0, None
        elif was is BreakerState.CLOSED:
            self._opened_at = self._changed_at
        if self._on_change is not None:
            self._on_change(self.news())

    # What other processes of this machine tell.

    def adopt(self, news: BreakerNews) -> None:
        """Take over what another process found. What we saw ourselves since then is the better knowledge."""
        if news.changed_at <= self._changed_at or is_ahead(news.changed_at):
            return
        if news.state is BreakerState.CLOSED:
            if self.state is not BreakerState.CLOSED:
                self.state, self._answers, self._failures, self._opened_at = news.state, 0, 0, None
                self._changed_at = news.changed_at
        elif news.state is BreakerState.OPEN and self._answered_at < news.changed_at:
            self.state, self._answers, self._reason = news.state, 0, news.reason
            self._opened_at, self._changed_at = news.opened_at, news.changed_at
            self._retry_at = time.monotonic() + ((news.retry_at or 0.0) - time.time())

    def news(self) -> BreakerNews:
        is_open = self.state is not BreakerState.CLOSED
        return BreakerNews(
            base_url=self.base_url,
            venue=self.venue,
            state=self.state,
            failures=self._failures,
            changed_at=self._changed_at,
            opened_at=self._opened_at,
            retry_at=time.time() + self._retry_at - time.monotonic() if is_open else None,
            reason=self._reason if is_open else "",
        )
