"""The stock API: what there is of each SKU, and how a stock keeper sets it without losing anybody's change."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import Annotated, NoReturn

from fastapi import Depends, Header, Path, Query, Request, Response
from pydantic import Field
from starlette.types import ASGIApp

from inventory import handlers, store
from inventory.domain import MOST, Level
from inventory.events import SetStock, StockChanged, StockSet
from quadrille.web import (
    Answer,
    Api,
    Document,
    ProcessContext,
    Routes,
    TheApi,
    answer,
    etag,
    make_app,
    matches,
    refuse,
    unchanged,
)

routes = Routes("stock:read", "stock:write")
SKU = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$"
SkuPath = Annotated[str, Path(pattern=SKU, description="The SKU.", examples=["SKU-TEA"])]
IfMatch = Annotated[str | None, Header(alias="If-Match", description="The ETag you have read, or `*`.")]
IfNoneMatch = Annotated[str | None, Header(alias="If-None-Match", description="The ETag you have read, or `*`.")]


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a change is conditional on."""

    if_match: str | None
    if_none_match: str | None


def _conditions(if_match: IfMatch = None, if_none_match: IfNoneMatch = None) -> Conditions:
    return Conditions(if_match, if_none_match)


AtConditions = Annotated[Conditions, Depends(_conditions)]
TAG = {"ETag": "The version, for If-Match."}
LEVEL = {
    "sku": "SKU-TEA", "available": 96, "held": 1, "committed": 3, "received": 100, "sealed": False, "version": 9,
}  # fmt: skip


class Stock(Document):
    """The pieces of one SKU: received = available + held + committed, always."""

    sku: str
    available: int = Field(description="Pieces that can be ordered.")
    held: int = Field(description="Pieces set aside for orders that are not confirmed yet.")
    committed: int = Field(description="Pieces sold.")
    received: int = Field(description="Pieces that ever came in, less those written off.")
    sealed: bool = Field(description="Once sold they cannot come back.")
    version: int = Field(description="Grows with every change; the ETag names it.")


class Page(Document):
    """A page of the stock, by SKU."""

    stock: list[Stock]
    has_more: bool = Field(description="Whether a Link with rel=next leads on.")


class Wanted(Document):
    """What a stock keeper sets; the difference is received or written off."""

    available: int = Field(ge=0, le=MOST, description="Pieces that can be ordered from now on.")
    sealed: bool | None = Field(None, description="Absent or null: as it was, false for a new SKU.")


@routes.on(
    "GET", "/v1/stock", scope="stock:read", problems=("invalid-cursor",),
    answers=[Answer(200, "A page; `Link` with rel=next leads to the next one, if any.", Page,
                    {"stock": [LEVEL], "has_more": False})],
)  # fmt: skip
async def list_stock(
    api: TheApi,
    limit: Annotated[int, Query(ge=1, le=200, description="SKUs a page.")] = 50,
    cursor: Annotated[str | None, Query(max_length=200, description="From the link of the page before.")] = None,
) -> Response:
    """List the stock by SKU, a page at a time."""
    after = _sku_of(cursor) if cursor is not None else ""
    found = await api.read(store.list_stock, after, limit + 1)
    page, rest = found[:limit], found[limit:]
    more = {"Link": f'<{api.base}/v1/stock?limit={limit}&cursor={_cursor(page[-1].sku)}>; rel="next"'} if rest else {}
    return answer(Page(stock=[_stock(level) for level in page], has_more=bool(more)), headers=more)


@routes.on(
    "GET", "/v1/stock/{sku}", scope="stock:read", problems=("not-found",),
    answers=[Answer(200, "The SKU.", Stock, LEVEL, TAG), Answer(304, "As you have read it.", headers=TAG)],
)  # fmt: skip
async def show_stock(api: TheApi, sku: SkuPath, if_none_match: IfNoneMatch = None) -> Response:
    """Show the stock of one SKU."""
    level = await api.read(store.stock_of, sku)
    if level is None:
        refuse("not-found")
    tag = etag(level.version)
    if unchanged(if_none_match, tag):
        return Response(status_code=304, headers={"ETag": tag})
    return answer(_stock(level), headers={"ETag": tag})


@routes.on(
    "PUT", "/v1/stock/{sku}", scope="stock:write",
    problems=("version-mismatch", "precondition-required", "outcome-unknown"),
    answers=[
        Answer(200, "The SKU as it stands now.", Stock, LEVEL, TAG),
        Answer(201, "A new SKU.", Stock, {**LEVEL, "version": 1}, {**TAG, "Location": "Where it is."}),
    ],
)  # fmt: skip
async def set_stock(request: Request, api: TheApi, sku: SkuPath, wanted: Wanted, conditions: AtConditions) -> Response:
    """Set what is available of a SKU you have read: `If-Match` its ETag, or `If-None-Match: *` for a new one."""
    version = await _allowed_on(api, sku, conditions)
    command = SetStock(sku, wanted.available, wanted.sealed, version)
    said = await api.execute(request, handlers.set_stock, command)
    if isinstance(said, StockChanged):
        _refuse("version-mismatch", said.version)
    headers = {"ETag": etag(said.version)}
    if said.created:
        return answer(_stock(said), 201, {**headers, "Location": f"{api.base}/v1/stock/{sku}"})
    return answer(_stock(said), headers=headers)


async def _allowed_on(api: Api, sku: str, given: Conditions) -> int | None:
    """Return the version a change is allowed on, to be compared in its transaction; 0 for a SKU that is not there.

    None is whatever is there then: If-Match: * asks for no more, and a SKU once there never goes.
    """
    level = await api.read(store.stock_of, sku)
    version = level.version if level else 0
    if given.if_match is None and given.if_none_match != "*":
        _refuse("precondition-required", version)
    held = given.if_match is None or matches(given.if_match, etag(version) if version else None)
    if not held or (given.if_none_match is not None and version):
        _refuse("version-mismatch", version)
    return None if given.if_match is not None and given.if_match.strip() == "*" else version


def _refuse(slug: str, version: int) -> NoReturn:
    """Refuse a change and name the present version; a SKU that is not there has none."""
    if version:
        refuse(slug, current_etag=etag(version))
    refuse(slug)


def _stock(found: Level | StockSet) -> Stock:
    return Stock(
        sku=found.sku,
        available=found.available,
        held=found.held,
        committed=found.committed,
        received=found.received,
        sealed=found.sealed,
        version=found.version,
    )


def _cursor(sku: str) -> str:
    return base64.urlsafe_b64encode(sku.encode()).decode().rstrip("=")


def _sku_of(cursor: str) -> str:
    """Return the SKU a cursor stands for."""
    try:
        sku = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
    except ValueError:
        refuse("invalid-cursor")
    if _cursor(sku) != cursor or not re.fullmatch(SKU, sku):
        refuse("invalid-cursor")
    return sku


def make(context: ProcessContext) -> ASGIApp:
    """Return inventory's API."""
    api = Api(context)
    return make_app("Quadrille inventory", routes, api, context.spans, api.base, keys=api.keys)
