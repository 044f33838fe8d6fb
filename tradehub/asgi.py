"""The ASGI entry: HTTP, webhooks and websockets."""

import os

from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tradehub.settings")
http = get_asgi_application()  # sets Django up, so it comes before what imports models

from tracking.routing import websocket_urlpatterns  # noqa: E402

# The browser sends its cookies to a socket whatever page opens it: the origin is what tells ours.
websocket = AllowedHostsOriginValidator(AuthMiddlewareStack(URLRouter(websocket_urlpatterns)))

application = ProtocolTypeRouter({"http": http, "websocket": websocket})
