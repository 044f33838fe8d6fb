"""One way to an exchange: sign, pace, check the deadline, send, and tell honestly what is known.

The order of things in `RestClient.send` is the point of this module:

    breaker → rate limit → connection → deadline → clock, signature → the first byte

The last three happen in `LastCheckRequest.send`, after the connection was acquired and with nothing
to wait for in between: what was held up, or a process that was frozen, sends nothing late. Before
the first byte an error is NotSent; from then on only a readable reply ends the doubt, everything
else is OutcomeUnknown. No request that changes something is ever sent again behind our back.

Units: seconds; `*_ms` are milliseconds of the exchange's clock; deadlines are `time.monotonic()`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import select
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NamedTuple

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.connector import Connection
from yarl import URL

from exchanges.adapters.breaker import OPEN_SECONDS, Attempt, Breaker, BreakerNews
from exchanges.adapters.exceptions import ErrorType, ExchangeError, NotSent, OutcomeUnknown
from exchanges.adapters.limits import HostLimits, RateRules
from exchanges.adapters.secrets import Masker

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 3.0
REQUEST_SECONDS = 10.0  # from the call until the whole answer is here
BULK_SECONDS = 60.0  # exchangeInfo is megabytes
_CONNECTIONS = 500  # user streams of many accounts may share a host with orders
_KEEP_ALIVE_SECONDS = 75.0
_KEEP_WARM_SECONDS = 25.0
_DNS_SECONDS = 300
_BAN_SECONDS = {429: 30.0, 418: 120.0}  # where the exchange does not say; Binance's shortest ban is 2 min
_PEER_CLOSED = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR


class Signed(NamedTuple):
    """What a signature adds: the whole query as it goes out, and headers."""

    query: str
    headers: Mapping[str, str]


@dataclass(slots=True)
class Call:
    """One request, for a single order and a batch alike.

    `query` is percent-encoded already: what is signed is what is sent. `changes`: the exchange's state
    is different afterwards, so it must not be sent twice. `urgent`: an order or a cancel. `always`: tried
    although the host seems dead, as cancels are. `orders` is what it costs of the account's order windows,
    in the order of RateRules.order_windows.
    """

    method: str
    path: str
    query: str = ""
    signed: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    weight: int = 1
    orders: tuple[int, ...] = ()
    urgent: bool = False
    changes: bool = False
    always: bool = False
    send_by: float | None = None
    seconds: float | None = None  # None: the client's own


class Clock:
    """The exchange's time, kept by our monotonic clock so that no step of the wall clock moves it."""

    def __init__(self) -> None:
        self._ahead_ms = (time.time() - time.monotonic()) * 1000
        self.is_measured = False
        self.measured_at = 0.0
        self.lock = asyncio.Lock()

    def now_ms(self) -> int:
        return int(time.monotonic() * 1000 + self._ahead_ms)

    def set(self, server_ms: float, *, asked_at: float, answered_at: float) -> None:
        """Take the server's time as it was half-way between question and answer."""
        self._ahead_ms = server_ms - (asked_at + answered_at) * 500
        self.is_measured, self.measured_at = True, answered_at


