"""Intake of traces: OTLP over HTTP as any exporter posts it; requests that come together are stored together.

It never slows a service: an exporter works in a thread of its own, and what it cannot deliver it drops and counts.
"""

from __future__ import annotations

import asyncio
import zlib

from starlette.requests import Request
from starlette.responses import Response

from console.console_api import ConsoleApi
from console.handlers import KeepSpans, keep_spans
from console.otlp import NoSpansError, parts_of
from quadrille.web import refuse

BODY_MAX = 4_000_000
WHOLE_MAX = 32_000_000
WAITING_MAX = 32
BODY_SECONDS = 10.0
PROTOBUF = "application/x-protobuf"
REST = 1
NOT_OTLP = "The body is no ExportTraceServiceRequest in protobuf."


class TraceIntake:
    """Takes spans in, read a request after the other; when too many wait the next is asked to come again."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def take(self, request: Request, api: ConsoleApi) -> Response:
        """Keep the spans of an export request."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != PROTOBUF:
            refuse("unsupported-media-type", accepted=[PROTOBUF], headers={"Accept": PROTOBUF})
        if self._waiting >= WAITING_MAX:
            refuse("overloaded", cause="TRACES", retry_after=REST)
        self._waiting += 1
        try:
            body = await _body(request)
            await self._keep(body, request, api)
        finally:
            self._waiting -= 1
        return Response(b"", 200, {"Cache-Control": "no-store"}, PROTOBUF)

    async def _keep(self, body: bytes, request: Request, api: ConsoleApi) -> None:
        try:
            async with self._turn:
                parts = await asyncio.to_thread(parts_of, body)
        except NoSpansError:
            refuse("malformed-request", NOT_OTLP)
        if parts:
            await api.execute(request, keep_spans, KeepSpans("otlp", tuple(parts.items())))


async def _body(request: Request) -> bytes:
    """Return the body; one that is packed unpacked, bounded too."""
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("identity", "gzip"):
        refuse("unsupported-content-encoding", accepted=["gzip", "identity"], headers={"Accept-Encoding": "gzip"})
    body = await whole_body(request, BODY_MAX)
    return _unpacked(body) if coding == "gzip" else body


async def whole_body(request: Request, most: int) -> bytes:
    """Return a request's body as it came; refuses one that is larger, or does not come in time."""
    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    refuse("body-too-large", limit=most, headers={"Connection": "close"})
                parts.append(part)
    except TimeoutError:
        refuse("request-timeout", headers={"Connection": "close"})
    return b"".join(parts)


def _unpacked(body: bytes) -> bytes:
    packer = zlib.decompressobj(wbits=31)
    try:
        whole = packer.decompress(body, WHOLE_MAX)
    except zlib.error:
        refuse("malformed-request", "The body is not what gzip packs.")
    if packer.unconsumed_tail:
        refuse("body-too-large", limit=WHOLE_MAX)
    if not packer.eof:
        refuse("malformed-request", "The body's gzip is cut short.")
    return whole
