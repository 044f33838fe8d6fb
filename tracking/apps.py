from django.apps import AppConfig
from django.db.models.signals import post_migrate


class TrackingConfig(AppConfig):
    default_auto_field = "django.db.models.BigAutoField"
    name = "tracking"

    def ready(self) -> None:
        from exchanges.breakers import on_change
        from orders.events import EventsLogged, subscribe
        from tracking import bell
        from tracking.breaker_events import breaker_changed
        from tracking.schedules import schedules_register

        subscribe(EventsLogged, lambda fact: bell.ring())
        on_change(breaker_changed)
        post_migrate.connect(schedules_register, sender=self)
