"""tracking's `manage.py streams`, reported like every process."""

from __future__ import annotations

from typing import Any

from tracking.management.commands import streams
from tradehub import processes
from tradehub.models import ProcessKind


class Command(streams.Command):
    def handle(self, *args: Any, **options: Any) -> None:
        processes.start(ProcessKind.STREAMS)
        super().handle(*args, **options)
