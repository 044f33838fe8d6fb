"""django-q2's worker command, made safe to end.

django-q2 ends in good order when its main process alone is told to, once. honcho and most supervisors
tell the whole process group, which kills its children while they hold locks that the main process then
waits for; a second signal makes it wait for a lock of its own. So the children leave the group and die
when the main process does, and only the first signal counts.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from types import FrameType
from typing import Any

from django_q.cluster import Cluster
from django_q.management.commands import qcluster

from tradehub import processes

PR_SET_PDEATHSIG = 1  # Linux: prctl(2)


class CalmCluster(Cluster):  # type: ignore[misc]  # django-q2 has no types
    def sig_handler(self, signum: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        super().sig_handler(signum, frame)


class Command(qcluster.Command):  # type: ignore[misc]  # django-q2 has no types
    def handle(self, *args: Any, **options: Any) -> None:
        main = os.getpid()

        def after_in_child() -> None:
            if os.getppid() == main:
                os.setpgid(0, 0)  # its own children stay in this group
            if sys.platform == "linux":
                ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

        os.register_at_fork(after_in_child=after_in_child)
        processes.listen_in_worker()
        qcluster.Cluster = CalmCluster  # the name by which the original makes its cluster
        super().handle(*args, **options)
