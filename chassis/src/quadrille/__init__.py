"""Quadrille's chassis: event-driven services that finish a saga together, each effect once.

Reading order: ``messages`` (the kinds of message), ``handlers`` (what a service does with each), ``rows`` (what a
handler may touch), ``intents`` (calls to the outside), ``processing.batch`` (the one transaction all of it happens in).
Then the other faces: ``quadrille.service``, ``quadrille.gateway``, ``quadrille.web``, ``quadrille.app``,
``quadrille.testing``.

This face is all that pure code needs: a service's ``events.py``, ``domain.py`` and ``handlers.py`` import nothing else
of the library.
"""

from __future__ import annotations

from quadrille.handlers import HandlerRegistry
from quadrille.intents import Decision
from quadrille.messages import AnyRecord, Command, Emitted, Event, Intent, Message, NotYet, Reply, Result, Timer, key_of
from quadrille.rows import Rows
from quadrille.system_messages import (
    CompensationAnswered,
    FindingRaised,
    OrderStuck,
    ResolveCompensation,
    RetryCompensation,
    not_owed,
)
from quadrille.values import BEGINNING, FeedPage, FeedPlace, Identifier, Moment, Newest, Paged, Text, rfc3339

__all__ = [
    "BEGINNING",
    "AnyRecord",
    "Command",
    "CompensationAnswered",
    "Decision",
    "Emitted",
    "Event",
    "FeedPage",
    "FeedPlace",
    "FindingRaised",
    "HandlerRegistry",
    "Identifier",
    "Intent",
    "Message",
    "Moment",
    "Newest",
    "NotYet",
    "OrderStuck",
    "Paged",
    "Reply",
    "ResolveCompensation",
    "Result",
    "RetryCompensation",
    "Rows",
    "Text",
    "Timer",
    "key_of",
    "not_owed",
    "rfc3339",
]
