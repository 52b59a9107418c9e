"""pgbench over the chassis' own statements: a script made from them, so that the floor is of what we really send.

One transaction of the script takes in ``n`` inputs and says one event for each: key locks, inbox, outbox, streams.
"""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

from bench.meters import Meter
from bench.model import Run
from quadrille.processing.unit_of_work import ADD_EVENTS, ADD_SEEN, ADD_STREAMS, LOCK_KEYS
from quadrille_cli.stack import Stack
from quadrille_cli.stack.servers import postgres

SECONDS = 5
CLIENTS = 4
TRACE = "'00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00'"
PLACEHOLDER = re.compile(r"%b(::\w+\[\])?")
_EACH = "(SELECT array_agg({}) FROM generate_series(1, {{n}}) g)"
VALUES: dict[str, list[str]] = {
    LOCK_KEYS: [_EACH.format("(:client_id::bigint << 40) + g")],
    ADD_SEEN: [_EACH.format("uuidv7()")],
    ADD_EVENTS: [
        _EACH.format(one)
        for one in (
            "uuidv7()",
            "'inventory.events'::text",
            "(:key + g)::text",
            "'stock.reserved'::text",
            "1::bigint",
            "decode(repeat(md5(g::text), 19), 'hex')",
            "uuidv7()",
            f"{TRACE}::text",
            "'\\x0102030405060708'::bytea",
        )
    ],
    ADD_STREAMS: [_EACH.format(one) for one in ("'inventory.events'::text", "uuidv7()::text", "1::bigint")],
}
"""The chassis' statements in their order, with what stands for each of their parameters."""


def filled(statement: str, values: list[str], n: int) -> str:
    """Return a statement of the chassis with its parameters given, ``n`` rows of each."""
    given = iter(values)
    text = PLACEHOLDER.sub(lambda found: next(given).format(n=n) + (found[1] or ""), statement)
    return " ".join(text.split())


def script(n: int) -> str:
    """Return the pgbench script of a transaction of ``n`` inputs."""
    lines = [filled(statement, values, n) + ";" for statement, values in VALUES.items()]
    return "\n".join([r"\set key random(1, 1000000000)", "BEGIN;", *lines, "COMMIT;", ""])


class Committing:
    """pgbench with that script: C, no decoding, no Kafka."""

    def __init__(self, stack: Stack, service: str, n: int) -> None:
        self.name, self._stack, self._service, self._n = f"floor: pgbench, batches of {n}", stack, service, n

    def run(self) -> Run:
        """Run five seconds of it."""
        file = self._stack.data / f"floor-{self._n}.sql"
        file.write_text(script(self._n), encoding="utf-8")
        with self._stack:
            return self._measured(file, "-T", str(SECONDS))

    def once(self, transactions: int) -> Run:
        """Run so many transactions of each client, on a server that runs."""
        file = self._stack.data / f"floor-{self._n}.sql"
        file.write_text(script(self._n), encoding="utf-8")
        return self._measured(file, "-t", str(transactions))

    def _measured(self, file: Path, *length: str) -> Run:
        dsn = self._stack.database_url(self._service, "app")
        command: list[str | Path] = [
            postgres.binaries() / "bin" / "pgbench",
            "-n",
            "-f",
            file,
            "-c",
            str(CLIENTS),
            *length,
        ]
        server = self._stack.process(f"postgres:{self._service}").pid or 0
        began = time.time()
        with (
            subprocess.Popen([*command, dsn], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process,
            Meter({"postgres": [server], "consumer": [process.pid]}, families=True) as meter,
        ):
            said, _ = process.communicate()
        ended = time.time()
        found = re.search(r"number of transactions actually processed: (\d+)", said)
        rows = int(found[1]) * self._n if found else 0
        if process.returncode or not rows or "number of failed transactions: 0 " not in said:
            return Run(self.name, {}, [f"pgbench: {said.strip().splitlines()[-1]}"])
        spent = {name: meter.between(name, began, ended) / rows * 1e6 for name in ("consumer", "postgres")}
        figures = {f"{name}_us": value for name, value in spent.items()}
        return Run(self.name, figures | {"all_us": sum(spent.values()), "rows_per_s": rows / (ended - began)})
