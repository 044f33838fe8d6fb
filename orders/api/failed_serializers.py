"""The shapes of the failed orders' API: what may be asked, how rows are told."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from django.utils import timezone
from rest_framework import serializers

from exchanges.adapters.exceptions import ErrorType
from exchanges.fields import plain
from orders.listing import RESOLVING
from orders.models import FailedStatus
from orders.services.failed_orders import BULK_MOST, BulkAction
from orders.services.retries import MAX_RETRIES

LARGEST_ID = 2**63 - 1
NAIVE = (
    "say which time zone it is in, as in 2026-07-21T12:00:00Z or 2026-07-21T21:00:00+09:00"
    " (in an address a + is written %2B)"
)
DECIMALS = ("quantity", "price", "stop_price")
TIMES = ("created_at", "updated_at", "next_retry_at")


class AwareTimeField(serializers.DateTimeField):
    """An ISO 8601 time that says which zone it is in."""

    def enforce_timezone(self, value: datetime) -> datetime:
        if timezone.is_naive(value):
            raise serializers.ValidationError(NAIVE)
        try:
            return value.astimezone(UTC)
        except OverflowError as exc:
            raise serializers.ValidationError("no such time") from exc


class StrictSerializer(serializers.Serializer[Any]):
    """Names what it does not know, and every fault at once."""

    def to_internal_value(self, data: Any) -> Any:
        faults: dict[str, Any] = {}
        if hasattr(data, "getlist"):
            faults = {name: ["given more than once"] for name in data if len(data.getlist(name)) > 1}
        if hasattr(data, "keys"):
            faults |= {name: ["there is no such parameter"] for name in data if name not in self.fields}
        try:
            value = super().to_internal_value(data)
        except serializers.ValidationError as exc:
            detail: Any = exc.detail  # a dictionary: it comes from a serializer
            raise serializers.ValidationError(detail | faults) from exc
        if faults:
            raise serializers.ValidationError(faults)
        return value


class FilterSerializer(StrictSerializer):
    strategy_account_id = serializers.IntegerField(min_value=1, max_value=LARGEST_ID, required=False)
    symbol = serializers.CharField(max_length=48, required=False)
    status = serializers.ChoiceField(choices=[*FailedStatus.values, RESOLVING], required=False)
    error_type = serializers.ChoiceField(choices=[kind.value for kind in ErrorType], required=False)
    created_after = AwareTimeField(required=False)
    created_before = AwareTimeField(required=False)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        after, before = attrs.get("created_after"), attrs.get("created_before")
        if after and before and after >= before:
            raise serializers.ValidationError({"created_before": "it is not after created_after"})
        return attrs


class PageSerializer(FilterSerializer):
    page = serializers.IntegerField(min_value=1, max_value=1_000_000, default=1)


class StatsSerializer(StrictSerializer):
    days = serializers.IntegerField(min_value=1, max_value=365, default=30)


class StrictIntegerField(serializers.IntegerField):
    """A JSON integer: no text that looks like one, no true."""

    def to_internal_value(self, data: Any) -> int:
        if type(data) is not int:
            self.fail("invalid")
        return super().to_internal_value(data)


class BulkSerializer(StrictSerializer):
    action = serializers.ChoiceField(choices=[action.value for action in BulkAction])
    ids = serializers.ListField(
        child=StrictIntegerField(min_value=1, max_value=LARGEST_ID), allow_empty=False, max_length=BULK_MOST
    )


class ScheduleSerializer(StrictSerializer):
    at = AwareTimeField(allow_null=True)


def as_json(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of `failed_selectors` as it is told: numbers as text, times in UTC."""
    told = dict(row)
    for name in DECIMALS:
        told[name] = None if row[name] is None else plain(row[name])
    for name in TIMES:
        told[name] = None if row[name] is None else iso(row[name])
    return told | {"max_retries": MAX_RETRIES}


def iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
