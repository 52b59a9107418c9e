"""One process of the stack: started in its own session, known by pid and birth, and ended exactly so."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from quadrille_cli.stack import code, leftovers, ports
from quadrille_cli.stack.errors import PartFailed, PortTaken

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

LOG_LIMIT = 10 * 2**20
"""A log larger than this at a start is set aside as `.old`."""
POLL = 0.02


def _nothing() -> None:
    """Nothing to do."""


@dataclass(frozen=True, slots=True)
class Spec:
    """How a process is started, when it is ready, and how it is asked to end.

    `prepare` runs before every launch (files), `finish` after it is ready (what only a running server can be told).
    """

    name: str
    command: Callable[[], Sequence[str]]
    log: Path
    env: Mapping[str, str]
    ready: Callable[[], bool]
    prepare: Callable[[], object] = _nothing
    finish: Callable[[], object] = _nothing
    cwd: Path = Path("/")
    uid: int | None = None
    gid: int | None = None
    patience: float = 180.0
    """Seconds until a part that lives but does not answer is given up: many, for a machine may be busy."""
    package: str = ""
    """The package of ours it runs: edited code is seen by it."""
    stop_signal: signal.Signals = signal.SIGTERM
    ports: Mapping[str, int] = field(default_factory=dict)


def birth(pid: int) -> str | None:
    """What tells this process from a later one with the same pid; None when there is no such (living) process."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        stat = Path(f"/proc/{pid}/stat")
        if stat.exists():  # ticks since boot: a clock that is set does not change them
            return stat.read_text(encoding="utf-8").rsplit(")", 1)[1].split()[19]
        return repr(process.create_time())
    except (psutil.NoSuchProcess, OSError):
        return None


class Child(subprocess.Popen[bytes]):
    """A child that may outlive the object that started it, as after `quadrille up --detach`: that is no leak."""

    def __del__(self) -> None:
        """Reap it if it has ended; warn of nothing if it goes on."""
        if getattr(self, "_child_created", False) and self.poll() is None:
            return
        super().__del__()


