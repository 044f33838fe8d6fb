"""Keep secrets out of every text that leaves an adapter: errors, logs, raw messages."""

from __future__ import annotations

import re
from urllib.parse import quote

MASK = "***"
_SHORTEST = (
    6  # shorter ones would mask half of an ordinary sentence; as a named parameter they go all the same
)
_NAMED = re.compile(
    r"""(?ix)
    ( signature | listen_?key | api_?key | api_?secret | secret(?:_?key)? | passphrase
    | access_?token | approval_?key | token | x-mbx-apikey )
    ( ["']? \s* [=:] \s* ["']? )
    [^&"'\s,}\])]+
    """
)
_BEARER = re.compile(r"(?i)\b(bearer\s+)\S+")
_STREAM_PATH = re.compile(r"(/(?:ws|stream)/)[A-Za-z0-9_-]{24,}")


class Masker:
    """Replaces known secrets, and whatever stands where secrets usually stand, by `***`."""

    def __init__(self, *secrets: str) -> None:
        self._secrets: set[str] = set()
        self.add(*secrets)

    def add(self, *secrets: str) -> None:
        for secret in secrets:
            if len(secret) >= _SHORTEST:
                self._secrets |= {secret, quote(secret, safe="")}

    def __call__(self, text: str, *, limit: int = 500) -> str:
        """Return the text without secrets, at most `limit` characters of it."""
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, MASK)
        text = _STREAM_PATH.sub(rf"\1{MASK}", text)
        text = _BEARER.sub(rf"\1{MASK}", text)
        text = _NAMED.sub(rf"\1\2{MASK}", text)
        return text if len(text) <= limit else text[:limit] + "…"
