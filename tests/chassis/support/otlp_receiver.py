"""A real OTLP receiver over HTTP, decoding with opentelemetry-proto; it answers as it is told to."""

from __future__ import annotations

import gzip
import ssl
import threading
import time
from collections import deque
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Decoded


class Sink(ThreadingHTTPServer):
    """The receiver; ``before`` are statuses it answers with first, then ``status``; ``holds`` holds every answer."""

    daemon_threads = True

    def __init__(self, status: int = 200, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status, self.tls = status, tls
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.answer, self.kind = b"", "application/x-protobuf"
        self.before: deque[int] = deque()
        self.came, self.goes_on = threading.Event(), threading.Event()
        self.goes_on.set()
        self.requests: list[ExportTraceServiceRequest] = []
        self.headers: list[Mapping[str, str]] = []
        self.paths: list[str] = []
        self.connections: set[tuple[str, int]] = set()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        """Its base address."""
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self.server_port}"

    def spans(self) -> list[Decoded]:
        """Every span taken so far."""
        return [s for r in list(self.requests) for t in r.resource_spans for u in t.scope_spans for s in u.spans]

    def wait_for(self, count: int, seconds: float = 60) -> list[Decoded]:
        """Return the spans once there are so many, or what there is at the deadline."""
        end = time.monotonic() + seconds
        while len(self.spans()) < count and time.monotonic() < end:
            time.sleep(0.01)
        return self.spans()


class _Handler(BaseHTTPRequestHandler):
    server: Sink
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Take one export request."""
        if not self.path.endswith("/v1/traces") or "/v1/traces/v1" in self.path:
            self.send_error(404)
            return
        assert self.headers["Content-Type"] == "application/x-protobuf"
        body = self.rfile.read(int(self.headers["Content-Length"]))
        sink = self.server
        sink.connections.add(self.client_address)
        sink.headers.append({name.lower(): value for name, value in self.headers.items()})
        sink.paths.append(self.path)
        sink.came.set()
        sink.goes_on.wait()
        status = sink.before.popleft() if sink.before else sink.status
        if status not in (429, 502, 503, 504):
            plain = gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body
            sink.requests.append(ExportTraceServiceRequest.FromString(plain))
        self.send_response(status)
        self.send_header("Content-Type", sink.kind)
        self.send_header("Content-Length", str(len(sink.answer)))
        self.end_headers()
        self.wfile.write(sink.answer)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def attributes(span: Decoded) -> dict[str, object]:
    """Return a span's attributes as plain values."""
    values = {a.key: a.value for a in span.attributes}
    return {key: getattr(value, str(value.WhichOneof("value"))) for key, value in values.items()}
