from __future__ import annotations

from rest_framework import serializers

from orders.models import WebhookDelivery


class DeliverySerializer(serializers.ModelSerializer[WebhookDelivery]):
    """A webhook for its owner: `status` and `answer` are null until the final answer is recorded.

    `timed_out`: the sender got a 408 while the work went on. `timings`: milliseconds since the arrival.
    """

    strategy = serializers.CharField(source="strategy.group_name", default=None)
    status = serializers.IntegerField(source="response_status")
    answer = serializers.JSONField(source="response")

    class Meta:
        model = WebhookDelivery
        fields = (
            "webhook_id",
            "strategy",
            "state",
            "status",
            "answer",
            "timed_out",
            "received_at",
            "started_at",
            "answered_at",
            "timings",
        )
