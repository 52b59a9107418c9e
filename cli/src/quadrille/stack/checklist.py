"""What a start consists of: parts first, then topics, schemas and migrations, then our own processes."""

from __future__ import annotations

import shlex
import threading
from functools import partial
from typing import TYPE_CHECKING

from quadrille import topics
from quadrille.stack import fetch, parts, places, services
from quadrille.stack.ports import ROLES, SERVICES
from quadrille.stack.problems import CannotRun, PartFailed
from quadrille.stack.processes import explain
from quadrille.stack.steps import Step, run

if TYPE_CHECKING:
    from quadrille.stack.core import Stack
    from quadrille.stack.processes import Process

MEGABYTE = 10**6
ONE_AT_A_TIME = threading.Lock()
"""Alembic keeps its context in a module."""
LOCKS = {"kafka": fetch.KAFKA, "registry": fetch.REGISTRY}


def prepare(stack: Stack) -> None:
    """Have every file that is needed and room for the data, or refuse before anything starts."""
    services.required(part for part in ("sandbox", *SERVICES) if part in stack.parts)
    fetch.room(stack.data, sum(_size(part) for part in stack.parts))
    locks = [lock for part, lock in LOCKS.items() if part in stack.parts]
    absent = [entry for lock in locks for entry in fetch.missing(lock)]
    if absent:  # the archives are unpacked beside them, and templates are made
        fetch.room(places.cache_dir(), 3 * sum(entry.size for entry in absent) + 100 * MEGABYTE)
    if locks:
        run([Step("files", lambda: fetch.bring(locks, stack.progress.said))], stack.progress)
    user = places.server_user()
    if user is not None and stack.clusters:
        stack.progress.said(f"Postgres runs as {user.pw_name} (uid {user.pw_uid}), because we are root")
        closed = places.closed(stack.postgres_home)
        if closed is not None:  # since they were made: new ones are made where that user can go
            what = f"{user.pw_name} cannot reach the databases in {stack.postgres_home}: {closed} was closed to others"
            raise CannotRun(what=what, fix=f"chmod o+x {shlex.quote(str(closed))}")
        fetch.room(stack.postgres_home, sum(_size(part) for part in stack.parts & parts.DATABASES))
        if stack.postgres_home != stack.data / "postgres":
            stack.progress.said(f"that user cannot reach {stack.data}: databases lie in {stack.postgres_home}")


def steps(stack: Stack) -> list[Step]:
    """The checklist of this stack, in the order it is shown."""
    servers = [p for name, p in stack.processes.items() if parts.is_server(name)]
    listed = [Step(p.name, partial(_start, p)) for p in servers]
    if "topics" in stack.parts:
        listed.append(Step("topics", partial(_topics, stack), frozenset({"kafka"})))
    if "schemas" in stack.parts:
        listed.append(Step("schemas", partial(_schemas, stack), frozenset({"registry"})))
    for part in ("sandbox", *SERVICES):
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
    done = topics.apply(stack.kafka_bootstrap)
    for name, reason in done.refused.items():
        raise PartFailed(part="topics", cause=f"{name} {reason}", fix="begin beside it: quadrille up --data DIR")
    return f"{len(topics.TOPICS)} topics, {len(done.create)} new"


def _schemas(stack: Stack) -> str:
    from quadrille import schema  # noqa: PLC0415 - what the command line's start can spare

    try:
        applied = schema.apply(stack.registry_url, schema.root())
    except schema.Refused as refused:
        fix = "quadrille schema check names what must change"
        raise PartFailed(part="schemas", cause="the registry refused", fix=fix, tail=refused.findings) from refused
    return f"{sum(len(ids) for ids in applied.ids.values())} versions of {len(applied.ids)} records"


def _ours(stack: Stack, part: str) -> list[Step]:
    if part == "sandbox":
        return [Step(part, partial(_start, stack.processes[part]))]
    migrate = f"migrate {part}"
    needs = frozenset({migrate, "topics", "schemas", "kafka", "registry", "sandbox"})
    listed = [Step(migrate, partial(_migrate, stack, part), frozenset({f"postgres:{part}"}))]
    names = [f"{part}-{role}" for role in ROLES]
    return listed + [Step(name, partial(_start, stack.processes[name]), needs) for name in names]


def _migrate(stack: Stack, service: str) -> str:
    """Bring a service's tables up to date, as their owner; here rather than in four more Pythons."""
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

    from chassis import migrate  # noqa: PLC0415 - Alembic and SQLAlchemy take 0.5 s to import

    try:
        with ONE_AT_A_TIME:
            migrate.upgrade(service, stack.database_url(service, "owner"))
    except SQLAlchemyError as refused:
        log = tuple(str(refused).splitlines()[-20:])
        cause, fix = explain(log, stack.logs / f"postgres-{service}.log")
        name = f"migrate {service}"
        raise PartFailed(part=name, cause=cause or type(refused).__name__, fix=fix, tail=log) from refused
    return ""
