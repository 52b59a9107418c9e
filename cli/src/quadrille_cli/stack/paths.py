"""Where the stack keeps things: downloads in a cache shared by all stacks, everything else in one data directory."""

from __future__ import annotations

import fcntl
import hashlib
import os
import pwd
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from quadrille_cli.stack.errors import CannotRun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PACKAGE = Path(__file__).resolve().parents[1]
CHECKOUT = PACKAGE.parents[2]
# What may lie in a data directory before a stack was saved there: a start that was killed, a process run by hand.
OURS = frozenset(
    {"kafka", "lock", "logs", "postgres", "registry", "sandbox", "schemas", "jaeger", "password", "lost+found"}
)


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


def known(uid: int) -> pwd.struct_passwd | None:
    """What the machine knows of a user; None of one that is a number only, as in some containers."""
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        return None


def home() -> Path:
    """The user's home: $HOME, else what the machine knows; raises CannotRun where neither names one."""
    user = known(os.geteuid())
    place = os.environ.get("HOME") or (user.pw_dir if user else "")
    if not place:
        fix = "set HOME, or both QUADRILLE_CACHE=DIR and QUADRILLE_DATA=DIR"
        raise CannotRun(what=f"no home directory: HOME is not set and uid {os.geteuid()} has no name", fix=fix)
    return Path(place)


def placed(named: Path | str) -> Path:
    """The directory somebody named, absolute; a leading `~` is the home, which a shell does not see in `--data=~/x`."""
    first, *rest = Path(named).parts or (".",)
    return Path(home(), *rest).absolute() if first == "~" else Path(named).absolute()


def cache_dir() -> Path:
    """Downloads, templates and AOT archives: $QUADRILLE_CACHE, else `quadrille` in the user's cache."""
    named = os.environ.get("QUADRILLE_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or ""
    return placed(named) if named else Path(base if Path(base).is_absolute() else home() / ".cache", "quadrille")


def data_dir(given: Path | None = None) -> Path:
    """The running stack's data: as given, $QUADRILLE_DATA, or `.quadrille` in the checkout (of a wheel: the home)."""
    named = given or os.environ.get("QUADRILLE_DATA")
    if named:
        return placed(named)
    in_checkout = (CHECKOUT / "deploy" / "kafka").is_dir()
    return (CHECKOUT if in_checkout else home()) / ".quadrille"


def speakable(path: Path, what: str, fix: str, *, refused: tuple[str, ...] = ()) -> Path:
    """The path itself; raises CannotRun by name where no program of the stack could be told it."""
    text = str(path)
    odd = [sign for sign in text if not sign.isprintable()] + [part for part in refused if part in f"{text}/"]
    if odd:  # what is not UTF-8 comes as a lone surrogate, which cannot be printed
        shown = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)
        raise CannotRun(what=f"{what} cannot be used: its path {shown} holds {odd[0]!r}", fix=fix)
    return path


def usable(path: Path) -> Path:
    """The cache directory, made if need be and open to be written; raises CannotRun with the way out."""
    fix = "set QUADRILLE_CACHE=DIR to a directory that you can write, or make this one yours: chown, chmod"
    try:
        speakable(path, "the cache directory", fix, refused=(":", "[", "]", "!/"))  # Java makes URLs of what lies there
        return directory(path)
    except OSError as refused:
        raise CannotRun(what=f"{path} cannot be the cache directory: {refused.strerror}", fix=fix) from None


def directory(path: Path, mode: int = 0o711) -> Path:
    """The directory, made with its parents; others may pass through it but not list it."""
    if not path.is_dir():
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(mode)
    elif os.geteuid() == 0 and not path.stat().st_mode & 0o001:
        path.chmod(path.stat().st_mode | 0o011)  # Postgres runs as another user
    return path