class Process:
    """A part's process; `start` returns when it is ready, `stop` and `kill` when it is gone."""

    def __init__(self, spec: Spec, pid: int = 0, born: str | None = None) -> None:
        self.spec = spec
        self.pid = pid
        self.born = born
        self.code = ""
        """The digest of its code when it was launched."""
        self.ended, self.ended_at = "", 0.0
        """How it ended, in words, and when, where somebody saw it."""
        self.on_change: Callable[[], None] = lambda: None
        self._child: Child | None = None
        self._began_at = 0
        """Where in its log this launch begins: what an earlier one wrote explains nothing."""

    @property
    def name(self) -> str:
        """The process's name in the stack: `kafka`, `postgres:order`, `inventory-worker`."""
        return self.spec.name

    @property
    def fingerprint(self) -> str:
        """What it was told: another one means that it must be started again to know."""
        told = {name: value for name, value in self.spec.env.items() if name.startswith("QUADRILLE_")}
        return hashlib.sha256(repr(sorted(told.items())).encode()).hexdigest()[:16]

    @property
    def running(self) -> bool:
        """Whether exactly the process we started still lives."""
        if self._child is not None:  # ours: asking reaps it, so that it is no zombie
            return self._child.poll() is None
        return self.pid > 0 and self.born is not None and birth(self.pid) == self.born

    @property
    def started_at(self) -> float:
        """When it was launched, in seconds since 1970; 0 of one that does not run."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.pid).create_time() if self.running else 0.0
        return 0.0

    @property
    def edited(self) -> bool:
        """Whether its code is another than what it was launched with."""
        return bool(self.code) and self.code != code.digest(self.spec.package)

    def follow(self, before: Process) -> None:
        """Reap from now on the child of this program that `before` stood for, if it is the same process."""
        if (before.pid, before.born) == (self.pid, self.born):
            self._child = before._child

    def start(self) -> None:
        """Start it and wait until it is ready; raises PartFailed with its last log lines."""
        if self.running and self._keeps_running():
            return
        self.launch()
        self.await_ready()
        self.spec.finish()

    def _keeps_running(self) -> bool:
        """Wait until what runs already answers; False when it ends instead, as what was killed a moment ago does."""
        try:
            self.await_ready()
        except PartFailed:
            if self.running:
                raise
            return False
        return True

    def launch(self) -> None:
        """Start it without waiting."""
        spec = self.spec
        spec.prepare()
        if spec.log.exists() and spec.log.stat().st_size > LOG_LIMIT:
            spec.log.replace(spec.log.with_suffix(".old"))
        with spec.log.open("ab") as log:
            self._began_at = log.tell()
            self._child = Child(
                list(spec.command()),
                env={**spec.env, **leftovers.marked(spec.log)},
                cwd=spec.cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=spec.uid,
                group=spec.gid,
                extra_groups=None if spec.uid is None else [],
            )
        self.pid = self._child.pid
        self.born = birth(self.pid)
        self.code = code.digest(spec.package) if spec.package else ""
        self.ended, self.ended_at = "", 0.0
        self.on_change()

    def await_ready(self) -> None:
        """Wait until it answers; raises PartFailed when it ends or takes too long."""
        deadline = time.monotonic() + self.spec.patience
        while not (self.spec.ready() and self._answers_itself()):
            if not self.running:
                raise self._failed(symptom=f"it ended with exit code {self._exit_code()}")
            if time.monotonic() > deadline:
                raise self._failed(symptom=f"it did not answer within {self.spec.patience:.0f} s")
            time.sleep(POLL)

    def _answers_itself(self) -> bool:
        """Whether what answers on its ports is our process, not a stranger that came first."""
        wanted = set(self.spec.ports.values())
        for member in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                held = member.net_connections(kind="tcp")
                wanted -= {c.laddr.port for c in held if c.status == psutil.CONN_LISTEN}
        return not wanted

    def stop(self, within: float = 20.0) -> None:
        """Ask it to end, wait, and kill it when it does not."""
        self.signal(self.spec.stop_signal)
        if not self.gone_within(within):
            self.kill()

    def kill(self) -> None:
        """End it at once, with whatever it started."""
        family = self._family()
        with contextlib.suppress(ProcessLookupError):
            if family:
                os.killpg(self.pid, signal.SIGKILL)
        _, left = psutil.wait_procs(family, timeout=1.0)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.gone_within(5.0)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to exactly the process we started, or to nobody."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def freeze(self) -> None:
        """Stop its clock (SIGSTOP)."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen one go on (SIGCONT)."""
        self.signal(signal.SIGCONT)

    def gone_within(self, seconds: float) -> bool:
        """Whether it has ended before the time is up."""
        deadline = time.monotonic() + seconds
        while self.running:
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL)
        return True

    def log_tail(self, lines: int = 20) -> tuple[str, ...]:
        """The last lines it wrote since it was launched."""
        return tail(self.spec.log, lines, self._began_at)

    def _family(self) -> list[psutil.Process]:
        if not self.running:
            return []
        with contextlib.suppress(psutil.NoSuchProcess):
            head = psutil.Process(self.pid)
            return [head, *head.children(recursive=True)]
        return []

    def exit_code(self) -> int:
        """Return how a child of this program ended; raises ValueError for what another one started."""
        if self._child is None:
            message = f"{self.name} is no child of this program: nobody waits for it"
            raise ValueError(message)
        return self._child.wait()

    def _exit_code(self) -> int | str:
        return "unknown" if self._child is None else self._child.wait()

    def _failed(self, symptom: str) -> PartFailed:
        log = self.log_tail()
        for name, port in self.spec.ports.items():
            if not (self.running or ports.is_free(port)):
                return PortTaken(self.name, name, port, ports.owner(port), tail=log)
        cause, fix = explain(log, self.spec.log)
        return PartFailed(self.name, cause or symptom, fix=fix, tail=log)


def tail(path: Path, lines: int = 20, start: int = 0) -> tuple[str, ...]:
    """The last lines of a file from the byte `start` on; none when it does not exist."""
    if not path.exists():
        return ()
    with path.open(encoding="utf-8", errors="replace") as file:
        file.seek(start)
        return tuple(line.rstrip() for line in deque(file, lines))


BESIDE = "run the release that made it, or begin beside it: quadrille up --data DIR"
CAUSES = (
    ("No space left on device", "the disk is full", "free space, then run it again"),
    ("Cannot allocate memory", "the machine is out of memory", "end something large, then run it again"),
    ("Could not reserve enough space", "the machine is out of memory", "end something large, then run it again"),
    ("Permission denied", "a file or directory is closed to it", "see above which; give it to the user who runs this"),
    ("could not access directory", "its data directory is closed to it", "choose another: quadrille up --data DIR"),
    ("database files are incompatible", "its data is of another version", BESIDE),
    ("No module named", "a package is missing", "make (installs what the lock file names)"),
)


def explain(log: Sequence[str], file: Path) -> tuple[str, str]:
    """The cause and the fix behind the last log lines; no cause when they say nothing known.

    No fix ever gives up data: what keeps a part from starting hardly ever is its data.
    """
    for sign, cause, fix in CAUSES:
        if any(sign in line for line in log):
            return cause, fix
    if any(line.startswith(("Traceback", "  File")) for line in log):
        return f"an error in the program: {log[-1]}", f"report it with {file}"
    return "", f"read {file}, mend what it says, then run it again: the data is kept"
