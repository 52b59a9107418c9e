"""Jaeger from Go modules: built once with the machine's own Go, kept in the cache, optional."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quadrille_cli.stack import paths
from quadrille_cli.stack.processes import Process, Spec
from quadrille_cli.stack.servers import jvm
from quadrille_cli.stack.servers.go_program import GoProgram
from quadrille_cli.stack.servers.registry import healthy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

NO_GO = "no Go on this machine: no local Jaeger (compose.yaml has one)"
JAEGER = GoProgram(
    "jaeger", "github.com/jaegertracing/jaeger/cmd/jaeger", "jaeger", NO_GO,
    "install Go (package golang), or leave --jaeger away",
)  # fmt: skip
binary, available, build, main = JAEGER.binary, JAEGER.available, JAEGER.build, JAEGER.main


def process(home: Path, logs: Path, ports: Mapping[str, int], said: Callable[[str], object]) -> Process:
    """Jaeger with its traces in memory: OTLP over HTTP in, its API (and the UI where built in) out."""
    listens = {name: ports[name] for name in ("jaeger", "jaeger-otlp", "jaeger-grpc")}
    return Process(
        Spec(
            name="jaeger",
            command=lambda: [str(build(said)), "--config", "jaeger.yaml"],  # a path with a colon would be a URL
            log=logs / "jaeger.log",
            env=jvm.environment(),
            cwd=home,
            ready=lambda: healthy(listens["jaeger"], "/api/services"),
            prepare=lambda: _lay_out(home, listens),
            ports=listens,
        )
    )


def _lay_out(home: Path, ports: Mapping[str, int]) -> None:
    http, otlp, grpc = ports["jaeger"], ports["jaeger-otlp"], ports["jaeger-grpc"]
    marks = {"UI_PORT": http, "QUERY_GRPC_PORT": grpc, "OTLP_HTTP_PORT": otlp}
    (paths.directory(home) / "jaeger.yaml").write_text(paths.filled("jaeger/jaeger.yaml", **marks), encoding="utf-8")
