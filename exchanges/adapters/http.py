"""One way to an exchange: sign, pace, check the deadline, send, and tell honestly what is known.

The order of things in `RestClient.send` is the point of this module:

    breaker → rate limit → connection → deadline → clock, signature → the first byte

The last three happen in `departure.LastCheckRequest.send`, after the connection was acquired and with
nothing to wait for in between: what was held up, or a process that was frozen, sends nothing late. Before
the first byte an error is NotSent; from then on only a readable reply ends the doubt, everything
else is OutcomeUnknown. No request that changes something is ever sent again behind our back.

Units: seconds; `*_ms` are milliseconds of the exchange's clock; deadlines are `time.monotonic()`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import aiohttp

from exchanges.adapters.breaker import Attempt
from exchanges.adapters.departure import Call, Departure, NeverLeft, SecondSend, Signed, TooLate, departing
from exchanges.adapters.exceptions import ErrorType, ExchangeError, NotSent, OutcomeUnknown
from exchanges.adapters.hosts import Host, Hosts, RoundTrip
from exchanges.adapters.limits import RateRules
from exchanges.adapters.secrets import Masker

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 3.0
REQUEST_SECONDS = 10.0  # from the call until the whole answer is here
BULK_SECONDS = 60.0  # exchangeInfo is megabytes
_KEEP_WARM_SECONDS = 25.0
_BAN_SECONDS = {429: 30.0, 418: 120.0}  # where the exchange does not say; Binance's shortest ban is 2 min


class _Unreached(Exception):
    """The network or a gateway failed, not the exchange; `error` says what that means for the request."""

    def __init__(self, error: NotSent | OutcomeUnknown) -> None:
        super().__init__(error.message)
        self.error = error


class RestClient:
    """Sends the calls of one account to one base URL.

    `sign(query, timestamp_ms)` adds the signature. `judge(status, body, text, headers)` returns the
    error that a reply proves, or None for a good one. `clock_path` answers `{clock_field: ms}`.
    """

    def __init__(
        self,
        *,
        venue: str,
        base_url: str,
        hosts: Callable[[], Hosts],
        rules: RateRules,
        account: str,
        sign: Callable[[str, int], Signed],
        judge: Callable[[int, Any, str, Mapping[str, str]], ExchangeError | None],
        mask: Masker,
        clock_path: str,
        clock_field: str = "serverTime",
        clock_codes: frozenset[str] = frozenset(),
        account_limit_codes: frozenset[str] = frozenset(),
        seconds: float = REQUEST_SECONDS,
        connect_seconds: float = CONNECT_SECONDS,
    ) -> None:
        self.venue = venue
        self.base_url = base_url.rstrip("/")
        self.account = account
        self.mask = mask
        self._hosts = hosts
        self._rules = rules
        self._sign = sign
        self._judge = judge
        self._clock_path = clock_path
        self._clock_field = clock_field
        self._clock_codes = clock_codes
        self._account_limit_codes = account_limit_codes
        self._timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=connect_seconds)

    @property
    def host(self) -> Host:
        return self._hosts().host(self.base_url, self.venue, self._rules)

    async def send(self, call: Call) -> Any:
        """Send one call and return the parsed answer.

        Tried once more by itself, deadline permitting, in the two cases that prove that nothing was
        done: no connection could be made, and the exchange found our clock to be off.

        Raises: CircuitOpen while the exchange cannot be reached, NotSent, what `judge` makes of the reply,
        OutcomeUnknown for all else.
        """
        attempt = self.host.breaker.admit(always=call.always)
        try:
            return await self._send_twice(call, attempt)
        except _Unreached as exc:
            attempt.failed(exc.error.message)
            raise exc.error from None
        finally:
            attempt.abandon()  # unless it has ended by now

    async def _send_twice(self, call: Call, attempt: Attempt) -> Any:
        began_at = time.monotonic()
        try:
            return await self._send_once(self._departure(call), attempt)
        except _Unreached as exc:
            if not isinstance(exc.error, NotSent) or _is_over(call):
                raise
        except ExchangeError as exc:
            if exc.venue_code not in self._clock_codes or not call.signed or _is_over(call):
                raise
            await self.read_clock(not_before=began_at)
        return await self._send_once(self._departure(call), attempt)

    def _departure(self, call: Call) -> Departure:
        return Departure(call, self.host.clock, self._sign if call.signed else None)

    async def _send_once(self, departure: Departure, attempt: Attempt) -> Any:
        try:
            answer = await self._converse(departure.call, attempt, departure)
        except ExchangeError as exc:
            self._measure(departure, exc)
            raise
        except _Unreached as exc:
            self._measure(departure, exc.error)
            raise
        self._measure(departure, None)
        return answer

    def _measure(self, departure: Departure, error: ExchangeError | None) -> None:
        hear = self._hosts().on_round_trip
        if hear is not None and departure.has_left:
            call = departure.call
            seconds = (departure.answered_at or time.monotonic()) - departure.left_at
            hear(RoundTrip(self.venue, call.method, call.path, seconds, error))

    async def _converse(self, call: Call, attempt: Attempt, departure: Departure) -> Any:
        host = self.host
        async with host.limits.admitted(
            weight=call.weight,
            orders=call.orders,
            account=self.account,
            urgent=call.urgent,
            deadline=call.send_by,
        ):
            host.breaker.recheck(attempt, always=call.always)
            status, headers, content = await self._exchange(host, call, departure)
        departure.answered_at = time.monotonic()
        host.limits.learn(headers, account=self.account, server_seconds=host.clock.now_ms() / 1000)
        body: Any = None
        try:
            body = json.loads(content, parse_float=Decimal)
        except ValueError:
            if status < 300:
                raise OutcomeUnknown(
                    self.mask(f"unreadable answer to {call.method} {call.path}: {_text(content)}"),
                    venue=self.venue,
                    error_type=ErrorType.UNKNOWN,
                ) from None
        if status < 300 and not (isinstance(body, dict) and "code" in body):
            attempt.answered()
            return body
        error = self._judge(status, body, _text(content) if body is None else "", headers)
        if status >= 500 and isinstance(error, OutcomeUnknown):
            raise _Unreached(error)  # a gateway speaks, and nobody behind it
        attempt.answered()
        if status in _BAN_SECONDS and error is not None:
            self._obey(host, status, headers, error)
        if error is not None:
            raise error
        return body

    async def _exchange(
        self, host: Host, call: Call, departure: Departure
    ) -> tuple[int, Mapping[str, str], bytes]:
        timeout = self._timeout
        if call.seconds is not None:
            timeout = aiohttp.ClientTimeout(total=call.seconds, sock_connect=timeout.sock_connect)
        token = departing.set(departure)
        try:
            async with host.session.request(
                call.method,
                host.url(call.path),
                headers=call.headers,
                data=call.body or None,
                timeout=timeout,
                allow_redirects=False,
            ) as response:
                return response.status, response.headers, await response.read()
        except TooLate:
            raise NotSent(
                "the deadline had passed before the request could leave", venue=self.venue
            ) from None
        except NeverLeft:
            raise _Unreached(self._not_sent(call, "the kept connection was closed")) from None
        except SecondSend:
            error = self._unknown(call, "the connection was closed before an answer came")
            raise _Unreached(error) from None
        except TimeoutError as exc:
            if departure.has_left:
                error = self._unknown(call, f"no answer within {timeout.total:g} s", ErrorType.TIMEOUT)
                raise _Unreached(error) from None
            words = f"no connection in time ({type(exc).__name__})"
            raise _Unreached(self._not_sent(call, words)) from None
        except (aiohttp.ClientError, OSError) as exc:
            # `from None`: the library's own texts may carry the signed URL.
            words = f"{type(exc).__name__}: {exc}"
            make = self._unknown if departure.has_left else self._not_sent
            raise _Unreached(make(call, words)) from None
        finally:
            departing.reset(token)

    def _not_sent(self, call: Call, why: str) -> NotSent:
        text = self.mask(f"{call.method} {call.path} was not sent, network error: {why}")
        return NotSent(text, venue=self.venue, error_type=ErrorType.NETWORK_ERROR)

    def _unknown(
        self, call: Call, why: str, error_type: ErrorType = ErrorType.NETWORK_ERROR
    ) -> OutcomeUnknown:
        text = self.mask(f"{call.method} {call.path} was sent, its outcome is unknown: {why}")
        return OutcomeUnknown(text, venue=self.venue, error_type=error_type)

    def _obey(self, host: Host, status: int, headers: Mapping[str, str], error: ExchangeError) -> None:
        told = headers.get("Retry-After", "")
        seconds = float(told) if told.isdigit() else _BAN_SECONDS[status]
        if error.venue_code in self._account_limit_codes:
            host.limits.pause_account(self.account, seconds if told else 10.0)
        else:
            host.limits.ban(seconds, error.message)

    # Being ready before the first order.

    async def read_clock(self, *, not_before: float = 0.0) -> None:
        """Learn the exchange's clock, unless somebody else did since `not_before`."""
        clock = self.host.clock
        async with clock.lock:
            if clock.is_measured and clock.measured_at >= not_before:
                return
            await self._ask_time()

    async def _ask_time(self) -> None:
        call = Call("GET", self._clock_path, urgent=True, always=True)
        departure = Departure(call, self.host.clock, None)
        body = await self._send_beside(departure)
        try:
            server_ms = float(body[self._clock_field])
        except (KeyError, TypeError, ValueError):
            text = self.mask(f"unreadable answer to {self._clock_path}: {body!r}")
            raise OutcomeUnknown(text, venue=self.venue, error_type=ErrorType.UNKNOWN) from None
        # From its first byte on: what the limiter and the handshake took is no part of the way there.
        self.host.clock.set(server_ms, asked_at=departure.left_at, answered_at=departure.answered_at)

    async def _send_beside(self, departure: Departure) -> Any:
        """Send once. Whoever asks beside the orders neither waits for the breaker nor opens it."""
        attempt = self.host.breaker.admit(always=True)
        try:
            return await self._send_once(departure, attempt)
        except _Unreached as exc:
            raise exc.error from None

    async def warm_up(self, connections: int) -> None:
        """Open so many connections side by side, learn the clock, and keep both fresh from now on."""
        host = self.host
        await self._touch(connections)
        if host.keep_warm is None or host.keep_warm.done():
            host.keep_warm = asyncio.get_running_loop().create_task(self._keep_warm(connections))

    async def _touch(self, connections: int) -> None:
        results = await asyncio.gather(
            *(self._ask_time() for _ in range(connections)), return_exceptions=True
        )
        errors = [result for result in results if isinstance(result, BaseException)]
        if len(errors) == len(results):
            raise errors[0]
        # Side by side they wait for each other's handshakes; one alone gives the better clock.
        await self._ask_time()

    async def _keep_warm(self, connections: int) -> None:
        while True:
            await asyncio.sleep(_KEEP_WARM_SECONDS)
            try:
                await self._touch(connections)
            except ExchangeError as exc:
                logger.info("Could not keep the connections to %s warm: %s", self.base_url, exc)


def _is_over(call: Call) -> bool:
    return call.send_by is not None and time.monotonic() > call.send_by


def _text(content: bytes) -> str:
    return content[:2000].decode("utf-8", "replace")
