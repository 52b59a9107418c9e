"""The one shape of every refusal: RFC 9457 problem documents, a fixed list of types, a readable page for each."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from typing import NoReturn

from starlette.exceptions import HTTPException

from chassis.problem_types import KINDS

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
    return _shell(
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
    return _shell(
        "Problem types", f"<h1>Problem types</h1><table>{rows}</table><p><a href=/docs>API documentation</a></p>"
    )


def _shell(title: str, body: str) -> str:
    return (
        f"<!doctype html><html lang=en><head><meta charset=utf-8><title>{html.escape(title)}</title>"
        '<meta name=viewport content="width=device-width"><link rel=stylesheet href=/docs/assets/page.css></head>'
        f"<body><main>{body}</main></body></html>"
    )
