"""What of a delivered payload may be kept: everything but its secrets."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

REDACTED = "[redacted]"
SECRET_NAMES = frozenset({"token", "password", "secret", "api_key", "api_secret", "passphrase"})


def redact(text: str, payload: dict[str, Any], *, known: Iterable[str] = ()) -> str:
    """Return the delivered text without its secrets, otherwise as it came in.

    `known`: secrets that came another way (the token of a header). Where a secret is spelled in a way
    that a replacement does not see (escapes, a form around the JSON, a name given twice), the payload
    is written anew.
    """
    secrets = sorted({*_secrets(payload), *filter(None, known)}, key=len, reverse=True)
    shown = text
    for secret in secrets:
        shown = shown.replace(json.dumps(secret)[1:-1], REDACTED).replace(secret, REDACTED)
    if _still_tells(shown, secrets):
        return json.dumps(_blank(payload, secrets), default=str, ensure_ascii=False)
    return shown


def _secrets(value: Any, *, secret: bool = False) -> set[str]:
    """Return every text and number that stands under a secret's name, however deep."""
    if isinstance(value, dict):
        return set().union(*(_secrets(one, secret=secret or _is_secret(name)) for name, one in value.items()))
    if isinstance(value, list):
        return set().union(*(_secrets(one, secret=secret) for one in value))
    return {str(value)} if secret and isinstance(value, str | Decimal) and str(value) else set()


def _still_tells(text: str, secrets: Sequence[str]) -> bool:
    """Tell whether a reader of this JSON would find a secret in it. What is no JSON is not trusted."""
    told = False

    def look(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal told
        for name, value in pairs:  # also the pairs that a later one of the same name hides
            if _is_secret(name) and value not in (REDACTED, "", None):
                told = True
        if _any_in(pairs, secrets):
            told = True
        return {}

    try:
        json.loads(text.strip().rstrip("= \t\r\n"), parse_float=str, parse_int=str, object_pairs_hook=look)
    except (ValueError, RecursionError):
        return True
    return told


def _any_in(value: Any, secrets: Sequence[str]) -> bool:
    if isinstance(value, str):
        return any(secret in value for secret in secrets)
    return isinstance(value, list | tuple) and any(_any_in(one, secrets) for one in value)


def _blank(value: Any, secrets: Sequence[str]) -> Any:
    if isinstance(value, dict):
        return {
            _blank(name, secrets): REDACTED if _is_secret(name) else _blank(one, secrets)
            for name, one in value.items()
        }
    if isinstance(value, list):
        return [_blank(one, secrets) for one in value]
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, REDACTED)
    return value


def _is_secret(name: Any) -> bool:
    return str(name).strip().lower() in SECRET_NAMES