class Host:
    """What all accounts of a process share about one base URL: session, clock, limits, breaker."""

    def __init__(
        self, base_url: str, session: aiohttp.ClientSession, limits: HostLimits, breaker: Breaker
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.session = session
        self.limits = limits
        self.breaker = breaker
        self.clock = Clock()
        self.keep_warm: asyncio.Task[None] | None = None
        self._urls: dict[str, URL] = {}

    def url(self, path: str) -> URL:
        url = self._urls.get(path)
        if url is None:
            url = self._urls[path] = URL(self.base_url + path, encoded=True)
        return url


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """A request that left, and what came of it. `seconds`: from its first byte until that was known."""

    venue: str
    method: str
    path: str
    seconds: float
    error: ExchangeError | None


class Hosts:
    """Every host of one I/O loop. One session per scheme, host and port, made once and kept alive."""

    def __init__(
        self,
        *,
        on_ban: Callable[[str, float, str], None] | None = None,
        on_breaker: Callable[[BreakerNews], None] | None = None,
        breaker_seconds: float = OPEN_SECONDS,
        on_round_trip: Callable[[RoundTrip], None] | None = None,
    ) -> None:
        self.on_round_trip = on_round_trip
        self.sessions_made: dict[str, int] = {}
        self._sessions: dict[str, aiohttp.ClientSession] = {}
        self._hosts: dict[str, Host] = {}
        self._bans: dict[str, tuple[float, str]] = {}  # of hosts that nobody has asked for yet
        self._breakers: dict[str, BreakerNews] = {}  # likewise
        self._on_ban = on_ban
        self._on_breaker = on_breaker
        self._breaker_seconds = breaker_seconds

    def session(self, url: str) -> aiohttp.ClientSession:
        """Return the one session of this URL's host. Must be called on the loop."""
        parsed = URL(url, encoded=True)
        scheme = {"ws": "http", "wss": "https"}.get(parsed.scheme, parsed.scheme)
        origin = f"{scheme}://{parsed.host}:{parsed.port}"
        if origin not in self._sessions:
            self._sessions[origin] = _new_session()
            self.sessions_made[origin] = self.sessions_made.get(origin, 0) + 1
        return self._sessions[origin]

    def host(self, base_url: str, venue: str, rules: RateRules) -> Host:
        host = self._hosts.get(base_url)
        if host is None:
            on_ban = self._on_ban

            def announce(until: float, reason: str) -> None:
                if on_ban is not None:
                    on_ban(base_url, until, reason)

            breaker = Breaker(base_url, venue, open_seconds=self._breaker_seconds, on_change=self._on_breaker)
            limits = HostLimits(venue, rules, on_ban=announce)
            host = self._hosts[base_url] = Host(base_url, self.session(base_url), limits, breaker)
            if (known := self._breakers.pop(base_url, None)) is not None:
                breaker.adopt(known)
            until, reason = self._bans.pop(base_url, (0.0, ""))
            if (seconds := until - time.monotonic()) > 0:
                host.limits.ban(seconds, reason, announce=False)
        return host

    def ban(self, base_url: str, seconds: float, reason: str) -> None:
        """Obey a ban that another process has met, also when the first call comes later."""
        if (host := self._hosts.get(base_url)) is not None:
            host.limits.ban(seconds, reason, announce=False)
        else:
            self._bans[base_url] = (time.monotonic() + seconds, reason)

    def adopt(self, news: BreakerNews) -> None:
        """Take over what another process found of a host, also when the first call comes later."""
        if (host := self._hosts.get(news.base_url)) is not None:
            host.breaker.adopt(news)
        else:
            self._breakers[news.base_url] = news

    async def close(self) -> None:
        for host in self._hosts.values():
            if host.keep_warm is not None:
                host.keep_warm.cancel()
        for session in self._sessions.values():
            await session.close()
        self._hosts.clear()
        self._sessions.clear()


def _new_session() -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(
        limit=_CONNECTIONS,
        keepalive_timeout=_KEEP_ALIVE_SECONDS,
        ttl_dns_cache=_DNS_SECONDS,
        resolver=aiohttp.ThreadedResolver(),
    )  # TCP_NODELAY is set by aiohttp on every connection
    return aiohttp.ClientSession(
        connector=connector,
        request_class=LastCheckRequest,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": "tradehub"},
        skip_auto_headers=["Content-Type"],  # a POST without a body has none
    )


class _NeverLeft(Exception):
    """The connection turned out to be closed before the first byte was written."""


class _Unreached(Exception):
    """The network or a gateway failed, not the exchange; `error` says what that means for the request."""

    def __init__(self, error: NotSent | OutcomeUnknown) -> None:
        super().__init__(error.message)
        self.error = error


class _SecondSend(Exception):
    """The HTTP library wanted to repeat a request that changes something."""


@dataclass(slots=True)
class _Departure:
    """Carries a call to the moment of sending and remembers whether that moment came."""

    call: Call
    clock: Clock
    sign: Callable[[str, int], Signed] | None
    has_left: bool = False
    left_at: float = 0.0
    answered_at: float = 0.0

    def leave(self) -> Signed:
        """Last check and signature; from here on the request counts as sent."""
        if self.has_left and self.call.changes:
            raise _SecondSend
        now = time.monotonic()
        if self.call.send_by is not None and now > self.call.send_by:
            raise TooLate
        self.has_left, self.left_at = True, now
        if self.call.urgent and self.call.changes and (hear := departures.get()) is not None:
            hear(now)
        if self.sign is None:
            return Signed(self.call.query, {})
        return self.sign(self.call.query, self.clock.now_ms())


class TooLate(Exception):
    """The deadline passed before the first byte."""


# Hears when the first byte of each order or cancel leaves that this context sends: monotonic seconds. It is
# called on the I/O loop right before that byte, so it must do next to nothing.
departures: ContextVar[Callable[[float], None] | None] = ContextVar("departures", default=None)
_departing: ContextVar[_Departure | None] = ContextVar("departing", default=None)


class LastCheckRequest(aiohttp.ClientRequest):
    """Checks the deadline, then signs, when nothing but the socket is left to come."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._departure = _departing.get()

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        departure = self._departure
        if departure is None:  # a websocket handshake
            return await super().send(conn)
        if _is_closed_by_peer(conn):
            # We were frozen or busy while the server hung up: the loop has not seen it yet.
            raise _NeverLeft
        query, headers = departure.leave()
        if headers:
            self.headers.update(headers)
        if query:
            self.url = URL(f"{self.url.raw_path}?{query}", encoded=True)
        return await super().send(conn)

    async def write_bytes(
        self, writer: AbstractStreamWriter, conn: Connection, content_length: int | None = None
    ) -> None:
        # A body is written by a task of its own, headers and all: check once more.
        call = self._departure.call if self._departure is not None else None
        if call is not None and call.send_by is not None and time.monotonic() > call.send_by:
            assert self._departure is not None
            self._departure.has_left = False
            if conn.protocol is not None:
                conn.protocol.set_exception(TooLate())
            return
        await super().write_bytes(writer, conn, content_length)


def _is_closed_by_peer(conn: Connection) -> bool:
    transport = conn.transport
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is None:
        return True
    poller = select.poll()
    poller.register(sock.fileno(), _PEER_CLOSED)
    return bool(poller.poll(0))


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
            return await self._send_once(call, attempt)
        except _Unreached as exc:
            if not isinstance(exc.error, NotSent) or _is_over(call):
                raise
        except ExchangeError as exc:
            if exc.venue_code not in self._clock_codes or not call.signed or _is_over(call):
                raise
            await self.read_clock(not_before=began_at)
        return await self._send_once(call, attempt)

    async def _send_once(self, call: Call, attempt: Attempt) -> Any:
        departure = _Departure(call, self.host.clock, self._sign if call.signed else None)
        try:
            answer = await self._converse(call, attempt, departure)
        except ExchangeError as exc:
            self._measure(departure, exc)
            raise
        except _Unreached as exc:
            self._measure(departure, exc.error)
            raise
        self._measure(departure, None)
        return answer

    def _measure(self, departure: _Departure, error: ExchangeError | None) -> None:
        hear = self._hosts().on_round_trip
        if hear is not None and departure.has_left:
            call = departure.call
            seconds = (departure.answered_at or time.monotonic()) - departure.left_at
            hear(RoundTrip(self.venue, call.method, call.path, seconds, error))

    async def _converse(self, call: Call, attempt: Attempt, departure: _Departure) -> Any:
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
        self, host: Host, call: Call, departure: _Departure
    ) -> tuple[int, Mapping[str, str], bytes]:
        timeout = self._timeout
        if call.seconds is not None:
            timeout = aiohttp.ClientTimeout(total=call.seconds, sock_connect=timeout.sock_connect)
        token = _departing.set(departure)
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
        except _NeverLeft:
            raise _Unreached(self._not_sent(call, "the kept connection was closed")) from None
        except _SecondSend:
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
            _departing.reset(token)

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

    async def _ask_time(self) -> float:
        asked_at = time.monotonic()
        body = await self._send_beside(Call("GET", self._clock_path, urgent=True, always=True))
        answered_at = time.monotonic()
        try:
            server_ms = float(body[self._clock_field])
        except (KeyError, TypeError, ValueError):
            text = self.mask(f"unreadable answer to {self._clock_path}: {body!r}")
            raise OutcomeUnknown(text, venue=self.venue, error_type=ErrorType.UNKNOWN) from None
        self.host.clock.set(server_ms, asked_at=asked_at, answered_at=answered_at)
        return answered_at - asked_at

    async def _send_beside(self, call: Call) -> Any:
        """Send once. Whoever asks beside the orders neither waits for the breaker nor opens it."""
        attempt = self.host.breaker.admit(always=True)
        try:
            return await self._send_once(call, attempt)
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
