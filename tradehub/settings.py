"""Settings, read from the environment and from `.env`. Every one is explained in `.env.example`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import django_stubs_ext
import environ
from cryptography.fernet import Fernet
from django.core.exceptions import ImproperlyConfigured

from tradehub import logs, security, theme
from tradehub.databases import database_settings
from tradehub.durations import Durations

django_stubs_ext.monkeypatch()  # lets Django classes take type arguments at run time

BASE_DIR = Path(__file__).resolve().parent.parent

TESTING = "pytest" in sys.modules
env = environ.Env()
if not TESTING:  # tests see the environment they were started with, not somebody's own settings
    environ.Env.read_env(env.str("DOTENV", default=str(BASE_DIR / ".env")))

DEBUG = env.bool("DEBUG", default=False)
# Served over TLS, by a proxy in front of us. One switch for everything that must not work without it.
HTTPS = env.bool("HTTPS", default=not DEBUG and not TESTING)

# Secrets have no default in production: a known key is worse than no start.
_DEVELOPMENT_KEY = "development-only-key-never-for-real-money-0000000000000000"
SECRET_KEY = env.str("SECRET_KEY", default="") or (_DEVELOPMENT_KEY if DEBUG or TESTING else "")
SECRET_KEY_FALLBACKS = env.list("SECRET_KEY_FALLBACKS", default=[])
# The Fernet key of the same kind, for development and tests only.
_DEVELOPMENT_FERNET_KEY = "ZGV2ZWxvcG1lbnQtb25seS1rZXktMDAwMDAwMDAwMDA="
FIELD_ENCRYPTION_KEYS: list[str] = env.list("FIELD_ENCRYPTION_KEYS", default=[]) or (
    [_DEVELOPMENT_FERNET_KEY] if DEBUG or TESTING else []
)
if missing := [name for name in ("SECRET_KEY", "FIELD_ENCRYPTION_KEYS") if not globals()[name]]:
    raise ImproperlyConfigured(
        f"{' and '.join(missing)} must be set (see .env.example), or DEBUG=true for development."
    )

try:
    for key in FIELD_ENCRYPTION_KEYS:
        Fernet(key)
except ValueError as error:
    raise ImproperlyConfigured(f"FIELD_ENCRYPTION_KEYS: {error}") from None

ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])
CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS", default=[])
TRUSTED_PROXIES: list[str] = env.list("TRUSTED_PROXIES", default=[])

SECURE_SSL_REDIRECT = env.bool("SECURE_SSL_REDIRECT", default=HTTPS)
SECURE_REDIRECT_EXEMPT = [r"^healthz$", r"^readyz$", r"^metrics$"]  # asked from the machine itself
if HTTPS:
    # The proxy in front of us must set this header and drop the one that a client sends.
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SECURE_HSTS_SECONDS = env.int("SECURE_HSTS_SECONDS", default=365 * 24 * 3600 if HTTPS else 0)
SECURE_HSTS_INCLUDE_SUBDOMAINS = env.bool("SECURE_HSTS_INCLUDE_SUBDOMAINS", default=HTTPS)
SECURE_HSTS_PRELOAD = env.bool("SECURE_HSTS_PRELOAD", default=HTTPS)
SECURE_REFERRER_POLICY = "same-origin"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_AGE = 14 * 24 * 3600
X_FRAME_OPTIONS = "DENY"
CONTENT_SECURITY_POLICY = {"DIRECTIVES": security.PAGE_POLICY}

INSTALLED_APPS = [
    "tradehub",  # first: its qcluster command wraps django-q2's
    "daphne",
    "unfold",
    "unfold.contrib.filters",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "channels",
    "rest_framework",
    "django_q",
    "axes",
    "csp",
    "exchanges",
    "orders",
    "tracking",
    "notifications",
]

MIDDLEWARE = [
    "tradehub.logs.CorrelationMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "tradehub.security.ContentSecurityPolicyMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "tradehub.language.ProfileLanguageMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "axes.middleware.AxesMiddleware",
]

ROOT_URLCONF = "tradehub.urls"
ASGI_APPLICATION = "tradehub.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]


DATABASES = {
    "default": database_settings(
        env.str("DATABASE_URL", default="") or f"sqlite:///{BASE_DIR / 'tradehub.sqlite3'}",
        pool_min=env.int("DATABASE_POOL_MIN", default=2),
        pool_max=env.int("DATABASE_POOL_MAX", default=20),
        prepare=env.bool("DATABASE_PREPARE", default=True),
        pooled="qcluster" not in sys.argv,  # the worker forks
    )
}
if TESTING:
    name = env.str("TEST_DATABASE_NAME", default="")
    if not name and DATABASES["default"]["ENGINE"].endswith("sqlite3"):
        # A file, as in production: in memory there is no write-ahead log and threads lock each other out.
        name = f"{gettempdir()}/tradehub-test-{os.getpid()}.sqlite3"
    DATABASES["default"]["TEST"] = {"NAME": name or None}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

REDIS_URL = env.str("REDIS_URL", default="")
if REDIS_URL:
    CHANNEL_LAYERS = {
        "default": {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": {"hosts": [REDIS_URL]}}
    }
    CACHES = {
        "default": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": REDIS_URL,
            # A Redis that hangs must not hold the threads that work webhooks.
            "OPTIONS": {"socket_timeout": 1.0, "socket_connect_timeout": 1.0},
        }
    }
else:
    CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}

WORKERS = env.int("WORKERS", default=2)
if WORKERS < 1:
    raise ImproperlyConfigured("WORKERS must be at least 1: else no background job is ever done")
Q_CLUSTER: dict[str, Any] = {
    "name": "tradehub",
    "workers": WORKERS,
    "timeout": 120,
    "retry": 180,
    "max_attempts": 3,
    "catch_up": False,
    "save_limit": 500,
    "label": "Background jobs",
    "poll": 1,
}
Q_CLUSTER |= {"redis": REDIS_URL} if REDIS_URL else {"orm": "default"}

AUTHENTICATION_BACKENDS = [
    "axes.backends.AxesStandaloneBackend",
    "django.contrib.auth.backends.ModelBackend",
]
AXES_FAILURE_LIMIT = 10
AXES_COOLOFF_TIME = 0.25  # hours
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_LOCKOUT_TEMPLATE = "lockout.html"
AXES_RESET_ON_SUCCESS = True
AXES_CLIENT_IP_CALLABLE = "tradehub.addresses.login_address"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]
LOGIN_URL = "/login/"
LOGIN_REDIRECT_URL = "/positions"
LOGOUT_REDIRECT_URL = "/login/"

LANGUAGE_CODE = "en"
LANGUAGES = [("en", "English"), ("ko", "한국어")]
LOCALE_PATHS = [BASE_DIR / "locale"]
TIME_ZONE = "UTC"
USE_TZ = True

UNFOLD = theme.UNFOLD

STATIC_URL = "/static/"
STATIC_ROOT = env.str("STATIC_ROOT", default="") or None
STATICFILES_DIRS = [BASE_DIR / "static"]
WHITENOISE_USE_FINDERS = True  # straight from the packages and `static/`: no collectstatic to forget

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["rest_framework.authentication.SessionAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": [
        "orders.api.parsers.SaneJson",
        "rest_framework.parsers.FormParser",
        "rest_framework.parsers.MultiPartParser",
    ],
    "COERCE_DECIMAL_TO_STRING": True,
}

# --- tradehub's own ---------------------------------------------------------------------------------

WEBHOOK_TIMEOUT_SECONDS = env.float("WEBHOOK_TIMEOUT_SECONDS", default=5.0)
if not WEBHOOK_TIMEOUT_SECONDS > 0:
    raise ImproperlyConfigured("WEBHOOK_TIMEOUT_SECONDS must be above 0: else every sender gets a 408")
WEBHOOK_ALLOWED_IPS = env.list("WEBHOOK_ALLOWED_IPS", default=[])  # empty: any; "tradingview" is a preset
WEBHOOK_MAX_BODY_BYTES = 64 * 1024
WEBHOOK_THREADS = env.int("WEBHOOK_THREADS", default=48)
if WEBHOOK_THREADS < 1:
    raise ImproperlyConfigured("WEBHOOK_THREADS must be at least 1: else no webhook is ever worked on")

# Waiting times, in seconds, with the least that is safe.
SHORT_TIMES = env.bool("SHORT_TIMES", default=False)  # for tests against the simulator alone
_durations = Durations(env, short=SHORT_TIMES)
DELIVERY_LEASE_SECONDS = _durations.seconds("DELIVERY_LEASE_SECONDS", default=10, least=5)
SUBMIT_WITHIN_SECONDS = _durations.seconds("SUBMIT_WITHIN_SECONDS", default=10, least=1)  # `send_by`
EXCHANGE_TIMEOUT_SECONDS = _durations.seconds("EXCHANGE_TIMEOUT_SECONDS", default=10, least=2)
EXCHANGE_CONNECT_TIMEOUT_SECONDS = _durations.seconds(
    "EXCHANGE_CONNECT_TIMEOUT_SECONDS", default=3, least=0.5
)
EXCHANGE_VALIDITY_SECONDS = _durations.seconds("EXCHANGE_VALIDITY_SECONDS", default=5, least=1)  # recvWindow
RESOLVE_MARGIN_SECONDS = _durations.seconds("RESOLVE_MARGIN_SECONDS", default=10, least=5)
RESOLVE_AGAIN_SECONDS = _durations.seconds("RESOLVE_AGAIN_SECONDS", default=2, least=1)
RESOLVE_CLAIM_SECONDS = _durations.seconds("RESOLVE_CLAIM_SECONDS", default=30, least=10)
STREAM_LEASE_SECONDS = _durations.seconds("STREAM_LEASE_SECONDS", default=10, least=5)
RECONCILE_SECONDS = _durations.seconds("RECONCILE_SECONDS", default=29, least=5)  # while the stream is up
RECONCILE_DOWN_SECONDS = _durations.seconds("RECONCILE_DOWN_SECONDS", default=10, least=2)
SWEEP_SECONDS = _durations.seconds("SWEEP_SECONDS", default=30, least=5)

# Most LIMIT orders that rest per symbol and account; STOP orders have a quarter of it beside them.
QUEUE_LIMIT_CAP = env.int("QUEUE_LIMIT_CAP", default=20)
if QUEUE_LIMIT_CAP < 1:
    raise ImproperlyConfigured("QUEUE_LIMIT_CAP must be at least 1: else every order would wait forever")

# Each process's part of what the exchange allows our address and an account. Bans are shared anyway.
EXCHANGE_RATE_SHARE = env.float("EXCHANGE_RATE_SHARE", default=1.0)
if not 0 < EXCHANGE_RATE_SHARE <= 1:
    raise ImproperlyConfigured("EXCHANGE_RATE_SHARE is a part of the exchange's limits: above 0, at most 1")
# How long an exchange that cannot be reached is left alone before one request tries again.
EXCHANGE_BREAKER_SECONDS = env.float("EXCHANGE_BREAKER_SECONDS", default=30.0)
if not EXCHANGE_BREAKER_SECONDS > 0:
    raise ImproperlyConfigured("EXCHANGE_BREAKER_SECONDS must be above 0")
SIMULATOR_URL = env.str("SIMULATOR_URL", default="http://127.0.0.1:9800")
# EXCHANGE_URL_<EXCHANGE>_<MARKET>_<REST|WS>, for proxies and for tests: wins over the environment.
EXCHANGE_URLS = {name: value for name, value in env.ENVIRON.items() if name.startswith("EXCHANGE_URL_")}

# Who shows it as a bearer token may read /metrics; without it there is no such page.
METRICS_TOKEN = env.str("METRICS_TOKEN", default="")
if METRICS_TOKEN and len(METRICS_TOKEN) < 16:
    raise ImproperlyConfigured(
        "METRICS_TOKEN can be guessed: give it 16 characters at least, or leave it empty"
    )

TRACKING_VERIFY = env.str("TRACKING_VERIFY", default="gaps")
if TRACKING_VERIFY not in ("gaps", "always"):
    raise ImproperlyConfigured(f'TRACKING_VERIFY must be "gaps" or "always"; it is "{TRACKING_VERIFY}"')
TICKER_SECONDS = env.float("TICKER_SECONDS", default=2.0)
if not TICKER_SECONDS >= 0.5:
    raise ImproperlyConfigured("TICKER_SECONDS must be at least 0.5: every round asks the exchanges")

TELEGRAM_BOT_TOKEN = env.str("TELEGRAM_BOT_TOKEN", default="")
TELEGRAM_CHAT_ID = env.str("TELEGRAM_CHAT_ID", default="")
TELEGRAM_API_URL = env.str("TELEGRAM_API_URL", default="https://api.telegram.org")

LOG_LEVEL = env.str("LOG_LEVEL", default="INFO")
LOG_JSON = env.bool("LOG_JSON", default=not DEBUG and not TESTING)
LOGGING = logs.configure(level=LOG_LEVEL, as_json=LOG_JSON)
