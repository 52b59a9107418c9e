"""The stack: real Kafka, registry and Postgres clusters with our services on them, started, found again and ended."""

from __future__ import annotations

import shlex
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

from quadrille_cli.services import CONSOLE, PROGRAMS, SERVICES, known_to
from quadrille_cli.stack import code, dev_keys, last_words, leftovers, paths, ports, services, shell, state, topics
from quadrille_cli.stack.errors import CannotRun, PartFailed, PortTaken
from quadrille_cli.stack.ports import ROLES
from quadrille_cli.stack.processes import explain
from quadrille_cli.stack.servers import aot, artifacts, jaeger, kafka, postgres, registry
from quadrille_cli.stack.steps import Progress, Silent, Step, run

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import TracebackType

    from quadrille_cli.stack.processes import Process


DATABASES = frozenset(f"postgres:{program}" for program in PROGRAMS)
INFRASTRUCTURE = frozenset({"kafka", "registry", *(f"postgres:{service}" for service in SERVICES)})
EVERYTHING = frozenset({*INFRASTRUCTURE, *DATABASES, "topics", "schemas", "sandbox", *PROGRAMS})
PARTS = EVERYTHING | {"jaeger"}

LISTENS = {
    "kafka": ("kafka", "kafka-controller"),
    "registry": ("registry", "registry-management"),
    "sandbox": ("sandbox", "smtp"),
    "jaeger": ("jaeger", "jaeger-otlp", "jaeger-grpc"),
    "topics": (),
    "schemas": (),
    CONSOLE: (CONSOLE, f"{CONSOLE}-ops"),
    **{service: (service, *(f"{service}-{role}" for role in ROLES)) for service in SERVICES},
}


def is_server(name: str) -> bool:
    """Whether a part or process is foreign: what our own processes stand on."""
    return name in {"kafka", "registry", "jaeger"} or name.startswith("postgres:")


def part_of(process: str) -> str:
    """The part a process belongs to: `inventory` for `inventory-worker`, else its own name."""
    head = process.partition("-")[0]
    return head if head in SERVICES else process


def port_names(parts: Iterable[str]) -> list[str]:
    """The names of the ports these parts listen on."""
    return [name for part in sorted(parts) for name in LISTENS.get(part, (part,))]


def processes(stack: Stack) -> list[Process]:
    """Every process of the stack's parts, none of them started."""
    made = [cluster.process for cluster in stack.clusters.values()]
    if "kafka" in stack.parts:
        made.append(kafka.process(stack.data / "kafka", stack.logs, stack.ports, advertised=stack.via.get("kafka")))
    if "registry" in stack.parts:
        made.append(registry.process(stack.data / "registry", stack.logs, stack.ports))
    if "jaeger" in stack.parts:
        made.append(jaeger.process(stack.data / "jaeger", stack.logs, stack.ports, stack.progress.said))
    if "sandbox" in stack.parts:
        made.append(services.sandbox(stack.data / "sandbox", stack.logs, stack.ports))
    for service in [part for part in SERVICES if part in stack.parts]:
        role = partial(services.role, service, logs=stack.logs, ports=stack.ports)
        made += [role(name, env=environment(stack, service, name)) for name in ROLES]
    if CONSOLE in stack.parts:
        made.append(services.console(environment(stack, CONSOLE, "all"), stack.logs, stack.ports))
    return made


COLLECTORS = {"jaeger": "jaeger-otlp", CONSOLE: CONSOLE}
"""The parts that take traces, and the port where."""


