"""What may be asked over the ops port beside its probes: a route's key names all it takes, anything else is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn, TypeAlias, TypeVar
from urllib.parse import parse_qsl, unquote
from uuid import UUID

from pydantic import BaseModel, TypeAdapter, ValidationError

from quadrille.observability.trace_context import Context, new_trace
from quadrille.values import Text
from quadrille.web import strict_json
from quadrille.web.documents import json_of
from quadrille.web.problems import Problem, refuse

M = TypeVar("M", bound=BaseModel)
READS = ("GET", "HEAD")
_TEXT = TypeAdapter[str](Text)


@dataclass(frozen=True, slots=True)
class OpsRequest:
    """One request: the path's variables, the query, the body's members beside ``reason``, who asks and why."""

    path: Mapping[str, str]
    query: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)
    actor: str = "local"
    reason: str = ""
    trace: Context = field(default_factory=new_trace)

    def read(self, model: type[M]) -> M:
        """Return the body as a model of ours; refuses what does not fit it."""
        try:
            return model.model_validate_json(json_of(self.body))
        except ValidationError as errors:
            refuse("validation-failed", errors=_told(errors, ""))

    def identity(self, name: str) -> UUID:
        """Return a path's variable that is an id; refuses what is none."""
        return _identity(self.path[name], f"path:{name}")


@dataclass(frozen=True, slots=True)
class OpsResponse:
    """The answer: a status and a JSON document; ``trace`` is the place where it was done, if not in the request's."""

    status: int
    document: Mapping[str, object]
    trace: Context | None = None


Route: TypeAlias = Callable[[OpsRequest], OpsResponse]
OpsRoutes: TypeAlias = Mapping[tuple[str, str], Route]
"""By method and pattern, as ``("GET", "/ops/parked/{order_id}?limit&state")``: after ``?`` is what a query may name."""


class RouteMatch(NamedTuple):
    """The route of a request, with its path's variables and its query."""

    route: Route
    path: Mapping[str, str]
    query: Mapping[str, str]


def find(routes: OpsRoutes, method: str, target: str) -> RouteMatch:
    """Return what answers to a method at a target; refuses an unknown path, method or query parameter."""
    given, _, query = target.partition("?")
    wanted, there = "GET" if method == "HEAD" else method, set[str]()
    for (verb, pattern), route in routes.items():
        if (path := _match(pattern, given)) is None:
            continue
        if verb == wanted:
            return RouteMatch(route, path, _query(query, pattern.partition("?")[2].split("&")))
        there |= {"GET", "HEAD"} if verb == "GET" else {verb}
    if not there:
        refuse("not-found")
    raise Problem(slug="method-not-allowed", allow=sorted(there), headers={"Allow": ", ".join(sorted(there))})


def members(body: bytes) -> tuple[dict[str, Any], str]:
    """Return what a write's body says beside its reason, and the reason; refuses one without."""
    try:
        value = strict_json.loads(body)
    except strict_json.MalformedJsonError as error:
        refuse("malformed-json", error.reason, position=error.position)
    if not isinstance(value, dict):
        _invalid("", "object_type", "Input should be an object")
    if "reason" not in value:
        _invalid("/reason", "missing", "Say why: whatever an operator does is kept with its reason")
    try:
        reason = _TEXT.validate_python(value.pop("reason"), strict=True)
    except ValidationError as errors:
        refuse("validation-failed", errors=_told(errors, "/reason"))
    if not reason.strip():
        _invalid("/reason", "string_too_short", "Say why: whatever an operator does is kept with its reason")
    return value, reason


def _match(pattern: str, path: str) -> dict[str, str] | None:
    wanted, given = pattern.partition("?")[0].split("/"), path.split("/")
    if len(wanted) != len(given):
        return None
    found = {}
    for want, have in zip(wanted, given, strict=True):
        if want.startswith("{") and have:
            found[want[1:-1]] = unquote(have, errors="replace")
        elif want != have:
            return None
    return found


def _query(text: str, known: Iterable[str]) -> dict[str, str]:
    given = parse_qsl(text, keep_blank_values=True)
    for name, _ in given:
        if name not in known:
            _invalid(f"query:{name[:64]}", "extra_forbidden", "This route takes no such parameter")
    names = [name for name, _ in given]
    if twice := [name for name in names if names.count(name) > 1]:
        refuse("repeated-parameter", f"{twice[0]} came more than once.", parameter=twice[0])
    return dict(given)


def _identity(text: str, pointer: str) -> UUID:
    try:
        found = UUID(text)
    except ValueError:
        found = UUID(int=0)
    if str(found) != text.lower():
        _invalid(pointer, "uuid_parsing", "Input should be an id: 32 hexadecimal digits in five groups")
    return found


def _told(errors: ValidationError, place: str) -> list[dict[str, str]]:
    return [
        {"pointer": place + "".join(f"/{part}" for part in e["loc"]), "code": e["type"], "message": e["msg"]}
        for e in errors.errors(include_url=False, include_input=False)
    ]


def _invalid(pointer: str, code: str, message: str) -> NoReturn:
    refuse("validation-failed", errors=[{"pointer": pointer, "code": code, "message": message}])
