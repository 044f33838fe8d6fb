from django.apps import AppConfig


class TradehubConfig(AppConfig):
    name = "tradehub"
