"""How the admin looks: its name, and where each model is found."""

from __future__ import annotations

from typing import Any

from django.templatetags.static import static
from django.urls import reverse_lazy


def _item(title: str, icon: str, name: str) -> dict[str, Any]:
    app, model = name.split(".")
    return {
        "title": title,
        "icon": icon,
        "link": reverse_lazy(f"admin:{app}_{model}_changelist"),
        "permission": lambda request: request.user.has_perm(f"{app}.view_{model}"),
    }


def _group(title: str, *items: dict[str, Any], collapsible: bool = False) -> dict[str, Any]:
    return {"title": title, "separator": True, "collapsible": collapsible, "items": list(items)}


UNFOLD: dict[str, Any] = {
    "SITE_TITLE": "tradehub",
    "SITE_HEADER": "tradehub",
    "SITE_SYMBOL": "candlestick_chart",
    "SITE_URL": "/positions",
    "SITE_FAVICONS": [
        {"rel": "icon", "type": "image/svg+xml", "href": lambda request: static("favicon.svg")},
    ],
    "SHOW_BACK_BUTTON": True,
    "DASHBOARD_CALLBACK": "tradehub.front.figures_shown",
    "SIDEBAR": {
        "show_search": True,
        "show_all_applications": False,
        "navigation": [
            _group(
                "Trading",
                _item("Strategies", "insights", "orders.strategy"),
                _item("Accounts", "key", "exchanges.account"),
                _item("Who follows what", "device_hub", "orders.strategyaccount"),
                _item("Positions", "balance", "orders.strategyposition"),
                _item("Kill switch", "power_settings_new", "orders.killswitch"),
                _item("Loss guards", "shield", "orders.losstrip"),
                _item("Best profits", "landscape", "orders.profitpeak"),
            ),
            _group(
                "Orders",
                _item("Webhooks", "webhook", "orders.webhookdelivery"),
                _item("Waiting", "hourglass_empty", "orders.pendingorder"),
                _item("Open", "pending_actions", "orders.openorder"),
                _item("Failed", "error", "orders.failedorder"),
                _item("Intents", "list_alt", "orders.orderintent"),
                _item("Placements", "send", "orders.placement"),
                _item("Fills", "done_all", "orders.tradeexecution"),
                _item("Trades", "receipt_long", "orders.trade"),
                _item("Events", "history", "orders.orderevent"),
            ),
            _group(
                "Exchanges",
                _item("Streams", "sensors", "tracking.ordertrackingsession"),
                _item("Unmatched reports", "help", "tracking.unmatchedreport"),
                _item("Instruments", "straighten", "exchanges.instrument"),
                _item("Last prices", "show_chart", "exchanges.lastprice"),
                _item("Books", "menu_book", "orders.book"),
            ),
            _group(
                "People",
                _item("Users", "person", "auth.user"),
                _item("Profiles", "tune", "orders.userprofile"),
                _item("Groups", "group", "auth.group"),
                _item("Login attempts", "lock_clock", "axes.accessattempt"),
                _item("Failed logins", "no_accounts", "axes.accessfailurelog"),
                _item("Logins", "login", "axes.accesslog"),
                collapsible=True,
            ),
            _group(
                "Machine room",
                _item("Scheduled jobs", "schedule", "django_q.schedule"),
                _item("Failed jobs", "running_with_errors", "django_q.failure"),
                _item("Done jobs", "task_alt", "django_q.success"),
                _item("Alerts", "campaign", "notifications.alert"),
                _item("Alerts of loss guards", "campaign", "notifications.guardalert"),
                _item("Alerts of exchanges", "campaign", "notifications.breakeralert"),
                _item("Alerts of strange orders", "campaign", "notifications.strangeralert"),
                _item("Chats", "chat", "notifications.chat"),
                _item("Processes", "memory", "tradehub.process"),
                _item("Leases", "lock", "tracking.lease"),
                _item("Configuration version", "numbers", "exchanges.configversion"),
                collapsible=True,
            ),
        ],
    },
}