def environment(stack: Stack, service: str, role: str) -> dict[str, str]:
    """The settings of one process of ours: addresses of this stack, then what was asked for."""
    reached = stack.ports | stack.via
    database = stack.clusters[service].url(services.DATABASE_ROLE[role], reached[f"postgres:{service}"])
    settings = {
        "DATABASE_URL": database,
        "SCHEMA_CACHE": str(stack.data / "schemas" / service),
        "LOG_EVENTS": "true",  # an order's story is in the logs
        **services.disk(service, stack.data),
    }
    if "kafka" in stack.parts:
        settings["KAFKA_BOOTSTRAP"] = f"127.0.0.1:{reached['kafka']}"
    if "registry" in stack.parts:
        settings["REGISTRY_URL"] = registry.url(reached["registry"])
    if "sandbox" in stack.parts:
        settings |= services.outside(service, reached)
    if "jaeger" in stack.parts and CONSOLE not in stack.parts:  # built here, Jaeger has no pages of its own
        settings["JAEGER_URL"] = stack.url("jaeger")
    if service == CONSOLE:
        settings |= services.watched(stack.ports) | {"STACK": str(stack.data)}
    elif collectors := [stack.url(name) for part, name in COLLECTORS.items() if part in stack.parts]:
        settings["OTLP_ENDPOINTS"] = ",".join(collectors)
    if CONSOLE in stack.parts and service != CONSOLE:  # the console needs no link to itself
        settings["CONSOLE_URL"] = stack.url(CONSOLE)
    if service in stack.ports:
        settings["PUBLIC_URL"] = stack.url(service)
    exporting = {}
    if dev_keys.own(stack):
        settings |= dev_keys.settings(stack, console=service == CONSOLE)
        exporting = dev_keys.headers_of_exporters(stack) if service != CONSOLE else {}
    asked = known_to(service, stack.settings)
    named = {f"QUADRILLE_{name}": value for name, value in (settings | asked).items()}
    return shell.program() | exporting | named


MEGABYTE = 10**6
ONE_AT_A_TIME = threading.Lock()
"""Alembic keeps its context in a module."""
LOCKS = {"kafka": artifacts.KAFKA, "registry": artifacts.REGISTRY}


def prepare(stack: Stack) -> None:
    """Have every file that is needed and room for the data, or refuse before anything starts."""
    services.required(services.MODULES.get(part, part) for part in ("sandbox", *PROGRAMS) if part in stack.parts)
    artifacts.room(stack.data, sum(_size(part) for part in stack.parts))
    locks = [lock for part, lock in LOCKS.items() if part in stack.parts]
    absent = [entry for lock in locks for entry in artifacts.missing(lock)]
    if absent:  # the archives are unpacked beside them, and templates are made
        artifacts.room(paths.cache_dir(), 3 * sum(entry.size for entry in absent) + 100 * MEGABYTE)
    if locks:
        run([Step("files", lambda: artifacts.bring(locks, stack.progress.said))], stack.progress)
    user = paths.server_user()
    if user is not None and stack.clusters:
        stack.progress.said(f"Postgres runs as {user.pw_name} (uid {user.pw_uid}), because we are root")
        closed = paths.closed(stack.postgres_home)
        if closed is not None:  # since they were made: new ones are made where that user can go
            what = f"{user.pw_name} cannot reach the databases in {stack.postgres_home}: {closed} was closed to others"
            raise CannotRun(what=what, fix=f"chmod o+x {shlex.quote(str(closed))}")
        artifacts.room(stack.postgres_home, sum(_size(part) for part in stack.parts & DATABASES))
        if stack.postgres_home != stack.data / "postgres":
            stack.progress.said(f"that user cannot reach {stack.data}: databases lie in {stack.postgres_home}")


def steps(stack: Stack) -> list[Step]:
    """The checklist of this stack, in the order it is shown."""
    servers = [p for name, p in stack.processes.items() if is_server(name)]
    listed = [Step(p.name, partial(_start, p)) for p in servers]
    if "topics" in stack.parts:
        listed.append(Step("topics", partial(_topics, stack), frozenset({"kafka"})))
    if "schemas" in stack.parts:
        listed.append(Step("schemas", partial(_schemas, stack), frozenset({"registry"})))
    for part in ("sandbox", *PROGRAMS):
        if part in stack.parts:
            listed += _ours(stack, part)
    return listed


def _size(part: str) -> int:
    """Bytes a part's data takes at its start, generously."""
    if part.startswith("postgres:"):
        return 60 * MEGABYTE
    return {"kafka": 100, "registry": 20}.get(part, 5) * MEGABYTE


