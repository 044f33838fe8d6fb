from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from exchanges.credentials import UnreadableCredentials, credentials_reencrypt


class Command(BaseCommand):
    help = "Encrypt all stored credentials with the first of FIELD_ENCRYPTION_KEYS; the others can then go."

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            count = credentials_reencrypt()
        except UnreadableCredentials as error:
            raise CommandError(f"Nothing was changed. No key reads: {error}") from None
        self.stdout.write(f"The credentials of {count} accounts are encrypted with the first key.")
