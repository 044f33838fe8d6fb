"""The ASGI entry: webhooks in front of Django, pages through it, and their websockets."""

import os

from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.urls import re_path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tradehub.settings")
django_application = get_asgi_application()

# After Django is set up: these import models.
from orders.services import warmup  # noqa: E402
from orders.webhook.views import webhook  # noqa: E402
from tracking.routing import websocket_urlpatterns  # noqa: E402
from tradehub import draining, processes  # noqa: E402
from tradehub.models import ProcessKind  # noqa: E402

if not settings.TESTING:  # a test that imports this module has no database to warm
    warmup.start()
    processes.start(ProcessKind.WEB)
    draining.prepare()

application = ProtocolTypeRouter(
    {
        "http": URLRouter(
            [
                re_path(r"^api/webhook/?$", webhook),  # type: ignore[arg-type, list-item]
                re_path(r"", django_application),  # type: ignore[arg-type, list-item]
            ]
        ),
        # A browser sends our cookies to a socket whatever page opens it: the origin tells which are ours.
        "websocket": AllowedHostsOriginValidator(AuthMiddlewareStack(URLRouter(websocket_urlpatterns))),
    }
)
