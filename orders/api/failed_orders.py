"""Failed orders over HTTP: to look at, to retry, to put aside. What is somebody else's does not exist."""

from __future__ import annotations

from typing import Any

from django.http import Http404, StreamingHttpResponse
from rest_framework.request import Request
from rest_framework.response import Response

from orders.api.answers import AnswersInOneShape, refusal
from orders.api.failed_csv import csv_response
from orders.api.failed_serializers import (
    LARGEST_ID,
    BulkSerializer,
    FilterSerializer,
    PageSerializer,
    ScheduleSerializer,
    StatsSerializer,
    as_json,
    iso,
)
from orders.clock import database_now
from orders.failed_selectors import FailedFilter, failed_page, failed_stats, failed_stream
from orders.models import FailedOrder
from orders.selectors import Visible
from orders.services.failed_orders import (
    BulkAction,
    Refused,
    failed_order_remove,
    failed_order_retry,
    failed_order_schedule,
    failed_orders_bulk,
)
from orders.services.retries import NOT_FOUND, Code, RetryResult

PAGE_SIZE = 50


def visible_to(request: Request) -> Visible:
    """A person's own rows; staff sees everybody's."""
    return Visible(user_id=None if request.user.is_staff else request.user.pk)


class FailedOrderView(AnswersInOneShape):
    not_found = NOT_FOUND.error

    def own_id(self) -> int:
        """Return the id of the address. Raises Http404 for nonsense and for what is not this person's."""
        text: str = self.kwargs["failed_order_id"]
        if not (text.isascii() and text.isdigit() and int(text) <= LARGEST_ID):
            raise Http404
        if not FailedOrder.objects.filter(visible_to(self.request).rows(), pk=int(text)).exists():
            raise Http404
        return int(text)

    def by(self) -> str:
        return self.request.user.get_username()


class FailedOrderList(FailedOrderView):
    """`GET /api/failed-orders`: the unresolved first, then the latest; removed ones with `status=removed`."""

    def get(self, request: Request) -> Response:
        asked = _asked(PageSerializer, request)
        page = asked.pop("page")
        rows, count = failed_page(
            visible_to(request),
            FailedFilter(**asked),
            now=database_now(),
            start=(page - 1) * PAGE_SIZE,
            size=PAGE_SIZE,
        )
        orders = [as_json(row) for row in rows]
        after = _page_after(request, page) if page * PAGE_SIZE < count else None
        return Response({"success": True, "orders": orders, "count": count, "next": after})


class FailedOrderDetail(FailedOrderView):
    def delete(self, request: Request, failed_order_id: str) -> Response:
        return _done_or_refused(failed_order_remove, failed_order_id=self.own_id(), by=self.by())


class FailedOrderRetry(FailedOrderView):
    def post(self, request: Request, failed_order_id: str) -> Response:
        result = failed_order_retry(failed_order_id=self.own_id(), by=self.by())
        return Response(result.as_json(), status=_status(result))


class FailedOrderSchedule(FailedOrderView):
    """`{"at": "2026-07-21T12:00:00Z"}`; null takes the schedule back."""

    def post(self, request: Request, failed_order_id: str) -> Response:
        pk = self.own_id()
        body = ScheduleSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        return _done_or_refused(
            failed_order_schedule, failed_order_id=pk, at=body.validated_data["at"], by=self.by()
        )


class FailedOrderBulk(FailedOrderView):
    """Results in the order of the ids; an id that is named twice is done once."""

    def post(self, request: Request) -> Response:
        body = BulkSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        results = failed_orders_bulk(
            action=BulkAction(body.validated_data["action"]),
            failed_order_ids=list(dict.fromkeys(body.validated_data["ids"])),
            by=self.by(),
            visible=visible_to(request),
        )
        told = [{"id": pk, "status": _status(one)} | one.as_json() for pk, one in results.items()]
        succeeded = sum(one.success for one in results.values())
        return Response(
            {
                "success": succeeded > 0,
                "results": told,
                "succeeded": succeeded,
                "failed": len(told) - succeeded,
            }
        )


class FailedOrderExport(FailedOrderView):
    """`GET /api/failed-orders/export.csv` with the list's filters."""

    def get(self, request: Request) -> StreamingHttpResponse:
        wanted = FailedFilter(**_asked(FilterSerializer, request))
        rows = failed_stream(visible_to(request), wanted, now=database_now())
        return csv_response(request._request, rows)


class FailedOrderStats(FailedOrderView):
    def get(self, request: Request) -> Response:
        days = _asked(StatsSerializer, request)["days"]
        stats = failed_stats(visible_to(request), now=database_now(), days=days)
        return Response(
            {
                "success": True,
                "days": days,
                "total": stats.total,
                "by_reason": _counted("reason", stats.by_reason),
                "by_error_type": _counted("error_type", stats.by_error_type),
                "by_symbol": _counted("symbol", stats.by_symbol),
                "by_day": _counted("day", stats.by_day),
                "strategies": [
                    {
                        "strategy": rate.strategy,
                        "orders": rate.orders,
                        "succeeded": rate.succeeded,
                        "failed": rate.failed,
                        "success_rate": None if rate.success_rate is None else str(rate.success_rate),
                    }
                    for rate in stats.strategies
                ],
            }
        )


def _asked(serializer: type[PageSerializer | FilterSerializer | StatsSerializer], request: Request) -> Any:
    query = serializer(data=request.query_params)
    query.is_valid(raise_exception=True)
    return dict(query.validated_data)


def _page_after(request: Request, page: int) -> str:
    query = request.query_params.copy()
    query["page"] = str(page + 1)
    return request.build_absolute_uri(f"{request.path}?{query.urlencode()}")


def _counted(name: str, counts: dict[Any, int]) -> list[dict[str, Any]]:
    return [{name: what, "count": count} for what, count in counts.items()]


def _status(result: RetryResult) -> int:
    if result.success:
        return 200
    return 404 if result.code == Code.NOT_FOUND else 400


def _done_or_refused(act: Any, **what: Any) -> Response:
    try:
        at = act(**what)
    except Refused as exc:
        return refusal(404 if exc.code is Code.NOT_FOUND else 400, exc.code, exc.error)
    if "at" in what:
        return Response({"success": True, "next_retry_at": iso(at) if at else None})
    return Response({"success": True})
