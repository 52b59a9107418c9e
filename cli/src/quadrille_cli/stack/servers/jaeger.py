"""Jaeger from Go modules: built once with the machine's own Go, kept in the cache, optional."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from quadrille_cli.stack import paths
from quadrille_cli.stack.errors import CannotRun
from quadrille_cli.stack.processes import Process, Spec
from quadrille_cli.stack.servers import jvm
from quadrille_cli.stack.servers.registry import healthy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

MODULE = "github.com/jaegertracing/jaeger/cmd/jaeger"
STEP = 300  # lines of the compiler between two signs of life, of some 2,300
NO_GO = "no Go on this machine: no local Jaeger (compose.yaml has one)"


def binary() -> Path:
    """The program's place in the cache, by the exact modules it is built from; it may not exist (yet)."""
    sums = paths.template("jaeger/go.sum").read_bytes() + paths.template("jaeger/go.mod").read_bytes()
    return paths.cache_dir() / f"jaeger-{hashlib.sha256(sums).hexdigest()[:12]}"


def available() -> bool:
    """Whether it is built, or could be."""
    return binary().exists() or shutil.which("go") is not None


def build(said: Callable[[str], object]) -> Path:
    """The program, built when it is not there yet (minutes, once)."""
    program = binary()
    if program.exists():
        return program
    go = shutil.which("go")
    if go is None:
        raise CannotRun(what=NO_GO, fix="install Go (package golang), or leave --jaeger away")
    said("building Jaeger from its Go modules: some minutes, once")
    return paths.made_once(paths.usable(program.parent) / program.name, lambda to: _build(go, to, said))


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


def _build(go: str, program: Path, said: Callable[[str], object]) -> None:
    with tempfile.TemporaryDirectory(dir=program.parent) as name:
        scratch = Path(name)
        for file in ("go.mod", "go.sum"):
            shutil.copy(paths.template(f"jaeger/{file}"), scratch / file)
        _compile(["nice", go, "build", "-v", "-trimpath", "-o", str(scratch / "jaeger"), MODULE], scratch, said)
        (scratch / "jaeger").rename(program)


def _compile(command: Sequence[str], scratch: Path, said: Callable[[str], object]) -> None:
    """Run the compiler and tell now and then how far it is; raises CannotRun with its last lines."""
    tail: deque[str] = deque(maxlen=20)
    with subprocess.Popen(command, cwd=scratch, stderr=subprocess.PIPE, text=True) as compiler:  # noqa: S603
        for number, line in enumerate(compiler.stderr or (), 1):
            tail.append(line.rstrip())
            if number % STEP == 0:
                said(f"{number} modules and packages fetched and compiled")
    if compiler.returncode:
        raise CannotRun(what="Jaeger could not be built", fix="see above; or leave --jaeger away", tail=tuple(tail))


def main() -> None:
    """Build it ahead of the tests, or say in one line why there will be none."""
    try:
        build(lambda text: sys.stderr.write(f"   {text}\n"))
    except CannotRun as refused:
        sys.stderr.write(f"   {refused.what}\n")
