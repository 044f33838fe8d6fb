from __future__ import annotations

import io

import pytest
from cryptography.fernet import Fernet
from django.core.management import CommandError, call_command
from pytest_django.fixtures import Settings

from exchanges.models import Account
from exchanges.tests.test_models import SECRET, make_account


@pytest.mark.django_db
class TestRotateKeys:
    def test_makes_the_old_key_needless(self, settings: Settings) -> None:
        old, new = Fernet.generate_key().decode(), Fernet.generate_key().decode()
        settings.FIELD_ENCRYPTION_KEYS = [old]
        make_account()

        settings.FIELD_ENCRYPTION_KEYS = [new, old]
        call_command("rotate_keys", stdout=io.StringIO())

        settings.FIELD_ENCRYPTION_KEYS = [new]
        assert Account.objects.get().credentials.api_secret == SECRET

    def test_changes_nothing_when_one_account_cannot_be_read(self, settings: Settings) -> None:
        lost, old, new = (Fernet.generate_key().decode() for _ in range(3))
        settings.FIELD_ENCRYPTION_KEYS = [old]
        before = make_account("readable").encrypted_api_secret
        settings.FIELD_ENCRYPTION_KEYS = [lost]
        make_account("unreadable")

        settings.FIELD_ENCRYPTION_KEYS = [new, old]
        with pytest.raises(CommandError, match=r"No key reads: unreadable \(id \d+\)"):
            call_command("rotate_keys")

        assert Account.objects.get(name="readable").encrypted_api_secret == before
