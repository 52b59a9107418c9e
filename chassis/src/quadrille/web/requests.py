"""Strict reading of a request: a body bounded in size and time, a query that names only what is known, refusals.

Guarantees: whatever is read is read in one way only; what would be ignored is refused with its place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, NoReturn
from urllib.parse import parse_qsl

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match

from quadrille.web import strict_json
from quadrille.web.middleware import respond
from quadrille.web.problems import Problem, refuse

BODY_MAX = 65_536
BODY_SECONDS = 10.0
ERRORS_MAX = 50


class StrictRequest(Request):
    """A request whose body is read once, bounded in size and time, and parsed strictly."""

    async def json(self) -> Any:  # noqa: ANN401 - any JSON value
        """Return the body's value; refuses another media type, too much, too slow, and malformed JSON."""
        if not hasattr(self, "_json"):
            _refuse_media_type(self.headers.get("content-type", ""))
            _refuse_encoding(self.headers)
            try:
                self._json = strict_json.loads(await self.body())
            except strict_json.MalformedJsonError as error:
                refuse("malformed-json", error.reason, position=error.position)
        return self._json

    async def nothing(self) -> None:
        """Read the body of a route that takes none: nothing or an empty object; refuses what would be ignored."""
        if not await self.body():
            return
        if not isinstance(found := await self.json(), dict):
            invalid("", "object_type", "Input should be nothing, or an empty object")
        if found:
            text = "This route takes no such member"
            errors = [
                {"pointer": pointer(("body", name)), "code": "extra_forbidden", "message": text} for name in found
            ]
            refuse("validation-failed", errors=errors[:ERRORS_MAX])

    async def body(self) -> bytes:
        """Return the body's bytes."""
        if not hasattr(self, "_body"):
            declared = self.headers.get("content-length", "0")
            if len(declared) > len(str(BODY_MAX)) or int(declared) > BODY_MAX:  # the server has read it as a number
                refuse("body-too-large", limit=BODY_MAX, headers={"Connection": "close"})
            try:
                async with asyncio.timeout(BODY_SECONDS):
                    self._body = await self._bounded()
            except TimeoutError:
                refuse("request-timeout", headers={"Connection": "close"})
            except ClientDisconnect:  # nobody is there to be told
                refuse("request-timeout", "The client has gone.", headers={"Connection": "close"})
        return self._body

    async def _bounded(self) -> bytes:
        chunks, size = [], 0
        async for chunk in self.stream():
            size += len(chunk)
            if size > BODY_MAX:
                refuse("body-too-large", limit=BODY_MAX, headers={"Connection": "close"})
            chunks.append(chunk)
        return b"".join(chunks)


async def answer_refusal(request: Request, error: Exception) -> Response:
    """Answer what a route, or the framework, refuses."""
    if isinstance(error, Problem):
        return respond(request.scope, error)
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 405:  # noqa: PLR2004 - the routers raise it bare
        allow = _allowed(request)
        return respond(request.scope, Problem("method-not-allowed", allow=allow, headers={"Allow": ", ".join(allow)}))
    return respond(request.scope, Problem("not-found" if status == 404 else "internal"))  # noqa: PLR2004 - as above


async def answer_failure(request: Request, _: Exception) -> Response:
    """Answer a bug of ours; whoever called logs it."""
    return respond(request.scope, Problem("internal"))


def pointer(place: Sequence[str | int]) -> str:
    """Return a JSON pointer into the body, or ``query:name``, ``path:name``, ``header:name``."""
    source, *rest = place
    if source == "body":
        return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in rest)
    return ":".join(str(part) for part in (source, *rest[:1]))


def check_query(request: Request, known: frozenset[str]) -> None:
    """Refuse a query that is not UTF-8, or names what the route does not take, or one thing twice."""
    try:
        given = parse_qsl(request.scope["query_string"].decode(), keep_blank_values=True, errors="strict")
    except UnicodeDecodeError:
        invalid("query", "string_unicode", "Percent-encode it in UTF-8")
    names = [name for name, _ in given]
    if unknown := [name for name in dict.fromkeys(names) if name not in known]:
        text = "This route takes no such parameter"
        errors = [{"pointer": f"query:{name[:64]}", "code": "extra_forbidden", "message": text} for name in unknown]
        refuse("validation-failed", errors=errors[:ERRORS_MAX])
    if twice := [name for name in names if names.count(name) > 1]:
        refuse("repeated-parameter", f"{twice[0]} came more than once.", parameter=twice[0])


def invalid(pointer: str, code: str, message: str) -> NoReturn:
    """Refuse one place of what was sent."""
    refuse("validation-failed", errors=[{"pointer": pointer, "code": code, "message": message}])


def _refuse_media_type(header: str) -> None:
    kind, _, parameters = header.lower().partition(";")
    charset = parameters.replace(" ", "").replace('"', "")
    if kind.strip() != "application/json" or charset not in ("", "charset=utf-8"):
        refuse("unsupported-media-type", accepted=["application/json"], headers={"Accept": "application/json"})


def _refuse_encoding(headers: Headers) -> None:
    codings = [
        *headers.get("content-encoding", "identity").split(","),
        *headers.get("transfer-encoding", "").split(","),
    ]
    if any(coding.strip().lower() not in ("", "identity", "chunked") for coding in codings):
        refuse("unsupported-content-encoding", accepted=["identity"], headers={"Accept-Encoding": "identity"})


def _allowed(request: Request) -> list[str]:
    """Return every method that some route answers at this path."""
    found: set[str] = set()
    for method in ("GET", "POST", "PUT", "DELETE"):
        scope = {**request.scope, "method": method}
        if any(route.matches(scope)[0] is Match.FULL for route in request.app.router.routes):
            found.add(method)
    return sorted(found | ({"HEAD"} if "GET" in found else set()))
