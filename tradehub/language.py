"""Which language a person reads: the one of their profile, else the browser's."""

from __future__ import annotations

from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.utils import translation
from django.views.decorators.http import require_POST
from django.views.i18n import set_language

from orders.models import UserProfile

SESSION_KEY = "language"  # a copy of the profile's, so that a request costs no query more


class ProfileLanguageMiddleware:
    """Speaks the language of the profile. It stands after LocaleMiddleware, which asks the browser."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if request.session.session_key and (language := _language_of(request)):
            translation.activate(language)
            request.LANGUAGE_CODE = translation.get_language() or language
        return self._get_response(request)


def _language_of(request: HttpRequest) -> str:
    if not request.user.is_authenticated:
        return ""
    if SESSION_KEY not in request.session:
        profile = UserProfile.objects.filter(pk=request.user.pk).values_list("language", flat=True)
        request.session[SESSION_KEY] = profile.first() or ""
    return str(request.session[SESSION_KEY])


@require_POST
def language_choose(request: HttpRequest) -> HttpResponse:
    """Remember the chosen language: in the browser, and for a person who is logged in in their profile."""
    language = request.POST.get("language", "")
    if request.user.is_authenticated and language in dict(settings.LANGUAGES):
        UserProfile.objects.update_or_create(pk=request.user.pk, defaults={"language": language})
        request.session[SESSION_KEY] = language
    return set_language(request)
