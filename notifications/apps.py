from django.apps import AppConfig
from django.db.models.signals import post_migrate


class NotificationsConfig(AppConfig):
    default_auto_field = "django.db.models.BigAutoField"
    name = "notifications"

    def ready(self) -> None:
        from notifications import chats, listeners
        from notifications.schedules import schedule_register
        from orders import events
        from tracking.events import BreakerChanged, StrangersFound

        events.subscribe(events.OrderFailed, listeners.order_failed)
        events.subscribe(events.GuardTripped, listeners.guard_tripped)
        events.subscribe(BreakerChanged, listeners.breaker_changed)
        events.subscribe(StrangersFound, listeners.strangers_found)
        events.carry_alerts(chats.is_configured)
        post_migrate.connect(schedule_register, sender=self)
