"""Calls to the outside.

Reading order: ``quadrille.intents`` (``Gateway``: which function carries out which intent, and how it is tried again),
``breaker`` (a circuit breaker with a bulkhead), ``http_client`` (one request, one answer, no retry of its own),
``webhook`` (one signed POST to an address that is somebody's word).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quadrille import lazy

if TYPE_CHECKING:
    from quadrille.gateway.breaker import Breaker, CircuitOpenError, Limits, State
    from quadrille.gateway.http_client import HttpClient, NoResponseError, still_open
    from quadrille.gateway.webhook import NotAllowedError, is_allowed, judged, new_secret, post, send_webhook
    from quadrille.intents import FOR_A_DAY, INQUIRY, Gateway, TransientError
    from quadrille.observability.tracing import ClientSpan
else:
    __getattr__ = lazy.face(
        __name__,
        {
            "quadrille.gateway.breaker": ("Breaker", "CircuitOpenError", "Limits", "State"),
            "quadrille.gateway.http_client": ("HttpClient", "NoResponseError", "still_open"),
            "quadrille.gateway.webhook": (
                *("NotAllowedError", "is_allowed", "judged", "new_secret", "post", "send_webhook"),
            ),
            "quadrille.intents": ("FOR_A_DAY", "INQUIRY", "Gateway", "TransientError"),
            "quadrille.observability.tracing": ("ClientSpan",),
        },
    )

__all__ = [
    "FOR_A_DAY",
    "INQUIRY",
    "Breaker",
    "CircuitOpenError",
    "ClientSpan",
    "Gateway",
    "HttpClient",
    "Limits",
    "NoResponseError",
    "NotAllowedError",
    "State",
    "TransientError",
    "is_allowed",
    "judged",
    "new_secret",
    "post",
    "send_webhook",
    "still_open",
]
