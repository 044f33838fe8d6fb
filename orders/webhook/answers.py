"""The webhook's answer, from what became of each (order, account) pair. Pure: rows in, JSON out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from exchanges.adapters.types import OrderType
from orders.models import FailedOrder, Home, OrderIntent, PendingOrder, Placement, PlacementOutcome
from orders.webhook.serializers import Fault


@dataclass(frozen=True, slots=True)
class WebhookAnswer:
    """An HTTP answer: status, JSON body, further headers."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PairOutcome:
    """One order at one account: the intent with its last placement, or the failed order it became."""

    intent: OrderIntent
    account_id: int
    placement: Placement | None
    failed: FailedOrder | None
    pending: PendingOrder | None = None
    resting: int | None = None  # orders that rested in its lane when it began to wait


def refusal(
    status: int,
    code: str,
    error: str,
    *,
    webhook_id: str = "",
    headers: dict[str, str] | None = None,
    faults: Iterable[Fault] = (),
) -> WebhookAnswer:
    """Return a 4xx or 5xx answer: nothing was done."""
    body: dict[str, Any] = {"success": False, "error": error, "code": code}
    if webhook_id:
        body["webhook_id"] = webhook_id
    if listed := [fault.as_json() for fault in faults]:
        body["errors"] = listed
    return WebhookAnswer(status, body, headers or {})


def payload_refusal(code: str, faults: Sequence[Fault], *, webhook_id: str = "") -> WebhookAnswer:
    """Return the 400 that lists every fault; the first ones also stand in the sentence."""
    named = [_sentence(fault) for fault in faults[:5]]
    more = f" (and {len(faults) - 5} more)" if len(faults) > 5 else ""
    return refusal(400, code, "; ".join(named) + more, webhook_id=webhook_id, faults=faults)


def _sentence(fault: Fault) -> str:
    where = fault.field if fault.order_index is None else f"order {fault.order_index}, {fault.field}"
    return fault.message if fault.field == "body" else f"{where}: {fault.message}"


def time_out(webhook_id: str) -> WebhookAnswer:
    return refusal(408, "timeout", "Order execution timeout", webhook_id=webhook_id)


def compose(
    *,
    strategy: str,
    webhook_id: str,
    is_batch: bool,
    total_orders: int,
    accounts: dict[int, str],
    pairs: Sequence[PairOutcome],
    cancels: Sequence[dict[str, Any]],
    timings: dict[str, float],
) -> WebhookAnswer:
    """Put the answer together. `cancels` are the results of CANCEL and CANCEL_ALL_ORDER pairs."""
    results = [*cancels, *(_pair(pair, accounts) for pair in pairs)]
    results.sort(key=lambda result: (result["order_index"], result["result"].get("account_id") or 0))
    succeeded = sum(1 for result in results if result["success"])
    resting = [pair for pair in pairs if pair.intent.order_type != OrderType.MARKET]
    reached = sum(1 for pair in resting if _reached(pair))
    body: dict[str, Any] = {
        "action": "batch_order" if is_batch else "single_order",
        "strategy": strategy,
        "success": succeeded > 0,
        "webhook_id": webhook_id,
        "results": results,
        "summary": {
            "total_orders": total_orders,
            "accounts": len(accounts),
            "immediate_orders": len(results) - len(resting),
            "queued_orders": len(resting),
            "executed_from_queue": reached,
            "remaining_in_queue": sum(1 for pair in resting if pair.intent.home == Home.QUEUE),
            "successful_orders": succeeded,
            "failed_orders": len(results) - succeeded,
            "exchange_submitted": reached,
        },
        "timing": timings,
    }
    if succeeded:
        return WebhookAnswer(200, body)
    errors = list(dict.fromkeys(result["result"]["error"] for result in results))
    body["error"] = "; ".join(errors[:3]) or "No order succeeded"
    body["code"] = "all_orders_failed"
    return WebhookAnswer(400, body)


def _reached(pair: PairOutcome) -> bool:
    if pair.intent.home == Home.QUEUE:
        return False  # it may have been there before
    return pair.placement is not None and pair.placement.outcome == PlacementOutcome.PLACED


def _pair(pair: PairOutcome, accounts: dict[int, str]) -> dict[str, Any]:
    intent, placement, failed = pair.intent, pair.placement, pair.failed
    where = {"account_id": pair.account_id, "account_name": accounts.get(pair.account_id, "")}
    base: dict[str, Any] = {"order_index": intent.order_index}
    if failed is not None and not (_reached(pair) and intent.filled_quantity):
        return base | {
            "success": False,
            "failed_order_id": failed.pk,
            "result": where | {
                "error": failed.exchange_error or failed.reason,
                "error_type": failed.error_type,
                "alert_sent": failed.alert_sent,
            },
        }  # fmt: skip
    if intent.home == Home.QUEUE:
        return base | _waiting(pair, where)
    result: dict[str, Any] = {"client_order_id": placement.client_order_id if placement else None} | where
    base |= {"success": True, "queued": False}
    if _reached(pair):
        assert placement is not None
        return base | {"executed": True, "result": {"order_id": placement.exchange_order_id} | result}
    if intent.cancel_requested:
        return base | {"executed": False, "result": result | {"message": "canceled before it was placed"}}
    message = "sent, the exchange's answer is not known yet; it is being looked up"
    return base | {"executed": False, "resolving": True, "result": result | {"message": message}}


def _waiting(pair: PairOutcome, where: dict[str, Any]) -> dict[str, Any]:
    told = {"success": True, "queued": True, "executed": False, "pending_order_id": pair.intent.pk}
    pending = pair.pending
    message = "waiting in the queue"
    if pending is not None and pending.waits_until is not None:
        told["retry_scheduled"] = True
        message = (
            f"the exchange put it off ({pending.reason}); tried again at {pending.waits_until:%H:%M:%S} UTC"
        )
    elif pending is not None and pending.reason:
        message = f"waiting in the queue: {pending.reason}"
    elif pair.resting:
        orders = "better order is" if pair.resting == 1 else "better orders are"
        message = f"waiting in the queue: {pair.resting} {orders} open"
    return told | {"result": {"message": message} | where}
