"""What all accounts of a process share about each base URL: session, clock, limits, breaker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp
from yarl import URL

from exchanges.adapters.breaker import OPEN_SECONDS, Breaker, BreakerNews
from exchanges.adapters.departure import Clock, LastCheckRequest
from exchanges.adapters.exceptions import ExchangeError
from exchanges.adapters.limits import HostLimits, RateRules

_CONNECTIONS = 500  # user streams of many accounts may share a host with orders
_KEEP_ALIVE_SECONDS = 75.0
_DNS_SECONDS = 300


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
