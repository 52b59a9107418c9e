"""Gathering: the order in which everything is read, so that nothing under way is taken for lost or invented.

First every outbox, and where its log stood; then the relays are waited for until they have passed that, and consumers
until they have handled the topics' ends of then. Topics are read to those ends, then each database in one snapshot,
order's first, then ledger and mailbox; at last the outboxes again, for what moved meanwhile. So a row of the first
reading that is not on its topic is missing, and a record that is in no outbox of the last one is a phantom.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from quadrille_auditor import databases, outside
from quadrille_auditor.databases import Moment, Told
from quadrille_auditor.evidence import HEARD, SERVICES, Evidence, Place
from quadrille_auditor.sources import Sources, StillMovingError
from quadrille_auditor.topics import Schemas, Topics

PAUSE_SECONDS = 0.2
QUIET_SECONDS = 5.0
"""After so long a service that lives has said so, which takes its relay further."""


def gather(sources: Sources) -> Evidence:
    """Read everything; raises UnreadableError for what cannot be, StillMovingError for what does not catch up."""
    deadline = time.monotonic() + sources.wait
    began = {name: databases.begin(name, sources.databases[name]) for name in SERVICES}
    topics, schemas = Topics(sources.bootstrap), Schemas(sources.registry)
    _wait_for_relays(sources, began, topics, schemas, deadline)
    ranges = topics.ranges(SERVICES)
    _wait(deadline, lambda: _consumers_behind(sources, ranges))
    records = topics.read(ranges, schemas)
    told = Told()
    found = {name: databases.read(name, sources.databases[name], told) for name in SERVICES}
    world = outside.Outside(sources.sandbox) if sources.sandbox else None
    ledger, mails = (world.ledger(), world.mails()) if world else ((), ())
    moved = frozenset[str]().union(*(databases.moved(name, sources.databases[name], began[name]) for name in SERVICES))
    logs = outside.logs(sources.logs) if sources.logs else ()
    clients = outside.clients(sources.clients) if sources.clients else None
    return Evidence(
        at=max(moment.at for moment in began.values()), first={name: one.ids for name, one in began.items()},
        moved=moved, databases=found, orders=told.orders, keys=told.keys, holds=told.holds, levels=told.levels,
        payments=told.payments, entries=told.entries, notices=told.notices, addresses=told.addresses,
        records=records, ranges=ranges, ledger=ledger, mails=mails, clients=clients, logs=logs,
        healed_at=sources.healed_at, extra_mails=sources.extra_mails,
        outside=world is not None,
    )  # fmt: skip


def _wait(deadline: float, behind: Callable[[], tuple[str, ...]]) -> None:
    pause = threading.Event()
    while left := behind():
        if time.monotonic() > deadline:
            raise StillMovingError(left)
        pause.wait(PAUSE_SECONDS)


def _wait_for_relays(
    sources: Sources, began: Mapping[str, Moment], topics: Topics, schemas: Schemas, deadline: float
) -> None:
    """Wait until every relay has passed what was committed; raises StillMovingError.

    A service that says nothing, not even that it lives, takes its relay no further: then its events are looked for on
    their topics.
    """
    try:
        _wait(min(deadline, time.monotonic() + QUIET_SECONDS), lambda: _relays_behind(sources, began))
    except StillMovingError:
        _wait(deadline, lambda: _unpublished(began, topics, schemas))


def _unpublished(began: Mapping[str, Moment], topics: Topics, schemas: Schemas) -> tuple[str, ...]:
    there = {record.id for record in topics.read(topics.ranges(SERVICES), schemas)}
    late = []
    for name, moment in began.items():
        if lacking := moment.ids - there:
            late.append(f"{name}'s relay has {len(lacking)} events to publish, among them {min(lacking)}")
    return tuple(late)


def _relays_behind(sources: Sources, began: Mapping[str, Moment]) -> tuple[str, ...]:
    late = []
    for name, moment in began.items():
        done, at = databases.passed(name, sources.databases[name], moment.lsn)
        if not done:
            late.append(f"{name}'s relay is at {at} of {moment.lsn}")
    return tuple(late)


def _consumers_behind(sources: Sources, ranges: Mapping[Place, tuple[int, int]]) -> tuple[str, ...]:
    late = []
    for name in SERVICES:
        at = databases.positions(name, sources.databases[name])
        heard = {f"{kind}.events" for kind in SERVICES if kind != name and _hears(name, kind)}
        for (topic, partition), (low, high) in ranges.items():
            if topic in heard and low < high and at.get((topic, partition), 0) < high:
                done = at.get((topic, partition), 0)
                late.append(f"{name} has handled {topic}[{partition}] up to {done} of {high}")
    return tuple(late)


_OWN = {"order": "order.", "inventory": "stock.", "payment": "payment.", "notification": "notification."}


def _hears(service: str, source: str) -> bool:
    return any(type_.startswith(_OWN[source]) for type_ in HEARD[service])
