"""`/api/orders/<uid>/resolve`: what is known of an unknown order, and a person's decision about it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from exchanges.fields import plain
from orders.api.answers import AnswersInOneShape, refusal
from orders.api.failed_orders import visible_to
from orders.api.failed_serializers import StrictSerializer
from orders.services.resolution import ResolutionCode, ResolutionRefused, order_resolve, unknown_order


class ReallyBoolean(serializers.BooleanField):
    """true or false, and nothing that could be taken for it: a decision about money."""

    def to_internal_value(self, data: Any) -> bool:
        if not isinstance(data, bool):
            self.fail("invalid", input=data)
        return data


class ResolveSerializer(StrictSerializer):
    exchange_order_id = serializers.RegexField(r"^[A-Za-z0-9_-]{1,64}$", required=False)
    never_placed = ReallyBoolean(required=False)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if ("exchange_order_id" in attrs) == (attrs.get("never_placed") is True):
            raise serializers.ValidationError('say either "exchange_order_id" or "never_placed": true')
        return attrs


class ResolveOrder(AnswersInOneShape):
    not_found = "There is no such order"

    def get(self, request: Request, uid: str) -> Response:
        """Show what is known, for whoever has to decide."""
        try:
            known = unknown_order(uid=uid, visible=visible_to(request))
        except ResolutionRefused as exc:
            return _refused(exc)
        told = asdict(known)
        for name in ("quantity", "price", "stop_price"):
            told[name] = None if told[name] is None else plain(told[name])
        return Response({"success": True} | told)

    def post(self, request: Request, uid: str) -> Response:
        body = ResolveSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        try:
            intent = order_resolve(
                uid=uid,
                exchange_order_id=body.validated_data.get("exchange_order_id"),
                by=request.user.get_username(),
                visible=visible_to(request),
            )
        except ResolutionRefused as exc:
            return _refused(exc)
        order, failed = getattr(intent, "open_order", None), getattr(intent, "failed_order", None)
        return Response(
            {
                "success": True,
                "home": intent.home,
                "status": order.status if order else None,
                "failed_order_id": failed.pk if failed else None,
            }
        )


def _refused(exc: ResolutionRefused) -> Response:
    return refusal(404 if exc.code is ResolutionCode.NOT_FOUND else 400, exc.code, exc.error)
