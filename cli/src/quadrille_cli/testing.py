"""Fixtures for tests on real parts: stacks on their own ports and data, and what they held when a test failed.

Loaded by pytest through the entry point `quadrille`, so the tests of every package may use them.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from _pytest.nodeid import NodeId

from quadrille_cli.services import PROGRAMS
from quadrille_cli.stack import EVERYTHING, Stack
from quadrille_cli.stack.servers import jaeger

Start = Callable[..., Stack]
PATIENT = {"INTAKE_FAILURE_MINIMUM": "100000"}
"""Tests make sagas fail on purpose: intake is not to shut for that."""
WHOLE = ("stack", "hasty", "audited", "arena", "spoilt")
"""Fixtures that are a whole stack, or have one; once a session."""
COMMANDS = "commands"
"""The tests of a folder ``stack``: half of all that want the whole one, so they have it on a worker of their own."""


@pytest.fixture(scope="session")
def stack_home() -> Iterator[Path]:
    """A directory for the session's stacks; kept when QUADRILLE_KEEP is set."""
    home = Path(tempfile.mkdtemp(prefix="quadrille-test-"))
    home.chmod(0o711)  # Postgres may run as another user
    yield home
    if not os.environ.get("QUADRILLE_KEEP"):
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def stack(stack_home: Path) -> Iterator[Stack]:
    """The whole stack, once a session, on its own ports; with Jaeger where it has been built (`make test` does)."""
    traces = {"jaeger"} if jaeger.binary().exists() else set()
    whole = Stack(stack_home / "whole", parts=EVERYTHING | traces, scattered=True, settings=PATIENT)
    with whole:
        yield whole
    _remove(whole)


@pytest.fixture(scope="session")
def parts_of_the_stack(stack_home: Path) -> Iterator[Start]:
    """Asks for parts, `parts_of_the_stack("postgres:inventory", "kafka")`: each set is started once a session.

    No service runs on them that was not asked for: its heartbeats would be others' records. What a failed test has left
    stopped is started again, so that it fails alone.
    """
    stacks: list[Stack] = []

    def started(*parts: str) -> Stack:
        wanted = frozenset(parts)
        for there in stacks:
            if wanted <= there.parts and (there.parts - wanted).isdisjoint(PROGRAMS):
                if not all(process.running for process in there.processes.values()):
                    there.start()
                return there
        new = Stack(stack_home / f"parts-{len(stacks)}", parts=wanted, scattered=True)
        new.start()
        stacks.append(new)
        return new

    yield started
    for there in stacks:
        there.stop()
        _remove(there)


@pytest.fixture
def new_stack(stack_home: Path, request: pytest.FixtureRequest) -> Iterator[Start]:
    """Makes stacks for one test alone, `new_stack(parts={"kafka"}, settings={...})`; not started, ended afterwards."""
    stacks: list[Stack] = []

    def made(**wanted: object) -> Stack:
        home = Path(tempfile.mkdtemp(prefix=f"{request.node.name[:30]}-", dir=stack_home))
        home.chmod(0o711)
        new = Stack(home, **({"scattered": True} | wanted))  # type: ignore[arg-type] # passed through as it is
        stacks.append(new)
        return new

    yield made
    for there in stacks:
        there.stop()
        _remove(there)


def pytest_configure() -> None:
    """Let no bound of Hypothesis depend on the machine's speed; let programs under test be interrupted.

    A run in the background was told to ignore Ctrl-C, and so would they be.
    """
    with suppress(ImportError):  # whoever tests a choreography of his own need not have it
        from hypothesis import HealthCheck, settings  # noqa: PLC0415 - as above

        settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
        settings.load_profile("patient")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give each worker of a shared run whole files, and two of them all tests of the session's whole stack, first."""
    if not hasattr(config, "workerinput"):
        return
    for item in items:
        # xdist's own way, a mark, writes a name that pytest 9.2 no longer reads: every test would be a group of its own
        item._id = NodeId.parse(f"{item.nodeid}@{_group(item)}")  # noqa: SLF001 - there is no other
    long = "@stack", f"@{COMMANDS}"  # the longest pieces of work are not to come last
    items.sort(key=lambda item: not item.nodeid.endswith(long))


def _group(item: pytest.Item) -> str:
    """Return the name of the tests that are one piece of work: those of a whole stack, or of a file."""
    whole = [
        name for name in ("stack", "hasty", "audited", "arena", "spoilt") if name in getattr(item, "fixturenames", ())
    ]
    if whole == ["stack"] and item.path.parent.name == "stack":
        return COMMANDS
    return whole[0] if whole else item.nodeid.partition("::")[0]


_resting: dict[str, Stack] = {}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Start a whole stack again that was ended with the last test of another piece of work."""
    for name in WHOLE:
        if name in _resting and name in getattr(item, "fixturenames", ()):
            _resting.pop(name).start()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None]:
    """End whole stacks with the last test of a piece of work: at rest they would slow down all that is to come."""
    used = dict(getattr(item, "funcargs", {}))
    yield
    if nextitem is None or _group(item) == _group(nextitem):
        return
    for name in WHOLE:
        there = getattr(used.get(name), "stack", used.get(name))
        if isinstance(there, Stack):
            there.stop()
            _resting[name] = there


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many promises each folder proved, and in how many seconds of one worker."""
    counts: Counter[str] = Counter()
    seconds: defaultdict[str, float] = defaultdict(float)
    for one in (report for reports in terminalreporter.stats.values() for report in reports):
        if isinstance(one, pytest.TestReport):
            folder = one.nodeid.partition("::")[0].rpartition("/")[0]
            counts[folder] += one.when == "call"
            seconds[folder] += one.duration
    if len(counts) > 1:
        terminalreporter.section("promises by folder")
        for folder in sorted(counts):
            terminalreporter.write_line(f"{folder:<40}{counts[folder]:>6} {seconds[folder]:>8.1f} s")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add what every service held, and the ends of the topics, to the report of a test that failed on a stack."""
    report = yield
    if report.when == "call" and report.failed:
        stacks = [value for value in getattr(item, "funcargs", {}).values() if isinstance(value, Stack)]
        for there in stacks:
            from quadrille_cli.stack import diagnostics  # noqa: PLC0415 - database and broker clients only when a test has failed

            report.sections.append(("evidence", diagnostics.of(there)))
    return report


def _remove(there: Stack) -> None:
    if not os.environ.get("QUADRILLE_KEEP"):
        there.wipe()
