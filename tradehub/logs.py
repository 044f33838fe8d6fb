"""Logging: one line per event, JSON in production and readable otherwise, and never a secret in it.

A line carries the `correlation_id` of the request it belongs to (and whatever else was bound with
`structlog.contextvars.bind_contextvars`), across threads and into the exchanges' I/O loop, because both
copy the context of their caller.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from structlog.typing import EventDict, Processor, WrappedLogger
from ulid import ULID

MASK = "***"
_SECRET_NAME = re.compile(
    r"api_?key|apikey|secret|token|passphrase|password|signature|authorization|cookie|listen_?key|private_?key",
    re.IGNORECASE,
)
# Not secret although the name contains one of the words above.
_PUBLIC_NAMES = frozenset({"token_hash", "has_token", "secrets_masked"})
_SECRET_IN_TEXT = (
    # signature=abc, "token": "abc", X-MBX-APIKEY: abc, 'api_secret': 'abc'
    re.compile(
        r"""(?P<name>["']?[\w-]*(?:api_?key|secret|token|passphrase|password|signature|listen_?key)["']?\s*[=:]\s*)"""
        r"""(?P<quote>["']?)(?P<value>[^\s"'&,;}\])]+)(?P=quote)""",
        re.IGNORECASE,
    ),
    re.compile(r"(?P<name>\b(?:bearer|basic)\s+)(?P<quote>)(?P<value>[A-Za-z0-9._~+/=-]{8,})", re.IGNORECASE),
    re.compile(r"(?P<name>://[^/\s:@]*:)(?P<quote>)(?P<value>[^@\s/]+)(?=@)"),  # postgres://user:word@host
    re.compile(r"(?P<name>\bbot)(?P<quote>)(?P<value>\d{6,12}:[A-Za-z0-9_-]{30,})"),  # Telegram's URLs
)


def mask_text(text: str) -> str:
    """Return `text` with the values of what looks like keys, tokens and signatures struck out."""
    for pattern in _SECRET_IN_TEXT:
        text = pattern.sub(rf"\g<name>\g<quote>{MASK}\g<quote>", text)
    return text


def _masked(value: Any, name: str = "") -> Any:
    if (
        name
        and _SECRET_NAME.search(name)
        and name not in _PUBLIC_NAMES
        and value not in (None, "", False, True)
    ):
        return MASK
    if isinstance(value, str):
        return mask_text(value)
    if isinstance(value, Mapping):
        return {key: _masked(item, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_masked(item) for item in value]
    if isinstance(value, bytes):
        return mask_text(value.decode(errors="replace"))
    if value is None or isinstance(value, bool | int | float):
        return value
    return mask_text(str(value))


def mask_secrets(logger: WrappedLogger, method_name: str, event_dict: EventDict) -> EventDict:
    """Strike out secrets: the second net, behind code that does not log them in the first place."""
    inner = {key: event_dict.pop(key) for key in ("_record", "_from_structlog") if key in event_dict}
    return {key: _masked(value, key) for key, value in event_dict.items()} | inner


SHARED_PROCESSORS: tuple[Processor, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.stdlib.ExtraAdder(),
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
    structlog.processors.format_exc_info,  # before the mask: a traceback quotes values too
    mask_secrets,
)


def configure(*, level: str, as_json: bool) -> dict[str, Any]:
    """Set structlog up and return Django's LOGGING: both ways of logging end in the same lines."""
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *SHARED_PROCESSORS,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    renderer: Processor = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=False)
    )
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "line": {
                "()": structlog.stdlib.ProcessorFormatter,
                "foreign_pre_chain": list(SHARED_PROCESSORS),
                "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
            }
        },
        "filters": {"without_jobs": {"()": WithoutJobs}},
        "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"handlers": ["console"], "level": level},
        "loggers": {
            # Django and daphne come with handlers of their own; theirs would print every line twice.
            "django": {"handlers": [], "level": level, "propagate": True},
            "django.server": {"handlers": [], "level": level, "propagate": True},
            "django-q": {"handlers": [], "filters": ["without_jobs"], "level": level, "propagate": True},
            # One line per request and file says nothing that our own events do not say better.
            "daphne": {"level": "WARNING"},
            "aiohttp.access": {"level": "WARNING"},
            "axes": {"level": "WARNING"},
        },
    }


class WithoutJobs(logging.Filter):
    """Keeps what django-q says of the worker as a whole, and its warnings.

    Of each of a dozen jobs a minute it has four lines; what fails is an error of its own.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or record.module == "cluster"


_CORRELATION_ID = re.compile(r"[A-Za-z0-9_-]{8,64}")


def correlation_id_of(request: HttpRequest) -> str:
    """Return the id that a proxy gave the request, or a new one."""
    given = request.headers.get("X-Request-ID", "")
    return given if _CORRELATION_ID.fullmatch(given) else str(ULID())


class CorrelationMiddleware:
    """Binds a correlation id to everything logged while a request is served, and answers with it."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        if iscoroutinefunction(self):
            return self._serve(request)
        correlation_id = correlation_id_of(request)
        with structlog.contextvars.bound_contextvars(correlation_id=correlation_id):
            return _signed(self.get_response(request), correlation_id)

    async def _serve(self, request: HttpRequest) -> HttpResponseBase:
        correlation_id = correlation_id_of(request)
        with structlog.contextvars.bound_contextvars(correlation_id=correlation_id):
            return _signed(await self.get_response(request), correlation_id)


def _signed(response: HttpResponseBase, correlation_id: str) -> HttpResponseBase:
    response["X-Request-ID"] = correlation_id
    return response