def claimed(data: Path) -> Path:
    """The data directory, made if need be; raises CannotRun where it cannot be, or holds what is not a stack's."""
    fix = "name a new or empty directory: quadrille up --data DIR"
    speakable(data, "the data directory", fix, refused=("\\",))  # the registry's database would lie outside it
    try:
        there = {path.name for path in data.iterdir()} if data.exists() else set()
        strange = {name for name in there - OURS if not name.startswith("state.json.")}
        if strange and "state.json" not in there:
            raise CannotRun(what=f"{data} is no stack's: it holds {min(strange)}", fix=fix)
        made = directory(data)
        tempfile.TemporaryFile(dir=made).close()  # a file system mounted read-only shows only when written
    except OSError as refused:
        raise CannotRun(what=f"{data} cannot be a data directory: {refused.strerror}", fix=fix) from None
    return made


def removed(path: Path) -> None:
    """Remove a directory with all that lies in it; a link to one stays, its target is emptied; raises CannotRun."""
    try:
        if path.is_symlink():
            for inside in path.iterdir():
                shutil.rmtree(inside) if inside.is_dir() and not inside.is_symlink() else inside.unlink()
        elif path.exists():
            shutil.rmtree(path)
    except OSError as refused:
        what = f"not all of {path} could be removed: {refused.filename}: {refused.strerror}"
        raise CannotRun(what=what, fix="remove the rest as its owner, or as root") from None


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


def closed(path: Path) -> Path | None:
    """The directory above `path`, wherever links lead, that not every user can pass through, if there is one."""
    above = [p for p in path.resolve().parents if p.exists()]
    return next((p for p in above if not p.stat().st_mode & 0o001), None)


def traversable(path: Path) -> bool:
    """Whether any user can pass through every existing directory down to `path` and through itself."""
    return closed(path / "inside") is None


def reachable(wanted: Path) -> Path:
    """`wanted`, or a place every user can reach when we are root below a closed directory; not made yet: `own` it."""
    if os.geteuid() != 0 or traversable(wanted):
        return wanted
    for place in elsewhere(wanted):
        return place
    raise CannotRun(
        what=f"Postgres runs as another user, who cannot reach {wanted}",
        fix="choose a data directory others can pass through: quadrille up --data DIR",
    )


def elsewhere(wanted: Path) -> list[Path]:
    """Where root may keep, instead of in `wanted`, what another user must reach; what is there already comes first."""
    name = f"quadrille-{hashlib.sha256(str(wanted.absolute()).encode()).hexdigest()[:12]}"
    shared = dict.fromkeys([Path("/var/lib"), Path("/var/tmp"), Path(tempfile.gettempdir())])  # noqa: S108 - see `own`
    open_to_us = [base / name for base in shared if base.is_dir() and traversable(base) and os.access(base, os.W_OK)]
    there = {place: place.lstat().st_uid for place in open_to_us if place.is_symlink() or place.exists()}
    usable_here = [place for place in open_to_us if there.get(place, os.geteuid()) == os.geteuid()]  # none that waits
    return sorted(usable_here, key=lambda place: place not in there)


def databases(data: Path) -> Path:
    """Where a stack's databases lie: where they were made, or, for a new one, where the server's user can reach them.

    A directory that was opened or closed since is not taken for a new one.
    """
    inside = data / "postgres"
    if os.geteuid() != 0 or inside.exists():
        return inside
    made = [place for place in elsewhere(data) if (place / "postgres").is_dir()]
    return (made[0] if made else reachable(data)) / "postgres"


def own(path: Path) -> Path:
    """A directory of ours, made if need be; where anybody may make one, refused when somebody else did."""
    if not path.is_symlink():
        directory(path)
    anybodys = path.parent.stat().st_mode & 0o002
    if anybodys and (path.is_symlink() or path.stat().st_uid != os.geteuid()):
        raise CannotRun(what=f"{path} belongs to somebody else", fix="choose another: quadrille up --data DIR")
    return path


def made_once(home: Path, make: Callable[[Path], object]) -> Path:
    """A file or directory beside others' in a cache: made whole by one process, or not at all.

    `make` is given a name to make it under; what a process that was killed has left there is removed first.
    """
    if home.exists():
        return home
    with locked(home.with_name(f"{home.name}.lock")):
        if not home.exists():
            scratch = home.with_name(f"{home.name}.new")
            if scratch.is_dir():
                shutil.rmtree(scratch)
            make(scratch)
            scratch.rename(home)
    return home


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time inside; the lock dies with its holder."""
    directory(path.parent)
    with path.open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
