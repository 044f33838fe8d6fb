"""From an account row to the adapter that speaks for it."""

from __future__ import annotations

import hmac
import secrets

from cryptography.fernet import InvalidToken
from django.conf import settings

from exchanges import runtime, sharing
from exchanges.adapters.base import Exchange
from exchanges.adapters.exceptions import AuthenticationFailed
from exchanges.adapters.types import Credentials, Environment, MarketType
from exchanges.metadata import endpoints_for
from exchanges.models import Account
from exchanges.registry import adapter_for

WARM_UP_SECONDS = 10.0
# Ciphertext -> keys in clear: decrypting costs a fifth of a millisecond, on the way of every order.
_keys: dict[tuple[str, str, str], Credentials] = {}
_KEYS_KEPT = 4096
_FINGERPRINT_KEY = secrets.token_bytes(32)


def exchange_for(account: Account, market_type: str) -> Exchange:
    """Return the adapter of one account and market; the registry keeps and shares them.

    Raises UnsupportedOrder when the exchange has no such market, AuthenticationFailed when the stored
    keys cannot be decrypted. The first call starts the thread that shares bans and breakers.
    """
    if not settings.TESTING:
        sharing.watch()
    market = MarketType(market_type)
    return adapter_for(
        account.exchange,
        market,
        credentials=_credentials(account),
        endpoints=endpoints_for(
            account.exchange,
            market,
            Environment(account.environment),
            simulator_url=settings.SIMULATOR_URL,
            overrides=settings.EXCHANGE_URLS,
        ),
        timeout_seconds=settings.EXCHANGE_TIMEOUT_SECONDS,
        connect_timeout_seconds=settings.EXCHANGE_CONNECT_TIMEOUT_SECONDS,
        validity_seconds=settings.EXCHANGE_VALIDITY_SECONDS,
        rate_share=settings.EXCHANGE_RATE_SHARE,
    )


def _credentials(account: Account) -> Credentials:
    key = account.encrypted_api_key, account.encrypted_api_secret, account.encrypted_passphrase
    found = _keys.get(key)
    if found is None:
        if len(_keys) >= _KEYS_KEPT:
            _keys.clear()
        try:
            found = _keys[key] = account.credentials
        except InvalidToken as exc:
            sentence = "the account's stored keys cannot be read; enter them again"
            raise AuthenticationFailed(sentence, venue=account.exchange) from exc
    return found


def login_fingerprint(account: Account) -> str:
    """Return what changes when the account logs in with something else, and not when it is encrypted anew.

    Tells nothing of the keys, and is good in this process alone. Where they cannot be read it is that of
    what is stored.
    """
    try:
        keys = _credentials(account)
        login = keys.api_key, keys.api_secret, keys.passphrase
    except AuthenticationFailed:
        login = account.encrypted_api_key, account.encrypted_api_secret, account.encrypted_passphrase
    text = "\0".join((account.exchange, account.environment, *login))
    return hmac.new(_FINGERPRINT_KEY, text.encode(), "sha256").hexdigest()


def warm_up(account: Account, market_type: str) -> None:
    """Open the connections of an account's market and check that the account can be used.

    Raises ExchangeError in words a trader understands, TimeoutError after 10 s.
    """
    exchange = exchange_for(account, market_type)

    async def warm() -> None:
        await exchange.warm_up()
        await exchange.check_account()

    runtime.run(warm(), WARM_UP_SECONDS)
