"""How the API says no: one sentence, one word for machines, every fault."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.http import Http404
from rest_framework.exceptions import APIException, ValidationError
from rest_framework.response import Response
from rest_framework.views import APIView, exception_handler

NOT_FOUND = "There is nothing of this name"


def refusal(status: int, code: str, error: str, **more: Any) -> Response:
    return Response({"success": False, "error": error, "code": code} | more, status=status)


class AnswersInOneShape(APIView):
    """Its refusals all look alike: `success`, `error`, `code`, and `errors` where there are faults."""

    not_found = NOT_FOUND

    def get_exception_handler(self) -> Callable[..., Response | None]:
        return self._refuse

    def _refuse(self, exc: Exception, context: dict[str, Any]) -> Response | None:
        if isinstance(exc, RequestDataTooBig):
            limit = (settings.DATA_UPLOAD_MAX_MEMORY_SIZE or 0) // 1024
            return refusal(413, "body_too_large", f"The body is larger than {limit} KiB")
        response = exception_handler(exc, context)  # also sets status, headers, and undoes a transaction
        if response is None:
            return None
        if isinstance(exc, ValidationError):
            faults = list(_faults(exc.detail))
            error = "; ".join(f"{fault['field']}: {fault['message']}" for fault in faults[:5])
            body = {"error": error, "code": "invalid_request", "errors": faults}
        elif isinstance(exc, Http404):
            body = {"error": self.not_found, "code": "not_found"}
        else:
            assert isinstance(exc, APIException) or response.status_code == 403
            detail = getattr(exc, "detail", "You may not do this")
            body = {"error": str(detail), "code": getattr(detail, "code", "permission_denied")}
        response.data = {"success": False} | body
        return response


def _faults(detail: Any, field: str = "") -> Iterator[dict[str, str]]:
    """Flatten DRF's nested errors to one fault each, by the field's path."""
    if isinstance(detail, Mapping):
        for name, inner in detail.items():
            path = str(name) if name != "non_field_errors" else "body"
            yield from _faults(inner, f"{field}.{path}" if field else path)
    elif isinstance(detail, list | tuple):
        for inner in detail:
            yield from _faults(inner, field)
    else:
        yield {"field": field or "body", "message": str(detail)}
