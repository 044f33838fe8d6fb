"""`POST /admin/system/order-tracking/sync-orders`: compare one account with its exchange now."""

from __future__ import annotations

import time
from typing import Any

from django.contrib.admin.models import CHANGE, LogEntry
from rest_framework import serializers
from rest_framework.permissions import IsAdminUser
from rest_framework.request import Request
from rest_framework.response import Response

from exchanges.models import Account
from orders.api.answers import AnswersInOneShape, refusal
from orders.api.failed_serializers import LARGEST_ID, StrictSerializer
from orders.api.parsers import AnyJson
from tracking.on_demand import NothingToCompare, SyncBusy, orders_sync


class WholeNumberField(serializers.IntegerField):
    """A number that was written as one: "1", 1.0 and true are none."""

    def to_internal_value(self, data: Any) -> int:
        if type(data) is not int:
            raise serializers.ValidationError("must be a whole number, such as 1")
        number: int = super().to_internal_value(data)
        return number


class SyncSerializer(StrictSerializer):
    account_id = WholeNumberField(min_value=1, max_value=LARGEST_ID)


class SyncOrders(AnswersInOneShape):
    permission_classes = [IsAdminUser]
    parser_classes = [AnyJson]

    def post(self, request: Request) -> Response:
        body = SyncSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        account_id = body.validated_data["account_id"]
        account = Account.objects.filter(pk=account_id).first()
        if account is None:
            return refusal(404, "not_found", f"There is no account {account_id}")
        began = time.monotonic()
        try:
            markets = orders_sync(account=account, by=request.user.get_username())
        except SyncBusy as exc:
            return refusal(409, "busy", str(exc))
        except NothingToCompare as exc:
            return refusal(400, "no_market", str(exc))
        LogEntry.objects.log_actions(
            str(request.user.pk), [account], CHANGE, change_message="Reconciled on demand", single_object=True
        )
        return Response(
            {
                "success": all(market.success for market in markets),
                "account_id": account.pk,
                "account": account.name,
                "duration_ms": round((time.monotonic() - began) * 1000),
                "markets": [market.as_json() for market in markets],
            }
        )
