"""Start: a process refuses to, where what it stands on leaves nothing to promise.

It looks at itself, then at its database, in a thread that the start waits for a moment only. A database that is away is
looked at as soon as it answers: a service starts without anybody. What is wrong by then ends it, as it would have at
the start.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress

import psycopg
import structlog
from psycopg.conninfo import conninfo_to_dict

from quadrille.db.conninfo import pinned
from quadrille.db.requirements import OF_POSTGRES, Database
from quadrille.observability.readiness import reason
from quadrille.requirements import OF_PROCESS, ROLES, ThisProcess
from quadrille.settings import Secret, Settings

PATIENCE_SECONDS, AGAIN_SECONDS = 2.0, 1.0
log = structlog.get_logger()


class RefusedStartError(Exception):
    """What a process stands on leaves nothing to promise; the text has a line for each thing, with the way out."""


class StartChecks:
    """What a role requires, looked at once: ``begin`` before it works, ``verdict`` when it has ended."""

    def __init__(self, role: str, url: str, stop: threading.Event) -> None:
        """``stop`` is set where the role must not go on."""
        self._role, self._url, self._stop = role, url, stop
        self._looked = threading.Event()
        self._wrong: list[str] = []

    def begin(self, process: ThisProcess | None = None) -> None:
        """Look, waiting no longer than a moment for an answer; raises RefusedStartError."""
        if self._role not in ROLES:  # migrations make what there is to look at
            return
        self._wrong = list(of_process(self._role, process or ThisProcess()))
        self.verdict()
        threading.Thread(target=self._run, name="start checks", daemon=True).start()
        self._looked.wait(PATIENCE_SECONDS)
        self.verdict()

    def verdict(self) -> None:
        """Raise RefusedStartError if something was found wrong."""
        if self._wrong:
            raise RefusedStartError("\n".join(self._wrong))

    def _run(self) -> None:
        """Look until there was an answer."""
        began, told = time.monotonic(), False
        while not self._stop.is_set():
            try:
                wrong = list(of_database(self._role, self._url))
            except psycopg.Error as away:
                if not told:
                    log.warning("start checks wait", reason=reason(away))
                told = True
                self._looked.set()
                self._stop.wait(AGAIN_SECONDS)
                continue
            if wrong:
                self._wrong = wrong
                log.critical("start refused", reason="; ".join(wrong))
                self._stop.set()
            elif told:
                log.warning("start checks made", role=self._role, seconds=round(time.monotonic() - began, 1))
            self._looked.set()
            return


def this_process(found: Settings, words: Sequence[str]) -> ThisProcess:
    """Return this process as it was started: by which settings, with which words."""
    ops = {"OPS_BIND": str(found.ops_bind)} if found.auth == "off" else {}
    return ThisProcess(ops=ops, commands=(" ".join(words),), secrets=tuple(_told_by_words(found)))


def _told_by_words(found: Settings) -> Iterator[str]:
    """Yield the secrets that were given as arguments; of an address its password, where it has one."""
    for name, source in found.sources.items():
        value = getattr(found, name)
        if source == "flag" and isinstance(value, Secret):
            with suppress(psycopg.ProgrammingError):
                yield str(conninfo_to_dict(value).get("password") or "") if "://" in value else value


def of_process(role: str, process: ThisProcess) -> Iterator[str]:
    """Yield what a role must refuse of the process itself."""
    for one in OF_PROCESS.values():
        if role in one.roles and not (found := one.look(process)).good:
            yield one.refusal("this process", found.read)


def of_database(role: str, url: str) -> Iterator[str]:
    """Yield what a role must refuse of the database it is told to use; raises psycopg.Error while that is away."""
    with closing(Database("", lambda _: pinned(url))) as database:
        for one in OF_POSTGRES.values():
            if role in one.roles and not (found := one.look(database)).good:
                yield one.refusal(_place(url), found.read)


def _place(url: str) -> str:
    told = conninfo_to_dict(url)
    return f"database {told.get('dbname', '')} at {told.get('host', '')}:{told.get('port', 5432)}"
