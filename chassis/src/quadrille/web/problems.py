"""Problem documents, the one shape of every refusal: RFC 9457, a fixed list of types, a readable page for each."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from starlette.exceptions import HTTPException


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
        "Send a key of your own for each thing you mean to do, and the same key when you repeat the request.",
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
        example={"required_scope": "parcels:write"},
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
        "What is asked for is no longer kept: the event on its topic, or what follows the cursor in a feed.",
        "Ask for a later one; without a cursor a feed begins with the oldest that is kept.",
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
        "Use a new key for another request.",
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
"""Every problem type, by its slug, in the order of their status."""


def register(*kinds: Kind) -> None:
    """Add the types of a service, or say one of the chassis in its words; raises TypeError for another status."""
    for kind in kinds:
        if (known := KINDS.get(kind.slug)) and known.status != kind.status:
            message = f"{kind.slug} is a problem of {known.status} already, and cannot be one of {kind.status}"
            raise TypeError(message)
        KINDS[kind.slug] = kind
    in_order = sorted(KINDS.items(), key=lambda item: item[1].status)
    KINDS.clear()
    KINDS.update(in_order)


MEDIA_TYPE = "application/problem+json"


class Problem(HTTPException):
    """A refusal on its way to the client: the slug of its type, a sentence, and the type's own members."""

    def __init__(
        self, slug: str, detail: str = "", *, headers: Mapping[str, str] | None = None, **extra: object
    ) -> None:
        self.kind, self.extra = KINDS[slug], extra
        sent = dict(headers or {})
        if "retry_after" in extra:
            sent["Retry-After"] = str(extra["retry_after"])
        super().__init__(self.kind.status, detail or self.kind.meaning, sent)

    def document(self, base: str, instance: str, request_id: str, trace_id: str) -> dict[str, object]:
        """Return the whole problem document; ``base`` is where this API is reached, ``instance`` the request's path."""
        return {
            "type": type_of(base, self.kind.slug),
            "code": self.kind.slug,
            "title": self.kind.title,
            "status": self.kind.status,
            "detail": self.detail,
            "instance": instance,
            "request_id": request_id,
            "trace_id": trace_id,
            "retryable": self.kind.retryable,
            **self.extra,
        }


def refuse(slug: str, detail: str = "", *, headers: Mapping[str, str] | None = None, **extra: object) -> NoReturn:
    """Raise the Problem of this slug."""
    raise Problem(slug, detail, headers=headers, **extra)


def type_of(base: str, slug: str) -> str:
    """Return the URI of a type, which is its page's."""
    return f"{base}/problems/{slug}"


def example(base: str, slug: str) -> dict[str, object]:
    """Return an example document of a type, for the OpenAPI description and the page."""
    problem = Problem(slug, **KINDS[slug].example)
    return problem.document(base, "/v1/…", "01a1fd62-57f0-7a11-8c3e-0b54d1c2f3a4", "04a75036e9d520bb983c5ed03b8d0182")


def page(base: str, slug: str) -> str:
    """Return the readable page of one type; raises KeyError for an unknown slug."""
    kind = KINDS[slug]
    shown = html.escape(json.dumps(example(base, slug), indent=2, ensure_ascii=False))
    again = "Yes: the same request may succeed later." if kind.retryable else "No: the same request fails again."
    rows = (("Meaning", kind.meaning), ("What to do", kind.remedy), ("Retryable", again))
    table = "".join(f"<tr><th scope=row>{name}</th><td>{html.escape(text)}</td></tr>" for name, text in rows)
    return shell(
        f"{kind.status} {kind.title}",
        f"<h1>{html.escape(kind.title)} <small>{kind.status}</small></h1><p><code>{slug}</code></p>"
        f"<table>{table}</table><h2>Example</h2><pre>{shown}</pre><p><a href=/problems>All problem types</a></p>",
    )


def index() -> str:
    """Return the page that lists every type."""
    rows = "".join(
        f"<tr><td>{k.status}</td><td><a href=/problems/{k.slug}>{k.slug}</a></td><td>{html.escape(k.meaning)}</td></tr>"
        for k in KINDS.values()
    )
    return shell(
        "Problem types", f"<h1>Problem types</h1><table>{rows}</table><p><a href=/docs>API documentation</a></p>"
    )


def shell(title: str, body: str) -> str:
    """Return a page of ours around a body that is HTML already."""
    return (
        f"<!doctype html><html lang=en><head><meta charset=utf-8><title>{html.escape(title)}</title>"
        '<meta name=viewport content="width=device-width"><link rel=stylesheet href=/docs/assets/page.css></head>'
        f"<body><main>{body}</main></body></html>"
    )
