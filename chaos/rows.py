"""Reading both sides for one run: the exchange first, then our rows in one snapshot."""

from __future__ import annotations

from collections.abc import Sequence

from chaos.drive import Sent
from chaos.fleet import Fleet
from chaos.plan import Plan, api_key
from chaos.system import System
from chaos.verify import Audit, Ours, Promise, Theirs, Try

_ACCOUNTS = "JOIN exchanges_account a ON a.id = {}.account_id WHERE a.name = ANY(%(accounts)s)"
QUERIES = {
    "deliveries": "SELECT d.id, d.webhook_id, d.state, s.group_name AS strategy FROM orders_webhookdelivery d"
    " JOIN orders_strategy s ON s.id = d.strategy_id WHERE s.group_name = ANY(%(desks)s)",
    "intents": "SELECT i.id, i.delivery_id, i.order_type, i.quantity, i.filled_quantity, i.home,"
    " i.cancel_requested FROM orders_orderintent i JOIN orders_book b ON b.id = i.book_id"
    " JOIN exchanges_account a ON a.id = b.account_id WHERE a.name = ANY(%(accounts)s)",
    "placements": "SELECT p.id, p.intent_id, p.client_order_id, p.filled_quantity,"
    f" p.exchange_filled_quantity, p.outcome FROM orders_placement p {_ACCOUNTS.format('p')}",
    "open": "SELECT o.intent_id, o.status, o.book_id, p.client_order_id, i.order_type, i.cancel_requested"
    " FROM orders_openorder o JOIN orders_placement p ON p.id = o.placement_id"
    f" JOIN orders_orderintent i ON i.id = o.intent_id {_ACCOUNTS.format('o')}",
    "pending": "SELECT q.intent_id, q.book_id, q.waits_until, i.order_type, i.cancel_requested"
    f" FROM orders_pendingorder q JOIN orders_orderintent i ON i.id = q.intent_id {_ACCOUNTS.format('q')}",
    "failed": "SELECT f.intent_id, f.reason, f.exchange_error FROM orders_failedorder f"
    " JOIN orders_strategyaccount sa ON sa.id = f.strategy_account_id"
    " JOIN exchanges_account a ON a.id = sa.account_id WHERE a.name = ANY(%(accounts)s)",
    "executions": "SELECT e.intent_id, e.placement_id, e.strategy_account_id, a.name AS account,"
    " e.market_type, e.symbol, e.trade_id, e.side, e.quantity, e.price, e.fee, e.executed_at"
    f" FROM orders_tradeexecution e {_ACCOUNTS.format('e')}",
    "trades": "SELECT t.intent_id, t.quantity, t.notional FROM orders_trade t"
    " JOIN orders_strategyaccount sa ON sa.id = t.strategy_account_id"
    " JOIN exchanges_account a ON a.id = sa.account_id WHERE a.name = ANY(%(accounts)s)",
    "positions": "SELECT p.strategy_account_id, a.name AS account, p.market_type, p.symbol, p.quantity,"
    f" p.realized_pnl FROM orders_strategyposition p {_ACCOUNTS.format('p')}",
    "unmatched": "SELECT u.exchange_order_id FROM tracking_unmatchedreport u"
    f" {_ACCOUNTS.format('u')} AND u.state = 'WAITING'",
    "books": "SELECT b.id, b.external_limit_orders, b.external_stop_orders,"
    " CASE WHEN b.limit_fits_until > clock_timestamp() THEN b.limit_fits END AS limit_believed,"
    " CASE WHEN b.stop_fits_until > clock_timestamp() THEN b.stop_fits END AS stop_believed"
    f" FROM orders_book b {_ACCOUNTS.format('b')}",
    "submitted_events": "SELECT v.id, v.intent_id FROM orders_orderevent v"
    f" {_ACCOUNTS.format('v')} AND v.type = 'SUBMITTING'",
    "cancel_events": "SELECT v.id, v.intent_id FROM orders_orderevent v"
    f" {_ACCOUNTS.format('v')} AND v.type = 'CANCEL_REQUESTED'",
}


def audit_of(
    plan: Plan, fleet: Fleet, system: System, sent: Sequence[Sent], *, is_over: bool = False
) -> Audit:
    """Read both sides of a run's accounts, and hold what its senders heard against them."""
    keys = {api_key(name): name for name in plan.accounts}
    theirs = Theirs.from_ledger(fleet.simulator.ledger(), keys)
    names = {"accounts": list(plan.accounts), "desks": [desk.name for desk in plan.desks]}
    ours = Ours(**system.snapshot(QUERIES, names))
    tries = [
        Try(one.desk, one.webhook_id, one.status, one.began, one.ended) for one in sent if one.webhook_id
    ]
    promises = promises_of(plan, sent)
    return Audit(ours, theirs, promises, keys, plan.limit_cap, plan.stop_cap, is_over=is_over, tries=tries)


def promises_of(plan: Plan, sent: Sequence[Sent]) -> list[Promise]:
    """Return what the answers with 2xx promised: every order that is no cancel, at every account."""
    followers = {desk.name: len(desk.accounts) for desk in plan.desks}
    found = {}
    for one in sent:
        if one.status is None or one.status >= 300 or not one.webhook_id:
            continue
        orders = [each for each in one.payload["orders"] if not each["order_type"].startswith("CANCEL")]
        found[one.desk, one.webhook_id] = len(orders) * followers[one.desk]
    return [Promise(desk, webhook_id, count) for (desk, webhook_id), count in sorted(found.items())]
