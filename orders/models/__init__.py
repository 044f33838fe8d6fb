from orders.models.book import Book
from orders.models.delivery import DELIVERY_CONTENT, DeliveryState, WebhookDelivery
from orders.models.event import EventSource, EventType, OrderEvent
from orders.models.failed_order import MAX_RETRIES, FailedOrder, FailedStatus
from orders.models.guard import LossKind, LossTrip, ProfitPeak
from orders.models.intent import Home, OrderIntent, Placement, PlacementOutcome
from orders.models.ledger import StrategyPosition, Trade, TradeExecution
from orders.models.open_order import CancelReason, OpenOrder
from orders.models.pending_order import PendingOrder
from orders.models.strategy import ExecutionMode, KillSwitch, Strategy, StrategyAccount, UserProfile

__all__ = [
    "DELIVERY_CONTENT",
    "MAX_RETRIES",
    "Book",
    "CancelReason",
    "DeliveryState",
    "EventSource",
    "EventType",
    "ExecutionMode",
    "FailedOrder",
    "FailedStatus",
    "Home",
    "KillSwitch",
    "LossKind",
    "LossTrip",
    "OpenOrder",
    "OrderEvent",
    "OrderIntent",
    "PendingOrder",
    "Placement",
    "PlacementOutcome",
    "ProfitPeak",
    "Strategy",
    "StrategyAccount",
    "StrategyPosition",
    "Trade",
    "TradeExecution",
    "UserProfile",
    "WebhookDelivery",
]
