"""What scripts and pages may ask over HTTP. Reads only its owner's rows; staff reads everybody's."""

from __future__ import annotations

from django.http import Http404
from rest_framework.generics import RetrieveAPIView

from orders.api.serializers import DeliverySerializer
from orders.models import WebhookDelivery


class WebhookDetail(RetrieveAPIView[WebhookDelivery]):
    """`GET /api/webhooks/<webhook_id>`: what became of a webhook, also after a 408.

    An id is unique per strategy; where several of a person's strategies have used it, `?strategy=`
    (the group name) tells which is meant, else it is the latest. What is somebody else's does not exist.
    """

    serializer_class = DeliverySerializer

    def get_object(self) -> WebhookDelivery:
        user = self.request.user
        found = WebhookDelivery.objects.select_related("strategy").filter(
            webhook_id=self.kwargs["webhook_id"]
        )
        if not user.is_staff:
            assert user.pk is not None  # nobody comes here without a login
            found = found.filter(strategy__user_id=user.pk)
        if group_name := self.request.query_params.get("strategy"):
            found = found.filter(strategy__group_name=group_name)
        delivery = found.order_by("-received_at", "-pk").first()
        if delivery is None:
            raise Http404
        return delivery
