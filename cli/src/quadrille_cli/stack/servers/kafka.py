"""Apache Kafka, one node in KRaft mode, from its own jars."""

from __future__ import annotations

import base64
import secrets
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from quadrille_cli.stack import leftovers, paths
from quadrille_cli.stack.errors import PartFailed
from quadrille_cli.stack.processes import Process, Spec
from quadrille_cli.stack.servers import artifacts, jvm

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LOG4J = "log4j2.yaml"
CLUSTER = "cXVhZHJpbGxlLWxvY2FsLQ"
"""The cluster id of the formatted directory that every new broker's is a copy of, with an id of its own."""


def class_path() -> str:
    """The jars in one fixed order: an AOT archive is only good for the order it was trained with."""
    return ":".join(sorted(str(jar) for jar in artifacts.fetch(artifacts.KAFKA)))


def process(
    home: Path,
    logs: Path,
    ports: Mapping[str, int],
    options: Sequence[str] | None = None,
    advertised: int | None = None,
) -> Process:
    """The broker over its data in `home`; `options` replace the AOT archive (to train one).

    Clients are told to come to the port ``advertised``: a proxy's, where there is one.
    """
    port = ports["kafka"]
    listens = {name: ports[name] for name in ("kafka", "kafka-controller")}

    def command() -> list[str]:
        archive = jvm.archive_options(artifacts.KAFKA) if options is None else options
        return [*_java(home, *archive), "kafka.Kafka", "server.properties"]

    return Process(
        Spec(
            name="kafka",
            command=command,
            log=logs / "kafka.log",
            env=jvm.environment(),
            cwd=home,
            ready=lambda: answers(port),
            prepare=lambda: _lay_out(home, listens, advertised or port),
            ports=listens,
        )
    )


def _lay_out(home: Path, ports: Mapping[str, int], advertised: int) -> None:
    """Have formatted log directories and this start's settings."""
    data, scratch = paths.directory(home) / "data", home / "data.new"
    if not data.exists():  # copied whole or not at all
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.copytree(_formatted(), scratch)
        meta = scratch / "meta.properties"
        meta.write_text(meta.read_text(encoding="utf-8").replace(CLUSTER, cluster_id()), encoding="utf-8")
        scratch.rename(data)
    leftovers.unlocked("kafka", data / ".lock")
    _configure(home, ports["kafka"], ports["kafka-controller"], advertised)


def _configure(home: Path, port: int, controller: int, advertised: int) -> None:
    """Write the broker's files; it runs in their directory, so that no path need be spelled in their syntax."""
    text = paths.filled("kafka/server.properties", PORT=port, CONTROLLER_PORT=controller, ADVERTISED_PORT=advertised)
    (home / "server.properties").write_text(text, encoding="utf-8")
    (home / LOG4J).write_text(paths.filled(f"kafka/{LOG4J}"), encoding="utf-8")


def cluster_id() -> str:
    """Return a new cluster id, 16 bytes in Kafka's spelling: workers and relays tell a stranger's broker by it."""
    return base64.urlsafe_b64encode(b"quadrill" + secrets.token_bytes(8)).decode().rstrip("=")


def answers(port: int) -> bool:
    """Whether a broker on this port tells its topics."""
    if not listening(port):
        return False
    from confluent_kafka import KafkaException  # noqa: PLC0415 - 0.1 s the command line's start can spare
    from confluent_kafka.admin import AdminClient  # noqa: PLC0415

    settings = {"reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 50, "log_level": 0}
    admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{port}", **settings})
    try:
        return bool(admin.list_topics(timeout=5).brokers)
    except KafkaException:
        return False


def listening(port: int) -> bool:
    """Whether something accepts connections on this port of the loopback."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _java(home: Path, *options: str) -> list[str]:
    own = [jvm.temporary(home), f"-Dlog4j2.configurationFile={LOG4J}", "-cp", class_path()]
    return [jvm.binary(), "-Xms192m", "-Xmx512m", *jvm.SMALL, *jvm.QUIET, *options, *own]


def _formatted() -> Path:
    """A freshly formatted log directory: one run of the format tool (2 s) serves every later broker."""
    return paths.made_once(paths.cache_dir() / f"kafka-formatted-{artifacts.digest(artifacts.KAFKA)}", _format)


def _format(to: Path) -> None:
    with tempfile.TemporaryDirectory(dir=to.parent) as name:
        scratch = Path(name)
        _configure(scratch, 9092, 9093, 9092)
        command = [*_java(scratch), "kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c", "server.properties"]
        done = subprocess.run(  # noqa: S603
            command, env=jvm.environment(), cwd=scratch, capture_output=True, text=True, errors="replace", check=False
        )
        if done.returncode or not (scratch / "data" / "bootstrap.checkpoint").exists():
            said = tuple((done.stdout + done.stderr).splitlines()[-20:])
            raise PartFailed(
                part="kafka", cause="its log directory could not be formatted", fix="see its output", tail=said
            )
        (scratch / "data").rename(to)
