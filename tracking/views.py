"""The live page as it is first drawn; its socket takes over from there."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

from django.contrib.auth import get_user_model
from django.contrib.auth.mixins import LoginRequiredMixin
from django.utils import timezone, translation
from django.utils.decorators import method_decorator
from django.views.decorators.cache import never_cache
from django.views.generic import TemplateView

from orders.selectors import strategy_accounts
from tracking import wording
from tracking.live import LiveView
from tracking.visibility import visible_to


@method_decorator(never_cache, name="dispatch")
class PositionsView(LoginRequiredMixin, TemplateView):
    """`?user=` (staff only) and `?strategy_account=` narrow what is shown."""

    template_name = "positions/page.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        user: Any = self.request.user
        visible = visible_to(user, self.request.GET)
        language = translation.get_language() or ""
        query: dict[str, int | str] = {"lang": language}
        if user.is_staff and visible.user_id is not None:
            query["user"] = visible.user_id
        if visible.strategy_account_id is not None:
            query["strategy_account"] = visible.strategy_account_id
        live = LiveView(visible, language=language)
        live.show_failed(self.request.GET.dict())
        people = get_user_model().objects.filter(strategies__isnull=False).distinct().order_by("username")
        return super().get_context_data(
            **kwargs,
            **live.first_page(now=timezone.now()),
            socket_address=f"/ws/positions/?{urlencode(query)}",
            chosen=query,
            strategy_accounts=strategy_accounts(visible.user_id),
            people=people if user.is_staff else [],
            error_types=wording.ERROR_TYPES,
            failed_words=_words(),
        )


def _words() -> str:
    """What the page's script says, in the reader's language; a refusal's word begins with "code:"."""
    words = {key: str(text) for key, text in wording.ACTING.items()}
    words |= {f"code:{code}": str(text) for code, text in wording.REFUSALS.items()}
    words |= {f"error:{kind}": str(text) for kind, text in wording.ERROR_TYPES.items()}
    return json.dumps(words, ensure_ascii=False)
