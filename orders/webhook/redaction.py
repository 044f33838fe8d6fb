"""What of a delivered payload may be kept: everything but its secrets."""

from __future__ import annotations

import json
import re
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


def _secrets(payload: dict[str, Any]) -> set[str]:
    """Return every text and number that stands under a secret's name, however deep."""
    found: set[str] = set()
    open_still: list[tuple[Any, bool]] = [(payload, False)]
    while open_still:
        value, secret = open_still.pop()
        if isinstance(value, dict):
            for name, one in value.items():
                inside = secret or _is_secret(name)
                if inside or isinstance(one, dict | list):
                    open_still.append((one, inside))
        elif isinstance(value, list):
            open_still += [(one, secret) for one in value]
        elif secret and isinstance(value, str | Decimal) and str(value):
            found.add(str(value))
    return found


def _still_tells(text: str, secrets: Sequence[str]) -> bool:
    """Tell whether a reader of this JSON would find a secret in it. What is no JSON is not trusted."""
    if _is_literal(text):
        # Nothing is spelled in another way than it reads: where no secret stands, none is told.
        if any(secret in text for secret in secrets):
            return True
        return _UNSTRUCK.search(text) is not None
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


_UNSTRUCK = re.compile(
    rf"""["]\s*(?:{"|".join(sorted(SECRET_NAMES))})\s*["]\s*:\s*+(?!"{re.escape(REDACTED)}"|""|null)""",
    re.IGNORECASE,
)


def _is_literal(text: str) -> bool:
    """Tell whether a text is JSON without escapes: its names and texts stand in it letter by letter."""
    if "\\" in text or not text.isascii():
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


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
