from django.apps import AppConfig


class ExchangesConfig(AppConfig):
    default_auto_field = "django.db.models.BigAutoField"
    name = "exchanges"

    def ready(self) -> None:
        from django.conf import settings

        from exchanges import bans, breakers, runtime  # noqa: F401  # processes tell each other of these

        runtime.options.breaker_seconds = settings.EXCHANGE_BREAKER_SECONDS
