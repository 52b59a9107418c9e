"""A whole stack of its own, which planted bugs may spoil, and what an auditor has read of a run on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from quadrille_auditor import Evidence, gather
from quadrille_cli.auditing import sources
from quadrille_cli.demo_data import block
from quadrille_cli.stack import EVERYTHING, Stack
from quadrille_cli.testing import PATIENT
from tests.audit.workload import every_kind
from tests.conftest import Shop, opened

PARTS = EVERYTHING - {"console", "postgres:console"}


@pytest.fixture(scope="session")
def audited(stack_home: Path) -> Iterator[Shop]:
    """A stack that no other test touches: what these plant would be found on the session's."""
    with Stack(stack_home / "audited", parts=PARTS, scattered=True, settings=PATIENT) as stack:
        block(stack, "cust_blocked")
        yield opened(stack)


@pytest.fixture(scope="session")
def captured(audited: Shop, stack_home: Path) -> Evidence:
    """What was read of a run in which orders came to every end there is."""
    log = every_kind(audited).write(stack_home / "clients.jsonl")
    return gather(sources(audited.stack, logs=audited.stack.logs, clients=log))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the audits of the session's stacks come after every test on them."""
    last = [item for item in items if item.path.name in ("test_the_session.py", "test_the_books.py")]
    others = [n for n, item in enumerate(items) if "stack" in getattr(item, "fixturenames", ()) and item not in last]
    if last and others:
        kept = [item for item in items[: others[-1] + 1] if item not in last]
        items[:] = [*kept, *last, *(item for item in items[others[-1] + 1 :] if item not in last)]
