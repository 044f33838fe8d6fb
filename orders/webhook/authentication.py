"""Who sends this, and may they: the webhook's first query."""

from __future__ import annotations

import hmac
import ipaddress
import logging
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.core.cache import cache
from django.db import connection
from django.utils import timezone
from redis.exceptions import RedisError

from orders import prepared
from orders.models.strategy import token_hashes

logger = logging.getLogger(__name__)

TRADINGVIEW = ("52.89.214.238", "34.212.75.30", "54.218.53.128", "52.32.178.7")
RESEND_SECONDS = 30
# TradingView drops a request after 3 s and sends it again 5 s after a gateway's error: the same body,
# while the first copy is still without an answer after that time, is that resend and not a new signal.
GIVEN_UP_SECONDS = 3
FAILURES_ALLOWED = 10
FAILURES_ALLOWED_FOR_ALL = 60  # TradingView's few addresses are shared by all its users
FAILURE_WINDOW_SECONDS = 60

# One round trip: the configuration's version, the strategy of this token, every switch above it, the
# database's clock, and whether this very body was delivered before (see webhook.md, Idempotency).
_SQL = """
SELECT v.version, s.id, s.group_name, s.token_hash, s.is_active, s.kill_switch, p.kill_switch, k.engaged,
       {clock},
       (SELECT d.id FROM orders_webhookdelivery d
         WHERE d.strategy_id = s.id AND d.payload_hash = %s AND d.state = 'WORKING'
           AND d.received_at > %s AND (d.lease_expires_at < %s OR d.received_at < %s)
         ORDER BY d.received_at DESC LIMIT 1),
       CASE WHEN s.dedupe_window_seconds > 0 THEN
         (SELECT d.id FROM orders_webhookdelivery d
           WHERE d.strategy_id = s.id AND d.payload_hash = %s
           ORDER BY d.received_at DESC LIMIT 1) END
  FROM exchanges_configversion v
  LEFT JOIN orders_strategy s ON s.token_hash IN ({hashes})
  LEFT JOIN orders_userprofile p ON p.user_id = s.user_id
  LEFT JOIN orders_killswitch k ON k.id = 1
 WHERE v.id = 1
"""


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated strategy, with what its first query found."""

    strategy_id: int
    version: int
    now: datetime  # database clock
    refusal: tuple[str, str] | None  # (code, sentence) when a switch is off
    unanswered_twin_id: int | None  # the same body, still unanswered: its lease ended, or its sender gave up
    earlier_twin_id: int | None  # the same body, where the strategy has a dedupe window


def authenticate(*, token: str, group_name: str | None, payload_hash: str) -> Caller | None:
    """Return the caller, or None: unknown strategy and wrong token look and cost the same."""
    hashes = token_hashes(token)
    local_now = timezone.now()
    adapt = connection.ops.adapt_datetimefield_value
    clock = "clock_timestamp()" if connection.vendor == "postgresql" else "NULL"
    sql = _SQL.format(clock=clock, hashes=", ".join(["%s"] * len(hashes)))
    since = adapt(local_now - timedelta(seconds=RESEND_SECONDS))
    given_up = adapt(local_now - timedelta(seconds=GIVEN_UP_SECONDS))
    row = prepared.row(sql, [payload_hash, since, adapt(local_now), given_up, payload_hash, *hashes])
    version, pk, name, stored, active, killed, user_killed, engaged, now, twin, earlier = row or (
        0,
        *[None] * 10,
    )
    matches = any([hmac.compare_digest(stored or "", candidate) for candidate in hashes])
    named = group_name is None or hmac.compare_digest((name or "").encode(), group_name.encode())
    if not (matches and named):
        return None
    return Caller(
        pk, version, now or local_now, _refusal(active, killed, user_killed, engaged), twin, earlier
    )


def _refusal(
    active: bool, killed: bool, user_killed: bool | None, engaged: bool | None
) -> tuple[str, str] | None:
    if engaged or user_killed or killed:
        return "kill_switch", "The kill switch is on: no orders are accepted."
    if not active:
        return "strategy_off", "This strategy is switched off."
    return None


def sender_allowed(address: str | None) -> bool:
    """Tell whether the allowlist lets this address in; an empty list lets everyone in."""
    words = settings.WEBHOOK_ALLOWED_IPS
    if not words:
        return True
    if address is None:
        return False
    sender = ipaddress.ip_address(address)
    if isinstance(sender, ipaddress.IPv6Address) and sender.ipv4_mapped:
        sender = sender.ipv4_mapped
    for word in words:
        for network in TRADINGVIEW if word.lower() == "tradingview" else (word,):
            if sender in ipaddress.ip_network(network, strict=False):
                return True
    return False


def client_address(peer: str | None, forwarded_for: str | None) -> str | None:
    """Return the sender's address; a proxy's word counts only when the proxy is in TRUSTED_PROXIES."""
    address = peer
    hops = [hop.strip() for hop in (forwarded_for or "").split(",") if hop.strip()]
    while hops and address is not None and _is_trusted(address):
        address = hops.pop()
    try:
        return str(ipaddress.ip_address(address)) if address else None
    except ValueError:
        return None


def _is_trusted(address: str) -> bool:
    try:
        sender = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(sender in ipaddress.ip_network(proxy, strict=False) for proxy in settings.TRUSTED_PROXIES)


def too_many_failures(address: str | None, group_name: str | None) -> bool:
    """Count one more failed authentication; tell whether this address has had too many lately.

    Counted for the name it tried, and for all names together: who changes the name each time is
    stopped as well. Where the counters cannot be reached nobody is throttled.
    """
    name = (group_name or "")[:64].encode().hex()
    try:
        for_name = _count(f"webhook-failures:{address}:{name}")
        for_all = _count(f"webhook-failures:{address}")
    except (ConnectionError, OSError, RedisError):
        logger.warning("Failed authentications cannot be counted", exc_info=True)
        return False
    return for_name > FAILURES_ALLOWED or for_all > FAILURES_ALLOWED_FOR_ALL


def _count(key: str) -> int:
    cache.add(key, 0, FAILURE_WINDOW_SECONDS)
    try:
        return cache.incr(key)
    except ValueError:  # it expired in between
        cache.set(key, 1, FAILURE_WINDOW_SECONDS)
        return 1
