"""The webhook's door: a bare ASGI application in front of Django's middleware.

A webhook needs no session, no CSRF and no messages, and every middleware costs a thread hop each way.
The work runs in threads of our own, one webhook in one thread from its bytes to its record; the event
loop only reads, waits and answers, so a slow exchange holds up nobody else.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from django.conf import settings
from django.core.serializers.json import DjangoJSONEncoder
from django.db import close_old_connections
from structlog.contextvars import bind_contextvars, clear_contextvars

from exchanges import measures
from exchanges.adapters.departure import departures
from orders.services.intake import NOTHING_DONE, Incoming, webhook_receive
from orders.webhook.answers import WebhookAnswer, refusal, time_out
from orders.webhook.authentication import client_address

logger = logging.getLogger(__name__)

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

_threads: ThreadPoolExecutor | None = None
_answering: set[asyncio.Task[None]] = set()
_is_ending = False


def threads() -> ThreadPoolExecutor:
    """The threads that work webhooks, made on first use."""
    global _threads  # noqa: PLW0603  one pool per process
    if _threads is None:
        _threads = ThreadPoolExecutor(settings.WEBHOOK_THREADS, thread_name_prefix="webhook")
    return _threads


async def webhook(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer `POST /api/webhook`. See the specification's webhook.md for every status."""
    if scope["method"] != "POST":
        answer = refusal(405, "method_not_allowed", "Webhooks are sent with POST.", headers={"Allow": "POST"})
        return await _reply(send, answer)
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    try:
        body = await _body(headers, receive)
    except ConnectionResetError:
        return None  # the sender went away before its request was complete
    if body is None:
        limit = settings.WEBHOOK_MAX_BODY_BYTES // 1024
        return await _reply(send, refusal(413, "body_too_large", f"The body is larger than {limit} KiB."))
    peer = scope["client"][0] if scope.get("client") else None
    incoming = Incoming(
        body=body,
        address=client_address(peer, headers.get("x-forwarded-for")),
        token=headers.get("x-webhook-token"),
        idempotency_key=headers.get("idempotency-key"),
    )
    if _is_ending:
        return await _reply(send, NOTHING_DONE)
    # A task of its own: a server that is told to end cancels us at once, and the sender of what is done
    # all the same would have to send it again.
    answering = asyncio.create_task(_work_and_reply(incoming, send))
    _answering.add(answering)
    answering.add_done_callback(_answering.discard)
    return await asyncio.shield(answering)


async def answer_all(*, seconds: float) -> None:
    """Answer what was begun, for so long at most. From then on nothing is begun any more."""
    global _is_ending  # noqa: PLW0603  the process ends
    ends_at = time.monotonic() + seconds
    while _answering and (left := ends_at - time.monotonic()) > 0:
        await asyncio.wait(_answering, timeout=left)
    _is_ending = True


async def _work_and_reply(incoming: Incoming, send: Send) -> None:
    try:
        answer = await _answer(incoming)
    except Exception:
        measures.webhook(status=500, seconds=time.monotonic() - incoming.arrived)
        raise
    measures.webhook(status=answer.status, seconds=time.monotonic() - incoming.arrived)
    await _reply(send, answer)


async def _answer(incoming: Incoming) -> WebhookAnswer:
    work = threads().submit(_work, incoming)
    work.add_done_callback(_log_fault)
    work.add_done_callback(lambda _done: _measure(incoming))
    try:
        # Shielded: the sender's patience ends, the work does not.
        waiting = asyncio.shield(asyncio.wrap_future(work))
        return await asyncio.wait_for(waiting, settings.WEBHOOK_TIMEOUT_SECONDS)
    except TimeoutError:
        if incoming.abandon():
            # Nothing is written down yet, and now nothing will be: the sender may send it again.
            work.cancel()
            return NOTHING_DONE
        incoming.timed_out.set()
        return time_out(incoming.webhook_id)


def _work(incoming: Incoming) -> WebhookAnswer:
    clear_contextvars()  # the thread's last webhook
    bind_contextvars(correlation_id=incoming.correlation_id)
    departures.set(incoming.departed)
    try:
        return webhook_receive(incoming)
    finally:
        close_old_connections()


def _log_fault(work: Future[WebhookAnswer]) -> None:
    if not work.cancelled() and (fault := work.exception()) is not None:
        logger.error("A webhook broke", exc_info=fault)


def _measure(incoming: Incoming) -> None:
    """Count when the first order left, once the work is done: after a 408 that is later than the answer."""
    if (milliseconds := incoming.timings.get("first_sent_ms")) is not None:
        measures.departure(milliseconds / 1000)


async def _body(headers: dict[str, str], receive: Receive) -> bytes | None:
    """Read the body; None when it is too large."""
    limit = settings.WEBHOOK_MAX_BODY_BYTES
    declared = headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        return None
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionResetError
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            return None
        if not message.get("more_body", False):
            return b"".join(parts)


async def _reply(send: Send, answer: WebhookAnswer) -> None:
    body = json.dumps(answer.body, cls=DjangoJSONEncoder).encode()
    headers = {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Cache-Control": "no-store",
    }
    pairs = [(name.encode(), value.encode()) for name, value in (headers | answer.headers).items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})
