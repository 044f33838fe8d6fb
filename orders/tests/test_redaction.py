from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orders.webhook.redaction import REDACTED, redact
from orders.webhook.serializers import decode

TOKEN = "s3cr3t/t0k?n+ä"


def stored(text: str, *, known: tuple[str, ...] = ()) -> str:
    """What is kept of a delivered body."""
    return redact(text, decode(text.encode()), known=known)


def escaped(text: str) -> str:
    return "".join(f"\\u{ord(letter):04x}" for letter in text)


class TestRedact:
    def test_replaces_the_token_and_keeps_the_rest_as_it_came_in(self) -> None:
        text = ' {"token" : "s3cr3t-token",\n  "price":95000.10, "price2": "1e5"}\n'

        assert stored(text) == text.replace("s3cr3t-token", REDACTED)

    @pytest.mark.parametrize(
        "template",
        [
            '{"token": "PLAIN"}',
            '{"TOKEN ": "PLAIN"}',
            '{"token": "ESCAPED"}',
            '{"token": "PLAIN", "again": "ESCAPED"}',
            '{"token": "PLAIN", "comment": "use PLAIN here"}',
            '{"token": "PLAIN", "ESCAPED": 1}',
            '{"token": "PLAIN", "token": "another"}',
            '{"token": "ESCAPED", "token": "another"}',
            '{"\\u0074oken": "ESCAPED"}',
            '{"a": {"b": [{"token": "PLAIN"}]}}',
            '{"token": ["PLAIN"]}',
            '{"token": {"value": "ESCAPED"}}',
            '{"api_secret": "PLAIN"}',
            '{"token": "PLAIN"}==',
            quote_plus('{"token": "PLAIN"}'),
            "payload=" + quote_plus('{"token": "PLAIN"}'),
            "token=PLAIN&payload=" + quote_plus('{"a": 1}'),
        ],
    )
    def test_leaves_no_token_however_it_is_spelled(self, template: str) -> None:
        plain = quote_plus(TOKEN) if "%22" in template else TOKEN

        kept = stored(template.replace("PLAIN", plain).replace("ESCAPED", escaped(TOKEN)))

        assert TOKEN not in kept
        assert escaped(TOKEN) not in kept
        assert quote_plus(TOKEN) not in kept
        assert TOKEN not in str(json.loads(kept.rstrip("=")))

    @pytest.mark.parametrize("token", ["12345678", "1e5", "12345678.5"])
    def test_hides_a_token_that_is_a_number(self, token: str) -> None:
        kept = stored(f'{{"token": {token}, "price": 95000}}')

        assert token not in kept
        assert json.loads(kept)["token"] == REDACTED
        assert str(json.loads(kept)["price"]) == "95000"

    def test_hides_what_came_in_the_header(self) -> None:
        kept = stored(f'{{"note": "{TOKEN}", "price": 1}}', known=(TOKEN, ""))

        assert kept == '{"note": "[redacted]", "price": 1}'

    def test_keeps_the_payload_readable_when_the_token_is_a_single_letter(self) -> None:
        assert json.loads(stored('{"token": "e", "order_type": "LIMIT", "symbol": "BTC/USDT"}'))

    @pytest.mark.parametrize("text", ["{}", '{"token": ""}', '{"token": null}', '{"price": 1e5}'])
    def test_changes_nothing_where_there_is_no_secret(self, text: str) -> None:
        assert stored(text) == text

    @given(
        st.text(min_size=3, max_size=20),
        st.sampled_from(["token", "Token", " api_key"]),
        st.booleans(),
        st.dictionaries(st.text(max_size=5), st.lists(st.none() | st.integers() | st.text(max_size=5))),
        st.text(max_size=10),
    )
    def test_never_leaves_a_token(
        self, token: str, name: str, ascii_only: bool, around: Any, beside: str
    ) -> None:
        payload = {"around": around, name: token, "comment": beside + token, "inner": [{name: token}]}
        text = json.dumps(payload, ensure_ascii=ascii_only)

        found = json.loads(stored(text))

        assert found[name] == REDACTED
        assert found["inner"] == [{name: REDACTED}]
        assert token not in found["comment"].replace(REDACTED, "")
