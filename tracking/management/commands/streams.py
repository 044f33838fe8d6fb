"""`manage.py streams`: follow the accounts' user streams."""

from __future__ import annotations

import asyncio
from typing import Any

from django.core.management.base import BaseCommand

from tracking.streams import serve


class Command(BaseCommand):
    help = "Follow every account's orders until stopped. Run two or more: they share the accounts out."

    def handle(self, *args: Any, **options: Any) -> None:
        asyncio.run(serve())
