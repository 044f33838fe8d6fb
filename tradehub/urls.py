from django.contrib import admin
from django.contrib.auth.views import LoginView, LogoutView
from django.urls import include, path, re_path
from django.views.generic import RedirectView

from tracking.api import SyncOrders
from tracking.views import PositionsView
from tradehub import health, monitoring
from tradehub.language import language_choose

login = LoginView.as_view(template_name="login.html", redirect_authenticated_user=True)

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="positions")),
    re_path(r"^positions/?$", PositionsView.as_view(), name="positions"),
    path("login/", login, name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("language/", language_choose, name="language"),
    path("healthz", health.healthz, name="healthz"),
    path("readyz", health.readyz, name="readyz"),
    path("metrics", monitoring.metrics, name="metrics"),
    path("admin/api/metrics", monitoring.admin_metrics, name="admin-metrics"),
    path("api/", include("orders.api.urls")),
    re_path(r"^admin/system/order-tracking/sync-orders/?$", SyncOrders.as_view(), name="sync-orders"),
    path("admin/", admin.site.urls),
]
