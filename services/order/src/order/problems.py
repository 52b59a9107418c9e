"""The problem types that order's rules lead to, which are registered beside the chassis's."""

from __future__ import annotations

from dataclasses import replace

from quadrille.web import KINDS, Kind

PROBLEMS = (
    replace(
        KINDS["idempotency-key-reused"],
        remedy="Use a new key for a new order.",
        example={"order": "01a1fd62-57f0-7eeb-be96-e59ce40f9cb1"},
    ),
    replace(
        KINDS["idempotency-key-missing"],
        meaning="The header Idempotency-Key is absent and the order has no reference, or it is not 1 to 255 visible "
        "ASCII characters.",
        remedy="Send a key of your own for each order you mean to place, and the same key when you repeat the request.",
    ),
    Kind(
        "reference-taken",
        409,
        "Reference taken",
        "Another order of this customer bears this reference, placed under another key, and is not CANCELLED.",
        "Read the order named. Once it is CANCELLED the reference is free again; for another basket use another one.",
        example={"order": "01a1fd62-57f0-7eeb-be96-e59ce40f9cb1", "order_status": "CONFIRMED"},
    ),
    Kind(
        "not-cancellable",
        409,
        "Not cancellable",
        "The cut-off for cancelling has passed.",
        "Ask the operator.",
        example={"order_status": "CONFIRMED", "cancellable_until": "2026-11-21T09:44:03.120Z"},
    ),
    Kind(
        "order-frozen",
        423,
        "Order frozen",
        "The order could not be undone and waits for a person.",
        "Wait, or ask the operator.",
        example={"since": "2026-11-21T09:19:03.120Z"},
    ),
    Kind(
        "webhook-url-refused",
        422,
        "Webhook address refused",
        "No delivery would be made to this address: it is not https, has a login or a fragment, its name is not known, "
        "or it leads to an address that is not public.",
        "Name an https address that the public reaches.",
    ),
    Kind(
        "webhook-limit",
        409,
        "Too many webhooks",
        "There are as many endpoints of yours as there may be.",
        "Remove one that you do not need: DELETE /v1/webhooks/{id}.",
        example={"limit": 20},
    ),
)
