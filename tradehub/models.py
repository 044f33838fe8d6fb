"""What the processes of an installation tell of themselves."""

from __future__ import annotations

from django.db import models


class ProcessKind(models.TextChoices):
    WEB = "web", "Web"
    WORKER = "worker", "Worker"
    STREAMS = "streams", "Streams"
    PAST = "past", "Ended processes"  # one row: what those that are gone have counted


class Process(models.Model):
    """One process: when it was last seen at work, and what it has measured since it began.

    Only the process itself writes its row, every few seconds. One that has not been seen for a while is
    added to the row of the ended ones, so that sums over all rows never shrink.
    """

    name = models.CharField(max_length=64, unique=True)
    kind = models.CharField(max_length=8, choices=ProcessKind.choices)
    started_at = models.DateTimeField()
    seen_at = models.DateTimeField(db_index=True)
    totals = models.JSONField(default=list, help_text="Counters and histograms: name, labels, value.")
    recent = models.JSONField(
        default=dict, help_text="The last quarter of an hour: name, minute, bucket, count."
    )

    class Meta:
        verbose_name_plural = "processes"

    def __str__(self) -> str:
        return self.name
