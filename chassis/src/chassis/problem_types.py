"""The types of problem this house knows, each with its status, meaning and remedy: a fixed list (interfaces.md, 5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Kind:
    """One type of problem: when it comes, whether the same request may succeed later, and what to do."""

    slug: str
    status: int
    title: str
    meaning: str
    remedy: str
    retryable: bool = False
    example: Mapping[str, Any] = field(default_factory=dict)


_LIST = (
    Kind(
        "malformed-request",
        400,
        "Malformed request",
        "What was sent is no request of HTTP/1.1: its first line, a header, Host, or the framing of its body.",
        "Correct what the detail names; another request needs another connection.",
    ),
    Kind(
        "repeated-header",
        400,
        "Repeated header",
        "The header named has one value, and came with two different ones.",
        "Send it once; look for a proxy or library that adds one of its own.",
        example={"header": "Idempotency-Key"},
    ),
    Kind(
        "repeated-parameter",
        400,
        "Repeated parameter",
        "The query parameter named has one value, and came more than once.",
        "Send it once.",
        example={"parameter": "limit"},
    ),
    Kind(
        "malformed-json",
        400,
        "Malformed JSON",
        "The body is not one JSON document: not JSON, not UTF-8, a duplicate member, NaN, or nested deeper than 16.",
        "Correct the body at the position named (a character offset).",
        example={"position": 17},
    ),
    Kind(
        "invalid-cursor",
        400,
        "Invalid cursor",
        "The cursor is damaged, or belongs to a listing with other filters.",
        "Start again from the first page, without a cursor.",
    ),
    Kind(
        "idempotency-key-missing",
        400,
        "Idempotency-Key missing",
        "The header Idempotency-Key is absent, or not 1 to 255 visible ASCII characters.",
        "Send a key of your own for each order you mean to place, and the same key when you repeat the request.",
    ),
    Kind(
        "unauthorized",
        401,
        "Unauthorized",
        "The API key is unknown or has expired.",
        "Use a live key.",
    ),
    Kind(
        "insufficient-scope",
        403,
        "Insufficient scope",
        "The API key lacks the scope this route needs.",
        "Ask for a key with the scope named.",
        example={"required_scope": "orders:write"},
    ),
    Kind(
        "not-found",
        404,
        "Not found",
        "There is no such thing, or it is not yours.",
        "Check the id and the path.",
    ),
    Kind(
        "method-not-allowed",
        405,
        "Method not allowed",
        "This path does not answer to this method.",
        "Use one of the methods named.",
        example={"allow": ["GET", "HEAD"]},
    ),
    Kind(
        "request-timeout",
        408,
        "Request time-out",
        "The request did not arrive whole within 10 seconds.",
        "Send it again, faster, on a new connection.",
        retryable=True,
    ),
    Kind(
        "idempotency-key-in-use",
        409,
        "Idempotency-Key in use",
        "The first request with this key is still being committed.",
        "Repeat the request with the same key after the time named (seconds).",
        retryable=True,
        example={"retry_after": 1},
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
        "operation-refused",
        409,
        "Operation refused",
        "What an operator asks would break the rule named.",
        "Read the detail: it says what is the case, and what may be asked instead.",
        example={"rule": "BELOW_FLOOR"},
    ),
    Kind(
        "past-retention",
        410,
        "Past retention",
        "The event is no longer on its topic.",
        "Ask for a later one.",
        example={"oldest_at": "2026-11-14T09:14:03.120Z"},
    ),
    Kind(
        "version-mismatch",
        412,
        "Version mismatch",
        "If-Match names another version than the current one.",
        "Read it again, and repeat the change with the ETag you find.",
        example={"current_etag": '"v4"'},
    ),
    Kind(
        "body-too-large",
        413,
        "Body too large",
        "The body is larger than the limit named (bytes).",
        "Send less.",
        example={"limit": 65536},
    ),
    Kind(
        "uri-too-long",
        414,
        "URI too long",
        "The target of the request is longer than the limit named (bytes).",
        "Send less: what narrows a listing down fits.",
        example={"limit": 16384},
    ),
    Kind(
        "unsupported-content-encoding",
        415,
        "Unsupported content encoding",
        "The body is compressed or otherwise encoded; only those named are read.",
        "Send it as it is, without Content-Encoding.",
        example={"accepted": ["identity"]},
    ),
    Kind(
        "unsupported-media-type",
        415,
        "Unsupported media type",
        "The body is of another type than those named.",
        "Send one of the types named, in UTF-8.",
        example={"accepted": ["application/json"]},
    ),
    Kind(
        "validation-failed",
        422,
        "Validation failed",
        "The request is well formed but not valid; each error points to its place.",
        "Correct every error named.",
        example={
            "errors": [
                {
                    "pointer": "/lines/0/quantity",
                    "code": "greater_than_equal",
                    "message": "Input should be greater than or equal to 1",
                }
            ]
        },
    ),
    Kind(
        "idempotency-key-reused",
        422,
        "Idempotency-Key reused",
        "This key was used for another body.",
        "Use a new key for a new order.",
        example={"order": "01a1fd62-57f0-7eeb-be96-e59ce40f9cb1"},
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
        "precondition-required",
        428,
        "Precondition required",
        "A change needs If-Match, so that nobody's change is lost.",
        "Read it, and repeat the change with the ETag you find.",
        example={"current_etag": '"v4"'},
    ),
    Kind(
        "rate-limited",
        429,
        "Rate limited",
        "You sent more requests than your quota.",
        "Wait for the time named (seconds).",
        retryable=True,
        example={"retry_after": 1},
    ),
    Kind(
        "headers-too-large",
        431,
        "Headers too large",
        "The headers are larger than the limit named (bytes).",
        "Send less.",
        example={"limit": 16384},
    ),
    Kind(
        "internal",
        500,
        "Internal error",
        "A bug of ours. Nothing is known about the outcome.",
        "Repeat the request, with the same Idempotency-Key if it has one, and report the request id.",
        retryable=True,
    ),
    Kind(
        "overloaded",
        503,
        "Overloaded",
        "Load is being shed, for the cause named. Nothing was stored.",
        "Repeat after the time named (seconds).",
        retryable=True,
        example={"cause": "POOL_EXHAUSTED", "retry_after": 1},
    ),
    Kind(
        "dependency-unavailable",
        503,
        "Dependency unavailable",
        "The dependency named does not answer. Nothing was stored.",
        "Repeat after the time named (seconds).",
        retryable=True,
        example={"dependency": "database", "retry_after": 1},
    ),
    Kind(
        "outcome-unknown",
        503,
        "Outcome unknown",
        "The answer of a commit was lost: what you asked for may have happened.",
        "Repeat with the same key, or read before you repeat.",
        retryable=True,
        example={"dependency": "database", "retry_after": 1},
    ),
)
KINDS = {kind.slug: kind for kind in _LIST}
