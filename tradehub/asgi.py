"""The ASGI entry: webhooks in front of Django, pages through it."""

import os

from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import re_path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tradehub.settings")
django_application = get_asgi_application()

# After Django is set up: these import models.
from orders.webhook.views import webhook  # noqa: E402

application = ProtocolTypeRouter(
    {
        "http": URLRouter(
            [
                re_path(r"^api/webhook/?$", webhook),  # type: ignore[list-item]
                re_path(r"", django_application),  # type: ignore[list-item]
            ]
        ),
    }
)
