"""The stack: real Kafka, registry and Postgres clusters with our services on them, started, found again and ended."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Self

from quadrille.stack import aot, checklist, ending, leftovers, parts, places, ports, postgres, registry, state
from quadrille.stack.problems import CannotRun, PortTaken
from quadrille.stack.steps import Progress, Silent, run

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import TracebackType

    from quadrille.stack.processes import Process

ATTEMPTS = 5
"""A start whose ports are taken while it runs tries as often, each time on others."""


class Stack:
    """A stack in one data directory; as a context manager it starts and stops with the block."""

    def __init__(  # noqa: PLR0913 - keyword only, each with a plain default
        self,
        data: Path | str,
        *,
        parts: Iterable[str] = parts.INFRASTRUCTURE,
        given: Mapping[str, int] | None = None,
        scattered: bool = False,
        settings: Mapping[str, str] | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.data = Path(data).absolute()
        self.parts = _checked(parts)
        self.settings = dict(settings or {})
        self.progress: Progress = progress or Silent()
        self.seconds: dict[str, float] = {}
        self.processes: dict[str, Process] = {}
        self.clusters: dict[str, postgres.Cluster] = {}
        self.ports: dict[str, int] = {}
        self.password = ""
        self._given, self._scattered = dict(given or {}), scattered
        self._claims = ports.Claims()
        self._writing = threading.Lock()

    @classmethod
    def found(cls, data: Path | str) -> Self | None:
        """The stack that was last started in this data directory, running or not; None when there was none."""
        there = state.load(Path(data))
        if there is None:
            return None
        stack = cls(data, parts=there.parts, settings=there.settings)
        stack.ports, stack.password = there.ports, there.password
        stack._know(there)
        return stack

    def __enter__(self) -> Self:
        """Start every part."""
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop every part; the data stays."""
        self.stop()

    @property
    def kafka_bootstrap(self) -> str:
        """The broker's address."""
        return f"127.0.0.1:{self.ports['kafka']}"

    @property
    def registry_url(self) -> str:
        """The base address of the registry's Confluent-compatible API."""
        return registry.url(self.ports["registry"])

    def database_url(self, service: str, role: str = "app") -> str:
        """Where a role (owner, app, relay, postgres) reaches a service's database."""
        return self.clusters[service].url(role)

    def url(self, name: str) -> str:
        """The HTTP address behind a port's name: `order` (its API), `order-worker` (ops), `sandbox`, `jaeger`."""
        return f"http://127.0.0.1:{self.ports[name]}"

    @property
    def logs(self) -> Path:
        """The directory of the processes' logs."""
        return self.data / "logs"

    @property
    def postgres_home(self) -> Path:
        """Where the clusters' data lies: in the data directory, or where the server's user can reach it."""
        return places.databases(self.data)

    def process(self, name: str) -> Process:
        """One process by name: `kafka`, `postgres:order`, `inventory-worker`."""
        return self.processes[name]

    def start(self) -> None:
        """Start every part that does not run yet; a failure ends what this call started."""
        places.usable(places.cache_dir())
        places.claimed(self.data)
        with places.locked(self.data / "lock"):
            for left in reversed(range(ATTEMPTS)):
                try:
                    self._start()
                    break
                except PortTaken as taken:
                    self._give_way(taken, last=not left)
            self._learn()

    def _start(self) -> None:
        """Start on ports that are free now."""
        with closing(self._claims):
            there = state.load(self.data) or state.State()
            self._end_strays(there)
            self._settle(there)
            checklist.prepare(self)
            ending.end([p for name, p in self.processes.items() if p.running and self._told_otherwise(there, name)])
            new = [process for process in self.processes.values() if not process.running]
            try:
                self.seconds = run(checklist.steps(self), self.progress, abort=lambda: ending.end(new))
            except BaseException:
                ending.end(new)  # again: one may have been launched meanwhile
                raise
            finally:
                self.save()

    def _give_way(self, taken: PortTaken, *, last: bool) -> None:
        """Say that the start begins again on other ports; a port given by hand is never moved."""
        if taken.name in self._given:
            raise ports.refusal(taken.name, taken.port) from taken
        if last:
            raise taken
        self.progress.said(f"{taken.owner} took port {taken.port} meanwhile: {taken.name} moves to another one")

    def _end_strays(self, there: state.State) -> None:
        """End what a killed start has left running and nobody wrote down."""
        known = {process.pid for process in there.alive.values()}
        if left := leftovers.strays(self.logs, known):
            self.progress.said(f"ending {len(left)} processes that a start cut short has left behind")
            leftovers.end(left, ending.SERVERS)

    def stop(self) -> float:
        """End every process of this stack, ours first; the seconds it took."""
        took = ending.end(list(self.processes.values()))
        leftovers.end(leftovers.strays(self.logs, ()), ending.SERVERS)
        self.save()
        return took

    def wipe(self) -> None:
        """Remove the data, as if it had never run."""
        elsewhere = self.postgres_home.parent
        for path in {elsewhere, self.data}:
            places.removed(path)

    def save(self) -> None:
        """Write down what runs, for the commands that come after."""
        with self._writing:
            if self.data.exists():
                state.save(self.data, self._snapshot())

    def _told_otherwise(self, there: state.State, name: str) -> bool:
        """Whether a process of ours runs with other settings than it would get now."""
        ours = name != aot.NAME and not parts.is_server(name)
        return ours and there.processes[name].fingerprint != self.processes[name].fingerprint

    def _learn(self) -> None:
        """Train the AOT archives behind the user's back, once both servers are here to profit."""
        if {"kafka", "registry"} <= self.parts and aot.wanted() and not self._trains():
            self.processes[aot.NAME] = trainer = aot.process(self.logs)
            trainer.on_change = self.save
            trainer.launch()

    def _trains(self) -> bool:
        return aot.NAME in self.processes and self.processes[aot.NAME].running

    def _settle(self, there: state.State) -> None:
        """Ports and password: those of what still runs stay, the others are found now; then know every process."""
        for name in ("logs", "schemas", "sandbox"):
            places.directory(self.data / name, 0o711)
        self.parts |= {parts.part_of(name) for name in there.alive} & parts.PARTS  # what runs is never forgotten
        kept = {name: port for process in there.alive.values() for name, port in process.ports.items()}
        names = [name for name in parts.port_names(self.parts) if name not in kept]
        given = {name: port for name, port in self._given.items() if kept.get(name) != port}
        for name in given.keys() & kept.keys():
            raise CannotRun(what=f"{name} runs on port {kept[name]}", fix="quadrille down, then up with --port")
        self.ports = kept | (self._choose(names, given))
        self.password, known = state.password(self.data, there.password)
        self._know(there)
        for cluster in self.clusters.values():
            cluster.forgotten = not known

    def _choose(self, names: list[str], given: Mapping[str, int]) -> dict[str, int]:
        take = self._claims.take
        return ports.scattered(names, take) if self._scattered else ports.choose(names, take, given)

    def _know(self, there: state.State) -> None:
        self.clusters = {
            service: postgres.Cluster(service, self.postgres_home / service, self.ports[part], self.logs, self.password)
            for part, service in ((f"postgres:{s}", s) for s in ports.SERVICES)
            if part in self.parts
        }
        before, self.processes = self.processes, {process.name: process for process in parts.processes(self)}
        if aot.NAME in there.alive:
            self.processes[aot.NAME] = aot.process(self.logs)
        for name, process in self.processes.items():
            process.on_change = self.save
            if name in there.alive:
                process.pid, process.born = there.processes[name].pid, there.processes[name].born
        for name, process in before.items():
            if process.running and name in self.processes:  # asked of all: who has ended is reaped by it
                self.processes[name].follow(process)

    def _snapshot(self) -> state.State:
        return state.State(
            ports=self.ports,
            parts=sorted(self.parts),
            processes={name: _running(process) for name, process in self.processes.items() if process.pid},
            password=self.password,
            settings=self.settings,
        )


def _running(process: Process) -> state.Running:
    spec = process.spec
    return state.Running(process.pid, process.born, str(spec.log), dict(spec.ports), process.fingerprint)


def _checked(wanted: Iterable[str]) -> frozenset[str]:
    unknown = frozenset(wanted) - parts.PARTS
    if unknown:
        raise CannotRun(what=f"no such part: {min(unknown)}", fix=f"one of: {', '.join(sorted(parts.PARTS))}")
    return frozenset(wanted)
