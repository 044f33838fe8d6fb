"""Rows made the quick way are the rows that Django would have made."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from django.db import models

from orders.models import OpenOrder, OrderEvent, OrderIntent, PendingOrder, Placement, WebhookDelivery
from orders.models.quick import QuickModel
from orders.tests.factories import NOON

MODELS = (OpenOrder, OrderEvent, OrderIntent, PendingOrder, Placement, WebhookDelivery)


def columns(row: models.Model) -> dict[str, Any]:
    return {field.attname: getattr(row, field.attname) for field in row._meta.concrete_fields}


def slowly(model: type[models.Model], **values: Any) -> models.Model:
    """Make a row with Django's own constructor."""
    row = model.__new__(model)
    models.Model.__init__(row, **values)
    return row


class TestQuickModel:
    @pytest.mark.parametrize("model", MODELS)
    def test_has_the_defaults_of_its_fields(self, model: type[QuickModel]) -> None:
        assert columns(model()) == columns(slowly(model))

    def test_has_mutable_defaults_of_its_own(self) -> None:
        first, second = OrderEvent(), OrderEvent()
        first.data["code"] = "-2010"

        assert second.data == {}

    def test_knows_what_its_foreign_keys_refer_to_and_is_known_by_it(self) -> None:
        intent = OrderIntent(pk=7, quantity=Decimal(1))
        placement = Placement(pk=8, intent=intent, created_at=NOON)

        order = OpenOrder(intent=intent, placement=placement)

        assert (order.pk, order.intent_id, order.placement_id) == (7, 7, 8)
        assert order.intent is intent
        assert placement.open_order is order
        assert intent.open_order is order
        assert columns(order) == columns(slowly(OpenOrder, intent=intent, placement=placement))

    def test_takes_none_for_what_it_refers_to(self) -> None:
        assert WebhookDelivery(strategy=None).strategy_id is None

    def test_is_new_until_it_is_read(self) -> None:
        read = Placement.from_db("default", ["id", "number"], [8, 2])

        assert Placement()._state.adding
        assert (read.pk, read.number, read._state.adding, read._state.db) == (8, 2, False, "default")
        assert read.get_deferred_fields() >= {"quantity", "outcome"}

    def test_refuses_what_is_no_field(self) -> None:
        with pytest.raises(TypeError, match="colour"):
            Placement(colour="red")  # type: ignore[misc]

    def test_refuses_a_row_of_another_kind(self) -> None:
        with pytest.raises(AssertionError, match="OrderIntent"):
            Placement(intent=WebhookDelivery())  # type: ignore[misc]
