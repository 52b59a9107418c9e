"""OpenAPI 3.1 of an API: every answer and problem, and pages that load from here alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel

from quadrille.observability import logs
from quadrille.web import problems
from quadrille.web.problems import KINDS, refuse

SCOPE, PROBLEMS = "x-required-scope", "x-problems"
ALWAYS = (
    "malformed-request", "repeated-header", "repeated-parameter", "request-timeout", "uri-too-long",
    "validation-failed", "headers-too-large", "internal", "overloaded", "dependency-unavailable",
)  # fmt: skip
OF_KEYS = "unauthorized", "insufficient-scope", "rate-limited"
WITH_BODY = ("malformed-json", "body-too-large", "unsupported-media-type", "unsupported-content-encoding")
NOTHING = {
    "description": "Nothing, or an empty object.",
    "required": False,
    "content": {"application/json": {"schema": {"type": "object", "maxProperties": 0}, "example": {}}},
}
BEARER = {"type": "http", "scheme": "bearer", "description": "Your API key: qk_…; what it may is in its scopes."}
ASSETS = {
    "swagger-ui-bundle.js": ("swagger-ui/swagger-ui-bundle.js", "text/javascript"),
    "swagger-ui.css": ("swagger-ui/swagger-ui.css", "text/css"),
    "docs.js": ("docs.js", "text/javascript"),
    "page.css": ("page.css", "text/css"),
}
_POLICY = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'"  # noqa: E501 - one header
_DOCS = """<!doctype html><html lang=en><head><meta charset=utf-8><title>{title}</title>
<meta name=viewport content="width=device-width"><link rel=icon href="data:,">
<link rel=stylesheet href=/docs/assets/swagger-ui.css></head>
<body><div id=swagger-ui></div>
<noscript><p>The same, as a document: <a href=/openapi.json>/openapi.json</a></p></noscript>
<script src=/docs/assets/swagger-ui-bundle.js></script><script src=/docs/assets/docs.js></script></body></html>"""
_HEADERS = {
    "X-Request-Id": "The request's id: yours, or one of ours.",
    "X-Trace-Id": "The trace of this request, and of all that follows from it.",
}
_MEMBERS: dict[str, Any] = {
    "type": {"type": "string", "format": "uri", "description": "Where its page is."},
    "code": {"type": "string", "description": "The type's name, the same wherever this API is: what a program asks."},
    "title": {"type": "string"},
    "status": {"type": "integer"},
    "detail": {"type": "string"},
    "instance": {"type": "string"},
    "request_id": {"type": "string"},
    "trace_id": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
    "retryable": {"type": "boolean"},
}
_TEXT = {"type": "string"}
_ERROR = {
    "type": "object",
    "properties": {"pointer": _TEXT, "code": _TEXT, "message": _TEXT},
    "required": ["pointer", "code", "message"],
}


@dataclass(frozen=True, slots=True)
class Answer:
    """A documented answer of a route: status, the sentence, its document and an example of it, headers by name."""

    status: int
    description: str
    model: type[BaseModel] | None = None
    example: object = None
    headers: Mapping[str, str] | None = None
    media_type: str = "application/json"


def version() -> str:
    """Return the version of this release, for the description."""
    return logs.release()


def documented(answer: Answer) -> dict[str, Any]:
    """Return FastAPI's description of one answer."""
    found: dict[str, Any] = {"description": answer.description, "headers": _headers(answer.headers or {})}
    if answer.model is not None:
        found["model"] = answer.model
    if answer.example is not None:
        found["content"] = {answer.media_type: {"example": answer.example}}
    return found


def describe(app: FastAPI, router: APIRouter, base: str, *, keyed: bool) -> None:
    """Serve the description and the pages; raises TypeError for a route that declares no scope.

    ``keyed`` tells whether a key is wanted: then the description says so, and /docs asks for it.
    """
    for route in router.routes:
        if not (isinstance(route, APIRoute) and (route.openapi_extra or {}).get(SCOPE)):
            message = f"{getattr(route, 'path', route)} declares no scope: nothing is served by default"
            raise TypeError(message)
    document = json.dumps(_finished(app.openapi(), base, keyed=keyed), ensure_ascii=False).encode()
    pages = Pages(app.title, document, base)
    for path, page in (
        ("/openapi.json", pages.document),
        ("/docs", pages.docs),
        ("/docs/assets/{name}", pages.asset),
        ("/problems", pages.problems),
        ("/problems/{slug}", pages.problem),
    ):
        app.router.add_route(path, page, methods=["GET"], include_in_schema=False)


