from django.urls import re_path

from orders.api.views import WebhookDetail

urlpatterns = [
    # An id is the sender's own text: it may hold slashes.
    re_path(r"^webhooks/(?P<webhook_id>.+?)/?$", WebhookDetail.as_view(), name="webhook-detail"),
]
