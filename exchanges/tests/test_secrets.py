from __future__ import annotations

import pytest

from exchanges.adapters.secrets import Masker


class TestMasker:
    def test_hides_known_secrets_wherever_they_stand(self) -> None:
        mask = Masker("apikey-1234", "se/cret+5678")
        assert mask("a apikey-1234 b se/cret+5678 c se%2Fcret%2B5678") == "a *** b *** c ***"

    @pytest.mark.parametrize(
        ("text", "masked"),
        [
            ("?symbol=X&signature=abc&timestamp=1", "?symbol=X&signature=***&timestamp=1"),
            ('{"apiKey": "abc", "price": "1"}', '{"apiKey": "***", "price": "1"}'),
            ("{'listenKey': 'abc'}", "{'listenKey': '***'}"),
            ("X-MBX-APIKEY: abc", "X-MBX-APIKEY: ***"),
            ("Authorization: Bearer abc.def.ghi", "Authorization: Bearer ***"),
            ("wss://host/private/ws/pqia91ma19a5s61cv6a81va65sdf19v8", "wss://host/private/ws/***"),
        ],
    )
    def test_hides_what_stands_where_secrets_stand(self, text: str, masked: str) -> None:
        assert Masker()(text) == masked

    def test_leaves_ordinary_words_alone(self) -> None:
        text = "Invalid API-key, IP, or permissions for action. Filter failure: LOT_SIZE"
        assert Masker("k1")(text) == text

    def test_masks_before_it_cuts(self) -> None:
        assert Masker("apikey-1234")("x" * 8 + "apikey-1234", limit=10) == "xxxxxxxx**…"
