"""What a browser may load from us, and whose address a request has."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from csp.constants import NONE, SELF, UNSAFE_EVAL, UNSAFE_INLINE
from csp.middleware import CSPMiddleware, PolicyParts
from django.conf import settings
from django.http import HttpRequest
from django.http.response import HttpResponseBase

# Scripts and styles come from files of our own; there are none inside a page.
PAGE_POLICY: dict[str, list[str]] = {
    "default-src": [SELF],
    "script-src": [SELF],
    "style-src": [SELF],
    "img-src": [SELF, "data:"],
    "connect-src": [SELF],  # the page's own websocket too
    "font-src": [SELF],
    "object-src": [NONE],
    "base-uri": [NONE],
    "form-action": [SELF],
    "frame-ancestors": [NONE],
}
# The admin theme writes its behaviour into HTML attributes (Alpine.js compiles them with the Function
# constructor) and its colours into a <style> element. Inline scripts stay forbidden here as well.
ADMIN_POLICY = PAGE_POLICY | {
    "script-src": [SELF, UNSAFE_EVAL],
    "style-src": [SELF, UNSAFE_INLINE],
}
ADMIN_PREFIX = "/admin/"


class ContentSecurityPolicyMiddleware(CSPMiddleware):
    """Gives the admin its own policy, so that no other page has to be as loose."""

    def get_policy_parts(
        self, request: HttpRequest, response: HttpResponseBase, report_only: bool = False
    ) -> PolicyParts:
        parts = super().get_policy_parts(request, response, report_only)
        if not report_only and request.path_info.startswith(ADMIN_PREFIX):
            parts.config = ADMIN_POLICY
        return parts


def _parsed(address: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(address)
    except ValueError:
        return None


def client_address(request: HttpRequest) -> str:
    """Return the address that a request came from, as far as proxies of ours vouch for it.

    `X-Forwarded-For` is read from its right end, each proxy adding one entry; the first address that is
    not in TRUSTED_PROXIES is the sender. Whatever stands left of it the sender wrote himself.
    """
    address = _parsed(str(request.META.get("REMOTE_ADDR") or ""))
    proxies = [ip_network(proxy, strict=False) for proxy in settings.TRUSTED_PROXIES]
    hops = [_parsed(hop.strip()) for hop in request.headers.get("X-Forwarded-For", "").split(",")]
    while address and any(address in proxy for proxy in proxies) and hops and hops[-1]:
        address = hops.pop()
    return str(address or "")
