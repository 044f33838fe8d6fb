from django.urls import path, re_path

from orders.api.failed_orders import (
    FailedOrderBulk,
    FailedOrderDetail,
    FailedOrderExport,
    FailedOrderList,
    FailedOrderRetry,
    FailedOrderSchedule,
    FailedOrderStats,
)
from orders.api.resolution import ResolveOrder
from orders.api.views import WebhookDetail

FAILED = r"^failed-orders/(?P<failed_order_id>[^/]+)"

urlpatterns = [
    # An id is the sender's own text: it may hold slashes.
    re_path(r"^webhooks/(?P<webhook_id>.+?)/?$", WebhookDetail.as_view(), name="webhook-detail"),
    re_path(r"^failed-orders/?$", FailedOrderList.as_view(), name="failed-orders"),
    path("failed-orders/bulk", FailedOrderBulk.as_view(), name="failed-orders-bulk"),
    path("failed-orders/export.csv", FailedOrderExport.as_view(), name="failed-orders-export"),
    path("failed-orders/stats", FailedOrderStats.as_view(), name="failed-orders-stats"),
    re_path(rf"{FAILED}/retry/?$", FailedOrderRetry.as_view(), name="failed-order-retry"),
    re_path(rf"{FAILED}/schedule/?$", FailedOrderSchedule.as_view(), name="failed-order-schedule"),
    re_path(r"^orders/(?P<uid>[A-Za-z0-9]{1,26})/resolve/?$", ResolveOrder.as_view(), name="order-resolve"),
    re_path(rf"{FAILED}/?$", FailedOrderDetail.as_view(), name="failed-order"),
]
