"""The ASGI entry: HTTP, webhooks and websockets."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tradehub.settings")
application = get_asgi_application()
