"""The HTTP API of a service.

Reading order: ``app`` (routes and the ASGI app), ``api`` (what an endpoint works with), ``command_batcher`` (how
commands become one transaction), ``problems`` (refusals), ``documents`` (bodies, ETags, cursors), ``sse`` (streams),
``feed`` (all changes of one caller's), ``admission`` and ``disk_guard`` (what is let in), ``authentication`` (keys and
scopes), ``middleware``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quadrille import lazy

if TYPE_CHECKING:
    from quadrille.context import ProcessContext
    from quadrille.ids import from_milliseconds, uuid7
    from quadrille.processing.envelope import Envelope
    from quadrille.settings import Settings
    from quadrille.web.admission import AdmissionLimits
    from quadrille.web.api import EVENTS, Api, TheApi, answer, events
    from quadrille.web.app import Routes, call_of, make_app
    from quadrille.web.authentication import OPEN, needs
    from quadrille.web.disk_guard import DiskLimits
    from quadrille.web.documents import Document, Time, etag, json_of, matches, plain, shown, unchanged
    from quadrille.web.feed import follow_feed, kept, read_place, write_place
    from quadrille.web.idempotency import KEY_PROBLEMS, TheKey
    from quadrille.web.middleware import RequestContext
    from quadrille.web.openapi import Answer, html_page
    from quadrille.web.problems import KINDS, Kind, refuse, register
    from quadrille.web.sse import stream, wait_of
else:
    __getattr__ = lazy.face(
        __name__,
        {
            "quadrille.context": ("ProcessContext",),
            "quadrille.ids": ("from_milliseconds", "uuid7"),
            "quadrille.processing.envelope": ("Envelope",),
            "quadrille.settings": ("Settings",),
            "quadrille.web.admission": ("AdmissionLimits",),
            "quadrille.web.api": ("EVENTS", "Api", "TheApi", "answer", "events"),
            "quadrille.web.app": ("Routes", "call_of", "make_app"),
            "quadrille.web.authentication": ("OPEN", "needs"),
            "quadrille.web.disk_guard": ("DiskLimits",),
            "quadrille.web.documents": (
                *("Document", "Time", "etag", "json_of", "matches", "plain", "shown", "unchanged"),
            ),
            "quadrille.web.feed": ("follow_feed", "kept", "read_place", "write_place"),
            "quadrille.web.idempotency": ("KEY_PROBLEMS", "TheKey"),
            "quadrille.web.middleware": ("RequestContext",),
            "quadrille.web.openapi": ("Answer", "html_page"),
            "quadrille.web.problems": ("KINDS", "Kind", "refuse", "register"),
            "quadrille.web.sse": ("stream", "wait_of"),
        },
    )

__all__ = [
    "EVENTS",
    "KEY_PROBLEMS",
    "KINDS",
    "OPEN",
    "AdmissionLimits",
    "Answer",
    "Api",
    "DiskLimits",
    "Document",
    "Envelope",
    "Kind",
    "ProcessContext",
    "RequestContext",
    "Routes",
    "Settings",
    "TheApi",
    "TheKey",
    "Time",
    "answer",
    "call_of",
    "etag",
    "events",
    "follow_feed",
    "from_milliseconds",
    "html_page",
    "json_of",
    "kept",
    "make_app",
    "matches",
    "needs",
    "plain",
    "read_place",
    "refuse",
    "register",
    "shown",
    "stream",
    "unchanged",
    "uuid7",
    "wait_of",
    "write_place",
]
