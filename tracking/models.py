"""Who follows which account's stream, and reports that no order of ours explains yet."""

from __future__ import annotations

from django.db import models

from exchanges.models import Account, Market


class SessionStatus(models.TextChoices):
    CONNECTING = "connecting", "Connecting"
    CONNECTED = "connected", "Connected"
    DISCONNECTED = "disconnected", "Disconnected"
    ERROR = "error", "Error"


class Lease(models.Model):
    """A name that one process at a time may hold, until the database's clock says that its time is up."""

    name = models.CharField(max_length=80, unique=True)
    owner = models.CharField(max_length=64, blank=True, default="")
    expires_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"{self.name} {self.owner}"


class OrderTrackingSession(models.Model):
    """The lease on one account's user stream (per market type): one process follows it at a time."""

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="tracking_sessions")
    market_type = models.CharField(max_length=24, choices=Market.choices)
    owner = models.CharField(max_length=64, blank=True, default="")
    status = models.CharField(
        max_length=16, choices=SessionStatus.choices, default=SessionStatus.DISCONNECTED
    )
    lease_expires_at = models.DateTimeField(null=True, blank=True)
    connected_at = models.DateTimeField(null=True, blank=True)
    disconnected_at = models.DateTimeField(null=True, blank=True)
    last_ping = models.DateTimeField(null=True, blank=True)
    last_reconciled_at = models.DateTimeField(null=True, blank=True)  # when the last clean run began
    # Masked, of a run since then. The database knows the default: processes of the release before insert too.
    reconcile_error = models.CharField(max_length=500, blank=True, default="", db_default="")
    reconcile_failed_at = models.DateTimeField(null=True, blank=True)  # the first run that failed since then
    reconnect_count = models.PositiveIntegerField(default=0)
    last_error = models.CharField(max_length=500, blank=True, default="")
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["account", "market_type"], name="one_session_per_stream")
        ]

    def __str__(self) -> str:
        return f"{self.account_id} {self.market_type} {self.status}"


class UnmatchedReport(models.Model):
    """A report that named no placement of ours when it came.

    Tried again whenever a placement of its account gains an id; external once its book has no
    unresolved placement left.
    """

    class State(models.TextChoices):
        WAITING = "WAITING", "May still be ours"
        MATCHED = "MATCHED", "Belongs to a known order"
        EXTERNAL = "EXTERNAL", "Not ours"
        UNREADABLE = "UNREADABLE", "Could not be read"

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="unmatched_reports")
    market_type = models.CharField(max_length=24, choices=Market.choices)
    symbol = models.CharField(max_length=48, blank=True, default="")
    client_order_id = models.CharField(max_length=64, blank=True, default="")
    exchange_order_id = models.CharField(max_length=64, blank=True, default="")
    state = models.CharField(max_length=12, choices=State.choices, default=State.WAITING)
    report = models.JSONField(default=dict)  # the normalised report, decimals as text
    trade_ids = models.JSONField(default=list, blank=True)  # fills of an external order that were shown
    error = models.CharField(max_length=500, blank=True, default="")
    received_at = models.DateTimeField()
    is_open = models.BooleanField(default=False)  # an external order that rests, as far as we know
    wants_alert = models.BooleanField(default=False)  # of our shape and not ours: somebody has to be told

    class Meta:
        indexes = [
            models.Index(fields=["account", "state"], name="unmatched_by_account"),
            models.Index(fields=["account", "market_type", "exchange_order_id"], name="unmatched_by_order"),
            models.Index(
                fields=["account", "market_type"], name="open_externals", condition=models.Q(is_open=True)
            ),
            models.Index(
                fields=["received_at"], name="unreadable_reports", condition=models.Q(state="UNREADABLE")
            ),
            models.Index(fields=["id"], name="alerts_wanted", condition=models.Q(wants_alert=True)),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["account", "market_type", "symbol", "exchange_order_id"],
                condition=models.Q(state="EXTERNAL"),
                name="one_row_per_external_order",
            )
        ]

    def __str__(self) -> str:
        return f"{self.exchange_order_id or self.client_order_id} {self.state}"
