"""A service's ops port for tests: the real server on a free port."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from quadrille.app import Program, api_routes
from quadrille.context import ProcessContext
from quadrille.ops import server


@contextmanager
def ops_serving(program: Program[Any], context: ProcessContext) -> Iterator[int]:
    """Serve the ops port of a service's api while the block runs, at the port yielded."""
    with server.serve(
        "127.0.0.1:0", program.on.service, "api", {}, routes=api_routes(program, context), keys=context.keys
    ) as serving:
        yield serving.server_port
