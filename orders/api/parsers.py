"""What the API takes for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, Any

from rest_framework.exceptions import ParseError
from rest_framework.parsers import JSONParser

from orders.webhook.serializers import TOO_DEEP, oddity


class SaneJson(JSONParser):
    """JSON that can be stored and told again: not nested without end, and no half characters in it."""

    def parse(
        self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> Any:
        try:
            value = super().parse(stream, media_type, parser_context)
        except RecursionError as exc:
            raise ParseError(f"JSON parse error - {TOO_DEEP}") from exc
        if fault := oddity(value):
            raise ParseError(f"JSON parse error - {fault}")
        return value


class AnyJson(SaneJson):
    """Whatever the request calls its body: it is JSON, or it is refused."""

    media_type = "*/*"
