"""A webhook from its bytes to its answer: authenticate, plan, commit, send, record."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar

from django.db import DatabaseError, IntegrityError, close_old_connections, connection, transaction
from structlog.contextvars import bind_contextvars
from ulid import ULID

from orders.clock import DatabaseClock, database_now
from orders.config import StrategyConfig, strategy_config
from orders.connections import with_live_connection
from orders.models import DeliveryState, EventSource, WebhookDelivery
from orders.services import deliveries, submission
from orders.services.acceptance import Accepted, AlreadyDelivered, accept
from orders.services.applied import Applied, Outcome, Stopped
from orders.services.cancellation import CancelsSent, cancels_send
from orders.services.settlement import outcomes_apply
from orders.services.switches import stop_reasons
from orders.webhook import authentication
from orders.webhook.answers import PairOutcome, WebhookAnswer, payload_refusal, refusal, time_out
from orders.webhook.authentication import Caller
from orders.webhook.planning import AccountsOff, ConfigChanged, Plan, make_plan
from orders.webhook.redaction import redact
from orders.webhook.serializers import (
    Fault,
    OrderSpec,
    PayloadFault,
    decode,
    order_specs,
    signal_time,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")
REPLANS = 3
MAX_WEBHOOK_ID = 128
STRANGERS_KEPT = 1024  # characters of a payload that nobody could be named for
WEBHOOK_ID_KEPT = timedelta(hours=24)
NOTHING_DONE = refusal(503, "unavailable", "The order could not be planned; nothing was done. Send it again.")


@dataclass(slots=True)
class Incoming:
    """One HTTP request, as far as the webhook looks at it. `arrived` is on the monotonic clock."""

    body: bytes
    address: str | None
    token: str | None = None  # X-Webhook-Token
    idempotency_key: str | None = None
    arrived: float = field(default_factory=time.monotonic)
    # Shared with whoever waits for the answer: what it may say if it stops waiting, and that it did.
    webhook_id: str = ""
    correlation_id: str = field(default_factory=lambda: str(ULID()))
    timed_out: threading.Event = field(default_factory=threading.Event)
    _fate: threading.Lock = field(default_factory=threading.Lock)
    _decided: str = ""
    timings: dict[str, float] = field(default_factory=dict)

    def begin_commit(self) -> bool:
        """Tell whether the work may be written down; from then on it goes on whoever waits."""
        return self._decide("committed") == "committed"

    def abandon(self) -> bool:
        """Give it up, if nothing was written yet. True: nothing was, and nothing will be."""
        return self._decide("abandoned") == "abandoned"

    def _decide(self, word: str) -> str:
        with self._fate:
            self._decided = self._decided or word
            return self._decided

    def departed(self, at: float) -> None:
        """Note when the first byte of its first order or cancel leaves; later ones change nothing."""
        self.timings.setdefault("first_sent_ms", round((at - self.arrived) * 1000, 2))

    def note(self, name: str, at: float | None = None) -> None:
        self.timings[name] = round(((at or time.monotonic()) - self.arrived) * 1000, 2)


class _Answered(Exception):
    """The answer is known before anything was planned."""

    def __init__(self, answer: WebhookAnswer) -> None:
        super().__init__(answer.status)
        self.answer = answer


def webhook_receive(incoming: Incoming) -> WebhookAnswer:
    """Work one webhook to its end and return its answer. Blocks while the exchange answers.

    Never raises. Whatever breaks before the commit is a 503: nothing was written and nothing was sent,
    the sender may send again. After the commit there is no 5xx any more: the delivery stands, and is
    carried on by whoever finds its lease ended.
    """
    intake = _Intake(incoming)
    try:
        accepted = intake.accept()
    except _Answered as known:
        return known.answer
    except Exception:
        logger.exception("Webhook could not be planned")
        return intake.answer_unplanned()
    try:
        return intake.carry_out(accepted)
    except Exception:
        logger.exception("Webhook %s broke after its commit; its lease will end", incoming.webhook_id)
        return time_out(incoming.webhook_id)


class _Intake:
    def __init__(self, incoming: Incoming) -> None:
        self.incoming = incoming
        self.payload: dict[str, Any] = {}
        self.payload_hash = hashlib.sha256(incoming.body).hexdigest()
        self.version = 0  # of the configuration that was planned with
        self.is_named = False  # by its sender
        self.committing = False
        self.pause = threading.Event()  # never set: something to wait on

    def accept(self) -> Accepted:
        """Authenticate, plan and commit. Raises _Answered where the webhook ends before that."""
        incoming = self.incoming
        if not authentication.sender_allowed(incoming.address):
            raise _Answered(refusal(403, "sender_not_allowed", "This address may not send webhooks here."))
        try:
            self.payload = decode(incoming.body)
        except PayloadFault as fault:
            raise _Answered(self._record(None, payload_refusal(fault.code, fault.faults))) from fault
        caller = self._authenticate()
        strategy = strategy_config(caller.strategy_id, version=caller.version)
        self.is_named = self._name_delivery(strategy)
        if not self.is_named:
            self._answer_twin(caller, strategy)
        if caller.refusal is not None:
            code, sentence = caller.refusal
            raise _Answered(self._record(strategy.id, refusal(403, code, sentence)))
        specs = self._specs(strategy, caller.now)
        incoming.note("validated_ms")
        accepted = self._plan_and_commit(caller, strategy, specs)
        incoming.note("planned_ms")
        return accepted

    def answer_unplanned(self) -> WebhookAnswer:
        """Answer after a fault on our side: 503 only where it is sure that nothing was written.

        A commit whose confirmation was lost may stand all the same; then the delivery is there, and
        it is carried out from its rows.
        """
        if not self.committing:
            return NOTHING_DONE
        for pause in (0.0, 0.3, 1.0):
            self.pause.wait(pause)
            try:
                close_old_connections()
                mine = WebhookDelivery.objects.filter(
                    webhook_id=self.incoming.webhook_id,
                    payload_hash=self.payload_hash,
                    lease_owner=deliveries.owner(),
                    state=DeliveryState.WORKING,
                )
                if not mine.update(lease_expires_at=database_now()):
                    return NOTHING_DONE
                return deliveries.take_over(mine.values_list("pk", flat=True)[0]) or time_out(
                    self.incoming.webhook_id
                )
            except DatabaseError:
                logger.warning("Whether %s was committed is not known yet", self.incoming.webhook_id)
        return time_out(self.incoming.webhook_id)

    # --- who and what -----------------------------------------------------------------------------

    def _authenticate(self) -> Caller:
        token = self.payload.get("token") or self.incoming.token
        group = self.payload.get("group_name")
        group_name = None if group is None or group == "" else str(group)
        caller = with_live_connection(
            lambda: authentication.authenticate(
                token=str(token or ""), group_name=group_name, payload_hash=self.payload_hash
            )
        )
        if caller is not None:
            self.clock = DatabaseClock(caller.now)
            return caller
        if authentication.too_many_failures(self.incoming.address, group_name):
            wait = str(authentication.FAILURE_WINDOW_SECONDS)
            sentence = "Too many failed attempts from this address; wait a minute."
            raise _Answered(refusal(429, "too_many_failures", sentence, headers={"Retry-After": wait}))
        raise _Answered(self._record(None, refusal(401, "unauthorized", "Unknown strategy or wrong token.")))

    def _name_delivery(self, strategy: StrategyConfig) -> bool:
        """Find the delivery's name; tell whether the sender gave it."""
        given = self.payload.get("webhook_id") or self.incoming.idempotency_key
        if given is None or given == "":
            # What stands in the log is what the sender can ask for.
            self.incoming.webhook_id = self.incoming.correlation_id
            return False
        if isinstance(given, dict | list) or len(str(given)) > MAX_WEBHOOK_ID or "\0" in str(given):
            fault = Fault("webhook_id", f"must be text of at most {MAX_WEBHOOK_ID} characters")
            self.incoming.webhook_id = str(ULID())
            raise _Answered(self._record(strategy.id, payload_refusal("invalid_payload", [fault])))
        self.incoming.webhook_id = str(given)
        bind_contextvars(webhook_id=self.incoming.webhook_id)
        return True

    def _answer_twin(self, caller: Caller, strategy: StrategyConfig) -> None:
        """A resend of what died unanswered gets what became of the first; so does a declared duplicate."""
        if caller.unanswered_twin_id is not None:
            raise _Answered(self._known(WebhookDelivery.objects.get(pk=caller.unanswered_twin_id)))
        if caller.earlier_twin_id is not None:
            twin = WebhookDelivery.objects.get(pk=caller.earlier_twin_id)
            window = timedelta(seconds=strategy.dedupe_window_seconds)
            if caller.now - twin.received_at < window:
                raise _Answered(self._known(twin))

    def _specs(self, strategy: StrategyConfig, now: datetime) -> list[OrderSpec]:
        try:
            limit = strategy.max_signal_age_seconds
            sent_at = signal_time(self.payload) if limit else None  # else nobody asks how old it is
            if limit and sent_at is not None and now - sent_at > timedelta(seconds=limit):
                age = int((now - sent_at).total_seconds())
                fault = Fault(
                    "timestamp", f"the signal is {age} s old; this strategy takes {limit} s at most"
                )
                raise PayloadFault("stale_signal", fault)
            return order_specs(self.payload, default_market=strategy.market_type)
        except PayloadFault as fault:
            raise _Answered(self._refuse(strategy, fault)) from fault

    def _refuse(self, strategy: StrategyConfig, fault: PayloadFault) -> WebhookAnswer:
        answer = payload_refusal(fault.code, fault.faults, webhook_id=self.incoming.webhook_id)
        return self._record(strategy.id, answer)

    # --- the delivery's row -----------------------------------------------------------------------

    def _delivery(self, strategy_id: int | None, now: datetime) -> WebhookDelivery:
        incoming = self.incoming
        text = incoming.body.decode("utf-8", "replace").replace("\0", "")
        stored = redact(text, self.payload, known=[incoming.token or ""]) if self.payload else ""
        if strategy_id is None:
            stored = stored[:STRANGERS_KEPT]  # nobody may fill our tables without a token
        return WebhookDelivery(
            strategy_id=strategy_id,
            webhook_id=incoming.webhook_id or str(ULID()),
            received_at=now - timedelta(seconds=time.monotonic() - incoming.arrived),
            source_address=incoming.address,
            payload=stored,
            payload_hash=self.payload_hash if strategy_id else "",
            lease_owner=deliveries.owner(),
            lease_expires_at=deliveries.lease_until(now),
        )

    def _record(self, strategy_id: int | None, answer: WebhookAnswer) -> WebhookAnswer:
        """Store a delivery that ends here. A taken webhook id gets the first answer instead."""
        now = database_now()
        delivery = self._delivery(strategy_id, now)
        delivery.state, delivery.answered_at = DeliveryState.ANSWERED, now
        delivery.response_status, delivery.response = answer.status, answer.body
        try:
            with transaction.atomic():
                delivery.save(force_insert=True)
        except IntegrityError:
            if strategy_id is None:
                raise
            if not self._free_old_id(strategy_id):
                return self._first_answer(strategy_id)
            delivery.save(force_insert=True)
        return answer

    def _first_answer(self, strategy_id: int) -> WebhookAnswer:
        return self._known(
            WebhookDelivery.objects.get(strategy_id=strategy_id, webhook_id=self.incoming.webhook_id)
        )

    def _known(self, first: WebhookDelivery) -> WebhookAnswer:
        """Answer with what became of an earlier delivery; carry on with it if its process died."""
        if first.state == DeliveryState.WORKING:
            taken = deliveries.take_over(first.pk)
            if taken is None:
                first.refresh_from_db()
        if first.state == DeliveryState.WORKING and taken is None:
            sentence = "This webhook is still being worked; ask again for its answer."
            return refusal(409, "in_progress", sentence, webhook_id=first.webhook_id)
        answer = taken if first.state == DeliveryState.WORKING else None
        status = answer.status if answer else first.response_status
        body = answer.body if answer else first.response
        return WebhookAnswer(status or 200, {**(body or {}), "duplicate": True})

    # --- plan, commit, send -----------------------------------------------------------------------

    def _plan_and_commit(self, caller: Caller, strategy: StrategyConfig, specs: list[OrderSpec]) -> Accepted:
        self.version = caller.version
        for _ in range(REPLANS):
            try:
                plan = make_plan(strategy, specs, version=self.version)
                return self._commit(strategy, plan)
            except PayloadFault as fault:
                raise _Answered(self._refuse(strategy, fault)) from fault
            except AccountsOff as exc:
                raise _Answered(self._record(strategy.id, _accounts_off(exc))) from exc
            except AlreadyDelivered as exc:
                raise _Answered(self._known(WebhookDelivery.objects.get(pk=exc.delivery_id))) from exc
            except IntegrityError:
                if not self._free_old_id(strategy.id):
                    raise _Answered(self._first_answer(strategy.id)) from None
            except ConfigChanged:
                # A switch may have been flipped: begin again with what stands now.
                again = self._authenticate()
                if again.refusal is not None:
                    code, sentence = again.refusal
                    raise _Answered(self._record(strategy.id, refusal(403, code, sentence))) from None
                self.version = again.version
                strategy = strategy_config(again.strategy_id, version=self.version)
            self.committing = False
        raise DatabaseError("the configuration kept changing while the webhook was planned")

    def _commit(self, strategy: StrategyConfig, plan: Plan) -> Accepted:
        now = self.clock.now()
        delivery = self._delivery(strategy.id, now)
        if not self.incoming.begin_commit():
            raise _Answered(
                NOTHING_DONE
            )  # nobody waits for it any more: they were told that nothing was done
        self.committing = True
        return accept(
            delivery=delivery,
            strategy=strategy,
            plan=plan,
            is_batch="orders" in self.payload,
            version=self.version,
            now=now,
            dedupe_seconds=0 if self.is_named else strategy.dedupe_window_seconds,
        )

    def _free_old_id(self, strategy_id: int) -> bool:
        """A webhook id is kept for a day. Let go of an older one; tell whether it was."""
        old = WebhookDelivery.objects.filter(
            strategy_id=strategy_id,
            webhook_id=self.incoming.webhook_id,
            state=DeliveryState.ANSWERED,
            received_at__lt=self.clock.now() - WEBHOOK_ID_KEPT,
        )
        shortened = self.incoming.webhook_id[: MAX_WEBHOOK_ID - 24]
        return any(
            [
                old.filter(pk=pk).update(webhook_id=f"{shortened}#{pk}")
                for pk in old.values_list("pk", flat=True)
            ]
        )

    def carry_out(self, accepted: Accepted) -> WebhookAnswer:
        delivery, incoming = accepted.delivery, self.incoming
        deliveries.keeper.hold(delivery.pk)
        try:
            applied = Applied()
            # A close that came to nothing was planned for: its slot is given away after all.
            again = accepted.queued_books if accepted.failed else ()
            if accepted.placements or accepted.cancel_intents or accepted.moves or again:
                if not deliveries.delivery_start(delivery.pk, version=self.version):
                    if not deliveries.delivery_start(delivery.pk):
                        # We slept past our lease: whoever took the delivery over sends it, we send nothing.
                        delivery.refresh_from_db()
                        return self._known(delivery)
                    applied = self._withdraw_stopped(accepted)  # not before it is sure that they are ours
                applied.merge(self._send(accepted))
            incoming.note("total_ms")
            answer = self._compose(accepted, applied)
            timed_out = incoming.timed_out.is_set()
            deliveries.delivery_answer(delivery.pk, answer, timings=incoming.timings, timed_out=timed_out)
            return answer
        finally:
            deliveries.keeper.release(delivery.pk)

    def _withdraw_stopped(self, accepted: Accepted) -> Applied:
        """Something changed since the plan was made: hold back what a switch forbids by now."""
        # Among them may be what was taken from the queue, of other strategies.
        stops = stop_reasons({p.intent.strategy_account_id for p in accepted.placements})
        held = [p for p in accepted.placements if p.intent.strategy_account_id in stops]
        accepted.placements = [p for p in accepted.placements if p.intent.strategy_account_id not in stops]
        outcomes = [Outcome(p.pk, Stopped(stops[p.intent.strategy_account_id])) for p in held]
        return outcomes_apply(outcomes, source=EventSource.WEBHOOK, now=self.clock.now())

    def _send(self, accepted: Accepted) -> Applied:
        """Cancels go before the orders of their account; accounts side by side."""
        # The moment that the placements' own `send_by` was counted from.
        planned_at = self.clock.monotonic(accepted.planned_at)

        def work(placements: list[Any]) -> submission.Dispatch:
            return submission.Dispatch(
                placements, accepted.accounts, planned_at, self.clock, accepted.leverage
            )

        def answered(at: float) -> None:
            self.incoming.note("submitted_ms", at)

        moved = CancelsSent(accepted.moves, clock=self.clock)  # on their way beside everything else
        if not accepted.cancel_intents:
            applied = submission.dispatch(work(accepted.placements), on_answer=answered)
        else:
            applied = self._send_by_account(accepted, work, answered)
        applied.merge(moved.record(source=EventSource.ANSWER))
        applied.moved_books |= {order.book_id for order in accepted.moves}
        again = accepted.queued_books if accepted.failed else ()
        applied.merge(deliveries.after_dispatch(applied, books=again))
        if not accepted.placements and applied.placements:
            answered(time.monotonic())  # all of it went out into slots that had to be freed first
        return applied

    def _send_by_account(
        self,
        accepted: Accepted,
        work: Callable[[list[Any]], submission.Dispatch],
        answered: Callable[[float], None],
    ) -> Applied:
        canceled: dict[int, list[int]] = {}
        for cancel in accepted.delivery.plan["cancels"]:
            canceled.setdefault(cancel["account_id"], []).extend(cancel["intent_ids"])
        account_ids = sorted({*canceled, *(p.account_id for p in accepted.placements)})

        def one(account_id: int) -> Applied:
            applied = cancels_send(
                intent_ids=canceled.get(account_id, ()), source=EventSource.ANSWER, now=self.clock.now()
            )
            placements = [p for p in accepted.placements if p.account_id == account_id]
            if placements:
                applied.merge(submission.dispatch(work(placements), on_answer=answered))
            answered(time.monotonic())
            return applied

        merged = Applied()
        for applied in _side_by_side([_bound(one, account_id) for account_id in account_ids]):
            merged.merge(applied)
        return merged

    def _compose(self, accepted: Accepted, applied: Applied) -> WebhookAnswer:
        by_intent = applied.placements_by_intent()
        pairs = []
        for intent, account_id in zip(accepted.intents, accepted.account_ids, strict=True):
            placement = by_intent.get(intent.pk)
            failed = applied.failed.get(intent.pk) or accepted.failed.get(intent.pk)
            current = placement.intent if placement else intent
            pending = applied.queued.get(intent.pk) or accepted.pending.get(intent.pk)
            resting = accepted.resting.get(intent.pk)
            pairs.append(PairOutcome(current, account_id, placement, failed, pending, resting))
        cancels = deliveries.cancel_results(accepted.delivery.plan)
        return deliveries.compose_for(
            accepted.delivery, pairs, cancels=cancels, timings=dict(self.incoming.timings)
        )


def _accounts_off(why: AccountsOff) -> WebhookAnswer:
    if why.killed:
        sentence = "The kill switch of every account of this strategy is on: no orders are accepted."
        return refusal(403, "kill_switch", sentence)
    return refusal(403, "accounts_off", "Every account of this strategy is switched off.")


def _bound(function: Callable[[int], T], argument: int) -> Callable[[], T]:
    return lambda: function(argument)


_accounts_pool = ThreadPoolExecutor(max_workers=64, thread_name_prefix="account")


def _side_by_side(calls: list[Callable[[], T]]) -> list[T]:
    """Run calls in threads of their own where there are several, each with its own connection."""
    if len(calls) == 1:
        return [calls[0]()]
    if not connection.in_atomic_block:
        connection.close()  # the threads need connections of their own: do not sit on one meanwhile

    def clean(context: Context, call: Callable[[], T]) -> T:
        try:
            return context.run(call)
        finally:
            close_old_connections()

    # Each in a copy of our context: whose work it is, for the log, and who hears when it leaves.
    return list(_accounts_pool.map(clean, [copy_context() for _ in calls], calls))