def _start(process: Process) -> str:
    again = process.running
    process.start()
    return "runs already" if again else ", ".join(f"{port}" for port in process.spec.ports.values())


def _topics(stack: Stack) -> str:
    done = topics.apply(stack.kafka_bootstrap, events=topics.kept(stack.settings.get(topics.SETTING, "")))
    for name, reason in done.refused.items():
        raise PartFailed(part="topics", cause=f"{name} {reason}", fix="begin beside it: quadrille up --data DIR")
    return f"{len(topics.TOPICS)} topics, {len(done.create)} new"


def _schemas(stack: Stack) -> str:
    from quadrille_cli.schema import lifecycle  # noqa: PLC0415 - what the command line's start can spare

    try:
        applied = lifecycle.apply(stack.registry_url, lifecycle.root())
    except lifecycle.SchemaRefusedError as refused:
        fix = "quadrille schema check, which names what must change"
        raise PartFailed(part="schemas", cause="the registry refused", fix=fix, tail=refused.findings) from refused
    return f"{sum(len(ids) for ids in applied.ids.values())} versions of {len(applied.ids)} records"


def _ours(stack: Stack, part: str) -> list[Step]:
    if part == "sandbox":
        return [Step(part, partial(_start, stack.processes[part]))]
    tables = f"migrate {part}"
    needs = frozenset({tables, "topics", "schemas", "kafka", "registry", "sandbox"})
    listed = [Step(tables, partial(migrate, stack, part), frozenset({f"postgres:{part}"}))]
    names = [part] if part == CONSOLE else [f"{part}-{role}" for role in ROLES]
    return listed + [Step(name, partial(_start, stack.processes[name]), needs) for name in names]


def migrate(stack: Stack, service: str) -> str:
    """Bring a service's tables up to date, as their owner; here rather than in five more Pythons.

    Raises PartFailed, after which nothing has changed: for one, when a newer program has migrated them.
    """
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

    from quadrille.db import migrations  # noqa: PLC0415 - Alembic and SQLAlchemy take 0.5 s to import

    name = f"migrate {service}"
    try:
        with ONE_AT_A_TIME:
            migrations.upgrade(service, stack.database_url(service, "owner"))
    except migrations.UnknownVersionError as newer:
        fix = "run the version of Quadrille that made it, or begin beside it: quadrille up --data DIR; the data is kept"
        raise PartFailed(part=name, cause=str(newer), fix=fix) from newer
    except SQLAlchemyError as refused:
        log = tuple(str(refused).splitlines()[-20:])
        cause, fix = explain(log, stack.logs / f"postgres-{service}.log")
        raise PartFailed(part=name, cause=cause or type(refused).__name__, fix=fix, tail=log) from refused
    return ""


OURS = 5.0
SERVERS = 3.5
"""Seconds granted before SIGKILL."""


def end(processes: Sequence[Process]) -> float:
    """End these processes; the seconds it took."""
    began = time.monotonic()
    _all([p for p in processes if not is_server(p.name)], OURS)
    _all([p for p in processes if is_server(p.name)], SERVERS)
    return time.monotonic() - began


def _all(processes: Sequence[Process], within: float) -> None:
    running = [p for p in processes if p.running]
    if not running:
        return
    with ThreadPoolExecutor(len(running)) as pool:
        list(pool.map(lambda p: p.stop(within), running))


ATTEMPTS = 5
"""A start whose ports are taken while it runs tries as often, each time on others."""


