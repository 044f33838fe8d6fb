"""The front page of the admin: the figures of /admin/api/metrics, refreshed by static/js/front.js."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.utils.translation import gettext as _

from tradehub.figures import figures


def figures_shown(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Add what the page begins with; unfold calls this. Staff alone come here."""
    return context | {"figures": figures(), "words": words()}


def words() -> dict[str, str]:
    """What the page's script says, in the reader's language."""
    return {
        "webhook_to_exchange": _("Webhook to exchange"),
        "webhook": _("Webhook to answer"),
        "exchange_to_ledger": _("Exchange to ledger"),
        "rebalance": _("Rebalance"),
        "exchange_request": _("Requests to {exchange}"),
        "accepted": _("Accepted"),
        "refused": _("Refused"),
        "put_off": _("Put off"),
        "full": _("No room at the exchange"),
        "not_sent": _("Not sent"),
        "duplicate": _("Known id"),
        "unknown": _("Outcome unknown"),
        "unwatched": _("{count} not followed by any process"),
        "reconnects": _("{count} reconnects so far"),
        "paused": _("{count} paused"),
        "in_doubt": _("{count} with unknown outcome"),
        "oldest": _("the oldest for {age}"),
        "of_known": _("{succeeded} of {known} orders"),
        "none_known": _("no orders yet"),
        "accepting": _("Accepted"),
        "killed": _("Kill switch is on"),
        "not_seen": _("not seen at work: {kinds}"),
        "stale": _("Not refreshed since {time}"),
        "no_errors": _("No failed orders and no broken streams."),
        "breaker": _("{exchange}, seen from {node}: tried again at {time}. {reason}"),
        "kind_web": _("web"),
        "kind_worker": _("worker"),
        "kind_streams": _("streams"),
    }
