"""Where the stack keeps things: downloads in a cache shared by all stacks, everything else in one data directory."""

from __future__ import annotations

import fcntl
import hashlib
import os
import pwd
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from quadrille.stack.problems import CannotRun

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(__file__).resolve().parents[1]
CHECKOUT = PACKAGE.parents[2]
# What may lie in a data directory before a stack was saved there: a start that was killed, a process run by hand.
OURS = frozenset({"kafka", "lock", "logs", "postgres", "registry", "sandbox", "schemas", "jaeger", "lost+found"})


def template(name: str) -> Path:
    """The configuration template `kafka/server.properties` and the like, from the wheel or the checkout."""
    packed = PACKAGE / "deploy" / name
    return packed if packed.exists() else CHECKOUT / "deploy" / name


def filled(name: str, **marks: object) -> str:
    """A template's text with its @MARKS@ replaced."""
    text = template(name).read_text(encoding="utf-8")
    for mark, value in marks.items():
        text = text.replace(f"@{mark}@", str(value))
    return text


def cache_dir() -> Path:
    """Downloads, templates and AOT archives: $QUADRILLE_CACHE, else `quadrille` in the user's cache."""
    named = os.environ.get("QUADRILLE_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(named).absolute() if named else Path(base, "quadrille")


def data_dir() -> Path:
    """The running stack's data: $QUADRILLE_DATA, else `.quadrille` in the checkout or, from a wheel, in the home."""
    named = os.environ.get("QUADRILLE_DATA")
    if named:
        return Path(named).absolute()
    in_checkout = (CHECKOUT / "deploy" / "kafka").is_dir()
    return (CHECKOUT if in_checkout else Path.home()) / ".quadrille"


def directory(path: Path, mode: int = 0o711) -> Path:
    """The directory, made with its parents; others may pass through it but not list it."""
    path.mkdir(parents=True, exist_ok=True, mode=mode)
    path.chmod(mode)
    return path


def claimed(data: Path) -> Path:
    """The data directory, made if need be; raises CannotRun where it cannot be, or holds what is not a stack's."""
    fix = "name a new or empty directory: quadrille up --data DIR"
    try:
        there = {path.name for path in data.iterdir()} if data.exists() else set()
        strange = {name for name in there - OURS if not name.startswith("state.json.")}
        if strange and "state.json" not in there:
            raise CannotRun(what=f"{data} is no stack's: it holds {min(strange)}", fix=fix)
        return directory(data)
    except OSError as refused:
        raise CannotRun(what=f"{data} cannot be a data directory: {refused.strerror}", fix=fix) from None


def server_user() -> pwd.struct_passwd | None:
    """The unprivileged user Postgres runs as when we are root; None when we are not."""
    if os.geteuid() != 0:
        return None
    for name in ("nobody", "postgres", "daemon"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise CannotRun(
        what="Postgres refuses to run as root, and no user `nobody`, `postgres` or `daemon` exists here",
        fix="run as an ordinary user, or add one: useradd --system nobody",
    )


def traversable(path: Path) -> bool:
    """Whether any user can pass through every existing directory down to `path`."""
    above = [p for p in (path, *path.parents) if p.exists()]
    return all(p.stat().st_mode & 0o001 for p in above)


def reachable(wanted: Path) -> Path:
    """`wanted`, or a place every user can reach when we are root below a closed directory; not made yet: `own` it."""
    if os.geteuid() != 0 or traversable(wanted):
        return wanted
    name = f"quadrille-{hashlib.sha256(str(wanted.absolute()).encode()).hexdigest()[:12]}"
    for base in (Path("/var/tmp"), Path(tempfile.gettempdir())):  # noqa: S108 - `own` checks the owner
        if base.is_dir() and traversable(base):
            return base / name
    raise CannotRun(
        what=f"Postgres runs as another user, who cannot reach {wanted}",
        fix="choose a data directory others can pass through: quadrille up --data DIR",
    )


def own(path: Path) -> Path:
    """A directory of ours, perhaps in a shared place: made, or refused when somebody else made it first."""
    path.mkdir(mode=0o711, parents=True, exist_ok=True)
    if path.is_symlink() or path.stat().st_uid != os.geteuid():
        raise CannotRun(what=f"{path} belongs to somebody else", fix="remove it, or set QUADRILLE_DATA")
    return path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time inside; the lock dies with its holder."""
    directory(path.parent)
    with path.open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