class Pages:
    """The public pages beside the API: description, documentation, problem types."""

    def __init__(self, title: str, document: bytes, base: str) -> None:
        self._title, self._document, self._base = title, document, base

    async def document(self, _: Request) -> Response:
        """Return the OpenAPI document."""
        return Response(self._document, media_type="application/json")

    async def docs(self, _: Request) -> Response:
        """Return the page that shows the document and tries it out."""
        return _page(_DOCS.format(title=self._title))

    async def asset(self, request: Request) -> Response:
        """Return a vendored file."""
        if not (found := ASSETS.get(request.path_params["name"])):
            refuse("not-found")
        path, media_type = found
        body = files("quadrille").joinpath("static", path).read_bytes()
        return Response(body, media_type=media_type, headers={"Cache-Control": "public, max-age=3600"})

    async def problems(self, _: Request) -> Response:
        """Return the list of problem types."""
        return _page(problems.index())

    async def problem(self, request: Request) -> Response:
        """Return the page of one problem type."""
        slug = request.path_params["slug"]
        if slug not in KINDS:
            refuse("not-found")
        return _page(problems.page(self._base, slug))


def html_page(title: str, body: str) -> Response:
    """Return a page of a service in the looks of all our pages; ``body`` is HTML, whatever is shown in it escaped."""
    return _page(problems.shell(title, body))


def _page(text: str) -> Response:
    return Response(text, media_type="text/html", headers={"Content-Security-Policy": _POLICY})


def _finished(document: dict[str, Any], base: str, *, keyed: bool) -> dict[str, Any]:
    """Put every problem into the document FastAPI made, in place of its own idea of 422."""
    document["servers"] = [{"url": base}]
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    if keyed:
        components["securitySchemes"] = {"key": BEARER}
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["ProblemError"] = _ERROR
    schemas["Problem"] = {
        "type": "object", "description": "Why a request was refused (RFC 9457), and what its type says beside.",
        "properties": _MEMBERS | _extras(), "required": list(_MEMBERS),
    }  # fmt: skip
    for operations in document["paths"].values():
        for method, operation in operations.items():
            if method == "post":
                operation.setdefault("requestBody", NOTHING)
            if keyed:
                operation["security"] = [{"key": [operation[SCOPE]]}]
            _add_problems(operation, base, (*(WITH_BODY if method != "get" else ()), *(OF_KEYS if keyed else ())))
            for response in operation["responses"].values():
                response["headers"] = _headers(_HEADERS) | response.get("headers", {})
    return document


def _extras() -> dict[str, Any]:
    """Return the members some type adds, with the shape its example has."""
    shapes: dict[type, Any] = {str: _TEXT, int: {"type": "integer"}, list: {"type": "array", "items": _TEXT}}
    found = {name: shapes[type(value)] for kind in KINDS.values() for name, value in kind.example.items()}
    return found | {
        "errors": {"type": "array", "items": {"$ref": "#/components/schemas/ProblemError"}},
        "position": {"type": ["integer", "null"]},
    }


def _add_problems(operation: dict[str, Any], base: str, more: Sequence[str]) -> None:
    slugs: Sequence[str] = [*operation.pop(PROBLEMS), *ALWAYS, *more]
    responses = operation["responses"]
    responses.pop("422", None)
    for slug in sorted(set(slugs), key=list(KINDS).index):
        kind = KINDS[slug]
        said = responses.setdefault(str(kind.status), {"description": "", "content": {}})
        said["description"] = "; ".join(part for part in (said["description"], kind.title) if part)
        schema = {"$ref": "#/components/schemas/Problem"}
        content = said["content"].setdefault(problems.MEDIA_TYPE, {"schema": schema, "examples": {}})
        content["examples"][slug] = {"summary": kind.meaning, "value": problems.example(base, slug)}


def _headers(told: Mapping[str, str]) -> dict[str, Any]:
    return {name: {"description": text, "required": True, "schema": {"type": "string"}} for name, text in told.items()}
