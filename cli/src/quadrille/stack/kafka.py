"""Apache Kafka, one node in KRaft mode, from its own jars."""

from __future__ import annotations

import base64
import shutil
import socket
import subprocess
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from quadrille.stack import fetch, java, places
from quadrille.stack.problems import PartFailed
from quadrille.stack.processes import Process, Spec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CLUSTER = "cXVhZHJpbGxlLWxvY2FsLQ"
"""The cluster id that is formatted with, `quadrille-local-` in Kafka's spelling of 16 bytes; a copy gets its own."""


def class_path() -> str:
    """The jars in one fixed order: an AOT archive is only good for the order it was trained with."""
    return ":".join(sorted(str(jar) for jar in fetch.fetch(fetch.KAFKA)))


def process(home: Path, logs: Path, ports: Mapping[str, int], options: Sequence[str] | None = None) -> Process:
    """The broker over its data in `home`; `options` replace the AOT archive (to train one)."""
    port = ports["kafka"]
    listens = {name: ports[name] for name in ("kafka", "kafka-controller")}

    def command() -> list[str]:
        archive = java.archive_options(fetch.KAFKA) if options is None else options
        return [*_java(*archive), "kafka.Kafka", str(home / "server.properties")]

    return Process(
        Spec(
            name="kafka",
            command=command,
            log=logs / "kafka.log",
            env=java.environment(),
            ready=lambda: answers(port),
            prepare=lambda: _lay_out(home, listens),
            ports=listens,
        )
    )


def _lay_out(home: Path, ports: Mapping[str, int]) -> None:
    """Have formatted log directories and this start's settings."""
    data = places.directory(home) / "data"
    if not (data / "meta.properties").exists():
        shutil.rmtree(data, ignore_errors=True)
        shutil.copytree(_formatted(), data)
        _name(data)
    marks = {"DIR": home, "PORT": ports["kafka"], "CONTROLLER_PORT": ports["kafka-controller"]}
    (home / "server.properties").write_text(places.filled("kafka/server.properties", **marks), encoding="utf-8")


def _name(data: Path) -> None:
    """Give a copy of the formatted directory a cluster id of its own: a relay tells two stacks apart by it."""
    mark = data / "meta.properties"
    own = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    mark.write_text(mark.read_text(encoding="utf-8").replace(CLUSTER, own), encoding="utf-8")


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


def _java(*options: str) -> list[str]:
    log4j = f"-Dlog4j2.configurationFile={places.template('kafka/log4j2.yaml')}"
    return [java.binary(), "-Xms192m", "-Xmx512m", *java.SMALL, *java.QUIET, *options, log4j, "-cp", class_path()]


def _formatted() -> Path:
    """A freshly formatted log directory: one run of the format tool (2 s) serves every later broker."""
    home = places.cache_dir() / f"kafka-formatted-{fetch.digest(fetch.KAFKA)}"
    if home.exists():
        return home
    with places.locked(places.cache_dir() / "kafka-formatted.lock"):
        if not home.exists():
            _format(home)
    return home


def _format(home: Path) -> None:
    with tempfile.TemporaryDirectory(dir=places.cache_dir()) as name:
        scratch = Path(name)
        properties = scratch / "server.properties"
        text = places.filled("kafka/server.properties", DIR=scratch, PORT=9092, CONTROLLER_PORT=9093)
        properties.write_text(text, encoding="utf-8")
        command = [*_java(), "kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c", str(properties)]
        done = subprocess.run(command, env=java.environment(), capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode or not (scratch / "data" / "bootstrap.checkpoint").exists():
            said = tuple((done.stdout + done.stderr).splitlines()[-20:])
            raise PartFailed(
                part="kafka", cause="its log directory could not be formatted", fix="see its output", tail=said
            )
        (scratch / "data").rename(home)
