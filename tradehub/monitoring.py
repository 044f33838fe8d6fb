"""Who may see the figures: a scraper with the token, and staff."""

from __future__ import annotations

from hmac import compare_digest

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from tradehub.exposition import CONTENT_TYPE, exposition
from tradehub.figures import figures

BEARER = "Bearer "


@never_cache
@require_GET
def metrics(request: HttpRequest) -> HttpResponse:
    """Answer a Prometheus scrape that shows METRICS_TOKEN; without such a setting there is no such page."""
    if not settings.METRICS_TOKEN:
        raise Http404
    shown = request.headers.get("Authorization", "")
    token = shown[len(BEARER) :] if shown.startswith(BEARER) else ""
    if not compare_digest(token.encode(), settings.METRICS_TOKEN.encode()):
        return HttpResponse(
            "The token is missing or wrong.\n",
            status=401,
            content_type="text/plain",
            headers={"WWW-Authenticate": "Bearer"},
        )
    return HttpResponse(exposition(), content_type=CONTENT_TYPE)


@never_cache
@require_GET
def admin_metrics(request: HttpRequest) -> JsonResponse:
    """Answer staff with all figures as JSON."""
    if not (request.user.is_active and request.user.is_staff):
        refusal = {"success": False, "error": _("Only staff may see this."), "code": "staff_only"}
        return JsonResponse(refusal, status=403)
    return JsonResponse(figures())
