"""Stored credentials: keeping them out of texts, and changing the key that they are encrypted with."""

from __future__ import annotations

from cryptography.fernet import InvalidToken
from django.db import transaction

from exchanges.adapters.secrets import Masker
from exchanges.fields import reencrypt
from exchanges.models import Account

ENCRYPTED_FIELDS = ("encrypted_api_key", "encrypted_api_secret", "encrypted_passphrase")


class UnreadableCredentials(Exception):
    """None of FIELD_ENCRYPTION_KEYS reads the credentials of these accounts."""

    def __init__(self, accounts: list[str]) -> None:
        self.accounts = accounts
        super().__init__(", ".join(accounts))


def masker_for(account: Account) -> Masker:
    """Return what takes the account's secrets out of a text."""
    try:
        keys = account.credentials
    except InvalidToken:
        return Masker()  # keys that cannot be read are in no text either
    return Masker(*filter(None, (keys.api_key, keys.api_secret, keys.passphrase)))


def credentials_reencrypt() -> int:
    """Encrypt every account's credentials with the first key, and return how many accounts there are.

    All or nothing: an operator who drops the old key afterwards must not lose a single account.
    Raises UnreadableCredentials that names every account which no key reads.
    """
    unreadable = []
    with transaction.atomic():
        accounts = Account.objects.select_for_update().order_by("pk")
        for account in accounts:
            try:
                for name in ENCRYPTED_FIELDS:
                    setattr(account, name, reencrypt(getattr(account, name)))
            except InvalidToken:
                unreadable.append(f"{account.name} (id {account.pk})")
                continue
            account.save(update_fields=[*ENCRYPTED_FIELDS, "updated_at"])
        if unreadable:
            raise UnreadableCredentials(unreadable)
    return len(accounts)