class Stack:
    """A stack in one data directory; as a context manager it starts and stops with the block."""

    def __init__(  # noqa: PLR0913 - keyword only, each with a plain default
        self,
        data: Path | str,
        *,
        parts: Iterable[str] = INFRASTRUCTURE,
        given: Mapping[str, int] | None = None,
        scattered: bool = False,
        settings: Mapping[str, str] | None = None,
        progress: Progress | None = None,
        reload: bool = False,
        via: Mapping[str, int] | None = None,
    ) -> None:
        self.data = Path(data).absolute()
        self.parts = _checked(parts)
        self.settings = dict(settings or {})
        self.progress: Progress = progress or Silent()
        self.reload = reload
        self.via = dict(via or {})
        """Ports at which services find a server instead of its own, by name: a proxy listens there."""
        self.seconds: dict[str, float] = {}
        self.processes: dict[str, Process] = {}
        self.clusters: dict[str, postgres.Cluster] = {}
        self.ports: dict[str, int] = {}
        self.password = ""
        self._given, self._scattered = dict(given or {}), scattered
        self._had: dict[str, int] = {}
        self._claims = ports.Claims()
        self._writing = threading.Lock()

    @classmethod
    def found(cls, data: Path | str) -> Self | None:
        """The stack that was last started in this data directory, running or not; None when there was none."""
        there = state.load(Path(data))
        if there is None:
            return None
        stack = cls(data, parts=there.parts, settings=there.settings, via=there.via)
        stack.ports, stack.password = there.ports, there.password
        stack._know(there)
        dev_keys.remember(stack)
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
        return paths.databases(self.data)

    def process(self, name: str) -> Process:
        """One process by name: `kafka`, `postgres:order`, `inventory-worker`."""
        return self.processes[name]

    def start(self) -> None:
        """Start every part that does not run yet; a failure ends what this call started."""
        paths.usable(paths.cache_dir())
        paths.claimed(self.data)
        with paths.locked(self.data / "lock"):
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
            prepare(self)
            self._end_outdated(there)
            new = [process for process in self.processes.values() if not process.running]
            try:
                self.seconds = run(steps(self), self.progress, abort=lambda: end(new))
            except BaseException:
                end(new)  # again: one may have been launched meanwhile
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
            leftovers.end(left, SERVERS)

    def stop(self) -> float:
        """End every process of this stack, ours first; the seconds it took."""
        took = end(list(self.processes.values()))
        leftovers.end(leftovers.strays(self.logs, ()), SERVERS)
        self.save()
        return took

    def wipe(self) -> None:
        """Remove the data, as if it had never run."""
        elsewhere = self.postgres_home.parent
        for path in {elsewhere, self.data}:
            paths.removed(path)

    def save(self) -> None:
        """Write down what runs, for the commands that come after."""
        with self._writing:
            if self.data.exists():
                state.save(self.data, self._snapshot())

    def _end_outdated(self, there: state.State) -> None:
        """End what runs with other settings than it would get now, if asked with other code; say which and why."""
        ours = [p for p in self.processes.values() if p.running and p.name != aot.NAME and not is_server(p.name)]
        told = [p for p in ours if there.processes[p.name].fingerprint != p.fingerprint]
        edited = [p for p in ours if p not in told and p.edited]
        if told:
            self.progress.said(f"started again: {_names(told)}, for {_changed(there.settings, self.settings)}")
        for files, found in _by_files(edited).items():
            way = "started again" if self.reload else "as it was until quadrille up --reload"
            self.progress.said(f"{way}: {_names(found)}, for {files} was edited")
        end([*told, *(edited if self.reload else ())])

    def meant(self, name: str) -> list[Process]:
        """The processes that a name means: one, all of a service, or one role of every service; raises CannotRun."""
        whole = name.replace("postgres-", "postgres:")
        role = f"-{name}" if name in ROLES else "-"
        ours = {own: process for own, process in self.processes.items() if own != aot.NAME}
        found = [p for own, p in ours.items() if own == whole or part_of(own) == name or own.endswith(role)]
        if not found:
            raise CannotRun(
                what=f"no process here is named {name}", fix=f"one of: {', '.join([*sorted(ours), *ROLES])}"
            )
        return found

    def halt(self, names: Sequence[str]) -> list[str]:
        """End the processes meant and note that it was asked for; the names of those that ran."""
        with paths.locked(self.data / "lock"):
            running = [process for name in names for process in self.meant(name) if process.running]
            end(running)
            for process in running:
                process.ended, process.ended_at = last_words.BY_HAND, time.time()
            self.save()
        return [process.name for process in running]

    def begin(self, names: Sequence[str]) -> list[str]:
        """Start the processes meant that do not run, with the tables of a whole service; the names of those started."""
        with paths.locked(self.data / "lock"):
            new = [process for name in names for process in self.meant(name) if not process.running]
            whole = [name for name in names if name in SERVICES]
            tables = {service: Step(f"migrate {service}", partial(migrate, self, service)) for service in whole}
            waits = {name: frozenset({f"migrate {part_of(name)}"}) for name in (process.name for process in new)}
            listed = [*tables.values(), *(Step(p.name, partial(_start, p), waits[p.name]) for p in new)]
            try:
                run(listed, self.progress, abort=lambda: end(new))
            finally:
                self.save()
        return [process.name for process in new]

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
            paths.directory(self.data / name, 0o711)
        self.parts |= {part_of(name) for name in there.alive} & PARTS  # what runs is never forgotten
        self._had = there.ports
        kept = {name: port for process in there.alive.values() for name, port in process.ports.items()}
        names = [name for name in port_names(self.parts) if name not in kept]
        given = {name: port for name, port in self._given.items() if kept.get(name) != port}
        for name in given.keys() & kept.keys():
            raise CannotRun(what=f"{name} runs on port {kept[name]}", fix="quadrille down, then up with --port")
        self.ports = kept | (self._choose(names, given))
        self.password, known = state.password(self.data, there.password)
        if dev_keys.own(self):
            dev_keys.prepare(self)
        self._know(there)
        dev_keys.remember(self)
        for cluster in self.clusters.values():
            cluster.forgotten = not known

    def _choose(self, names: list[str], given: Mapping[str, int]) -> dict[str, int]:
        take = self._claims.take
        if self._scattered:
            return ports.scattered(names, take, self._had)
        return ports.choose(names, take, given, {**ports.USUAL, **self._had})

    def _know(self, there: state.State) -> None:
        self.clusters = {
            service: postgres.Cluster(service, self.postgres_home / service, self.ports[part], self.logs, self.password)
            for part, service in ((f"postgres:{p}", p) for p in PROGRAMS)
            if part in self.parts
        }
        before, self.processes = self.processes, {process.name: process for process in processes(self)}
        if aot.NAME in there.alive:
            self.processes[aot.NAME] = aot.process(self.logs)
        for name, process in self.processes.items():
            process.on_change = self.save
            if name in there.alive:
                process.pid, process.born = there.processes[name].pid, there.processes[name].born
                process.code = there.processes[name].code
            elif name in there.processes:  # it has ended: how, is told by whoever saw it
                gone = there.processes[name]
                process.pid, process.born, process.code = gone.pid, gone.born, gone.code
                process.ended, process.ended_at = gone.ended, gone.ended_at
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
            via=self.via,
        )


def _names(found: Iterable[Process]) -> str:
    return ", ".join(process.name for process in found)


def _by_files(edited: Iterable[Process]) -> dict[str, list[Process]]:
    """Processes by the files that were edited since they began: those of one package, or of the chassis, together."""
    found: dict[str, list[Process]] = {}
    for process in edited:
        files = code.edited(process.spec.package, process.started_at)
        found.setdefault(", ".join(files[:2]) or "its code", []).append(process)
    return found


def _changed(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """What it is told otherwise, in words."""
    names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    told = [f"{name} is another" if name in now else f"{name} is the default again" for name in names]
    return ", ".join(told) or "what the stack tells it has changed"


def _running(process: Process) -> state.Running:
    spec = process.spec
    return state.Running(
        process.pid, process.born, str(spec.log), dict(spec.ports), process.fingerprint, process.code,
        process.ended, process.ended_at,
    )  # fmt: skip


def _checked(wanted: Iterable[str]) -> frozenset[str]:
    unknown = frozenset(wanted) - PARTS
    if unknown:
        raise CannotRun(what=f"no such part: {min(unknown)}", fix=f"one of: {', '.join(sorted(PARTS))}")
    return frozenset(wanted)
