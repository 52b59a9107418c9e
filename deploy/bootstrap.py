"""From a bare Python 3.11 to a working checkout: a virtual environment with exactly what the lock file names.

Run by make before anything else, with the system's Python and nothing but its standard library.
Done once; again only when the lock file, a pyproject.toml or the Python changes.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import importlib.util
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).resolve().parents[1]
VENV = Path(os.environ.get("QUADRILLE_VENV") or ROOT / ".venv").absolute()
PYTHON = VENV / "bin" / "python"
LOCK = ROOT / "requirements" / "dev.txt"
STAMP = VENV / ".quadrille"
INSTALLER = "uv"
"""The one package that pip installs, a thousand files a second too slow for the rest."""
WHEELS_MB = 200
"""What the wheels of the lock file weigh, with what they unpack to."""
NOT_HERE = 9
OLDEST = (3, 11)
MIRRORS = ("INDEX", "EXTRA_INDEX", "FIND_LINKS", "NO_INDEX", "TRUSTED", "PROXY", "CERT", "CLIENT_CERT", "CONFIG_FILE",
           "TIMEOUT", "DEFAULT_TIMEOUT", "RETRIES", "CACHE_DIR", "NO_CACHE_DIR", "KEYRING")  # fmt: skip
"""Which of pip's variables say where wheels come from; the others would say where they go (PIP_USER, PIP_TARGET)."""


class CannotSetUp(Exception):  # noqa: N818 - reads as the sentence it prints
    """This machine or place cannot have the environment: what is wrong, and the fix."""

    def __init__(self, *, what: str, fix: str) -> None:
        super().__init__(f"{what}\n  fix: {fix}\n")


def main() -> int:
    """Bring the environment up to date; 0, or 9 with what is missing and its fix."""
    try:
        look_around()
        with locked(Path(__file__)):  # two makes at once: the second finds the work done
            bring_up_to_date()
    except CannotSetUp as refused:
        sys.stderr.write(str(refused))
        return NOT_HERE
    except OSError as refused:
        full = refused.errno in (errno.ENOSPC, errno.EDQUOT)
        fix = "free some space" if full else "work where you can write: another checkout, QUADRILLE_CACHE=DIR"
        where = f"{refused.filename}: " if refused.filename else ""
        sys.stderr.write(f"the environment cannot be set up: {where}{refused.strerror}\n  fix: {fix}\n")
        return NOT_HERE
    return 0


def look_around() -> None:
    """Refuse by name, before anything is made, a Python or a place that cannot work."""
    if sys.version_info < OLDEST:
        fix = "install Python 3.11 or newer: make PYTHON=python3.11"
        raise CannotSetUp(what=f"Python {sys.version.split()[0]} is too old", fix=fix)
    for what, path, refused in (
        ("the checkout", ROOT, (":", "\\")),
        ("the environment", VENV, (":",)),
        ("the cache", cache(), (":", "[", "]", "!/")),
    ):
        odd = [sign for sign in str(path) if not sign.isprintable()] + [part for part in refused if part in f"{path}/"]
        if odd:  # what is not UTF-8 comes as a lone surrogate, which cannot be printed
            shown = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in str(path))
            told = f"{what} cannot be used: its path {shown} holds {odd[0]!r}"
            raise CannotSetUp(what=told, fix="give it another name or place")
    above = next(path for path in (VENV, *VENV.parents) if path.exists())
    if os.statvfs(above).f_flag & os.ST_NOEXEC:
        fix = "use a checkout on another disk, or mount this one with `exec`"
        raise CannotSetUp(what=f"nothing may be run from the disk of {above}: it is mounted with `noexec`", fix=fix)
    if VENV.is_dir() and any(VENV.iterdir()) and not (VENV / "pyvenv.cfg").exists():
        raise CannotSetUp(what=f"{VENV} is no virtual environment, and not empty", fix="move what lies there away")


def bring_up_to_date() -> None:
    """Make what is missing: the virtual environment, the wheels in it, our own packages."""
    packages = sorted(path.parent for path in ROOT.glob("*/pyproject.toml"))
    packages += sorted(path.parent for path in ROOT.glob("services/*/pyproject.toml"))
    place = hashlib.sha256(f"{VENV} {sys.version}".encode()).hexdigest()
    wanted = {"place": place, "wheels": digest(LOCK), "packages": digest(*(p / "pyproject.toml" for p in packages))}
    have = stamped()
    if have.get("place") != place or not PYTHON.exists():  # new, half made, moved, copied, or of another Python
        make_venv()
        have = {}
    if have.get("wheels") != wanted["wheels"]:
        install_wheels()
        have = {}
    if have.get("packages") != wanted["packages"]:
        install_packages(packages)
        stamp(wanted)


def make_venv() -> None:
    """An empty virtual environment with pip in it."""
    missing = [name for name in ("venv", "ensurepip") if importlib.util.find_spec(name) is None]
    if missing:
        raise CannotSetUp(what=f"this Python has no `{missing[0]}` module", fix="apt-get install python3-venv")
    say(f"making a virtual environment in {VENV.name}")
    made = subprocess.run(  # noqa: S603 - our own command line
        [sys.executable, "-I", "-m", "venv", "--clear", str(VENV)],
        env=environment(), capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip
    if made.returncode:
        raise CannotSetUp(what=f"no virtual environment: {last_line(made)}", fix="apt-get install python3-venv")


def install_wheels() -> None:
    """Every wheel of the lock file, by hash: from the cache, where a second checkout finds them unpacked."""
    room(VENV)
    say("installing what requirements/dev.txt names (wheels only, by hash)")
    if install_from_cache(quiet=True) == 0:
        return
    kept = cache() / "wheels"
    kept.mkdir(parents=True, exist_ok=True)
    room(kept)
    say(f"fetching what is missing of {WHEELS_MB} MB of wheels into {kept}, once")
    with locked(cache() / "wheels.lock"):
        failed = download(kept)
    if failed or install_from_cache():
        raise CannotSetUp(
            what="the wheels could not be installed (see above)",
            fix=f"no network: connect once, about {WHEELS_MB} MB are fetched and then cached; "
            "no wheel for this platform: Linux x86_64 and aarch64 with Python 3.11 to 3.13 are supported",
        )


def install_from_cache(*, quiet: bool = False) -> int:
    """Install without a network: pip brings uv, and uv the rest; its exit code."""
    said = subprocess.DEVNULL if quiet else None
    named = VENV / "installer.txt"
    named.write_text(locked_lines(INSTALLER), encoding="utf-8")
    wheels = ["--no-index", "--find-links", "wheels", "--require-hashes", "--only-binary", ":all:", "--no-deps"]
    by_pip = [*PIP, "install", "--isolated", "--no-user", "--quiet", *wheels, "-r", str(named)]
    by_uv = [*uv("install"), *wheels, "-r", str(LOCK)]
    if not (cache() / "wheels").is_dir():
        return NOT_HERE
    for command in (by_pip, by_uv):  # a relative name for the wheels: uv takes a comma in it for two
        done = subprocess.run(command, env=environment(), cwd=cache(), check=False, stderr=said, stdout=said)  # noqa: S603
        if done.returncode:
            return done.returncode
    return 0


def download(kept: Path) -> int:
    """Fetch the wheels of the lock file with pip, a line for each that is; its exit code."""
    command = [*PIP, "download", "--dest", str(kept), "--progress-bar", "off", "--require-hashes"]
    command += ["--only-binary", ":all:", "--no-deps", "-r", str(LOCK)]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True, errors="replace") as pip:  # noqa: S603
        for line in pip.stdout or ():
            if line.strip().startswith("Downloading "):
                say(line.strip())
    return pip.returncode


def locked_lines(package: str) -> str:
    """What the lock file says of one package: its version and its hashes."""
    lines = LOCK.read_text(encoding="utf-8").split("\n")
    first = next(number for number, line in enumerate(lines) if line.startswith(f"{package}=="))
    last = next(number for number in range(first, len(lines)) if not lines[number].endswith("\\"))
    return "\n".join(lines[first : last + 1]) + "\n"


PIP = [str(PYTHON), "-I", "-m", "pip", "--disable-pip-version-check"]


def uv(action: str) -> list[str]:
    """The start of a command of uv's: over our environment, without a network, whatever its own settings say."""
    python = ["--python", str(PYTHON), "--no-config", "--offline", "--quiet"]
    return [str(VENV / "bin" / "uv"), "pip", action, *python]


def environment() -> Mapping[str, str]:
    """Our own environment without what sends an installer elsewhere; mirrors, proxies and certificates stay."""
    names = ("PIP_", "UV_", "PYTHON", "VIRTUAL_ENV", "CONDA")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(names)}
    mirrors = {n: v for n, v in os.environ.items() if n.startswith(tuple(f"PIP_{mirror}" for mirror in MIRRORS))}
    ours = {"UV_CACHE_DIR": str(cache() / "uv"), "UV_PYTHON_DOWNLOADS": "never"}
    return kept | mirrors | ours | {"TMPDIR": tempfile.gettempdir()}  # the shell's, unless it cannot be used


def cache() -> Path:
    """Where downloads are kept for every checkout: $QUADRILLE_CACHE, else `quadrille` in the user's cache."""
    named = os.environ.get("QUADRILLE_CACHE")
    if named:
        first, *rest = Path(named).parts or (".",)
        return Path(home(), *rest).absolute() if first == "~" else Path(named).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or ""
    return Path(base if Path(base).is_absolute() else home() / ".cache", "quadrille")


def home() -> Path:
    """The user's home: $HOME, else what the user database says."""
    try:
        return Path(os.environ.get("HOME") or pwd.getpwuid(os.geteuid()).pw_dir)
    except KeyError:
        what = f"no home directory: HOME is not set and uid {os.geteuid()} has no name"
        raise CannotSetUp(what=what, fix="set HOME, or QUADRILLE_CACHE=DIR") from None


def room(where: Path) -> None:
    """Refuse, before anything is unpacked, a disk that cannot hold it."""
    have = shutil.disk_usage(where).free // 2**20
    if have < WHEELS_MB * 3:
        what = f"the disk of {where} is too full: needs {WHEELS_MB * 3} MB, has {have} MB"
        raise CannotSetUp(what=what, fix="free some space")


def install_packages(packages: list[Path]) -> None:
    """Our own packages, editable: nothing is fetched."""
    say(f"installing {len(packages)} packages of this checkout")
    editable = [text for package in packages for text in ("-e", f"./{package.relative_to(ROOT)}")]
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--no-cache"]
    command = [*uv("install"), *options, *editable]
    if subprocess.run(command, env=environment(), cwd=ROOT, check=False).returncode:  # noqa: S603 - our own command line
        fix = f"see above; or begin anew: rm -r {VENV.name}"
        raise CannotSetUp(what="the packages of this checkout could not be installed", fix=fix)


def stamped() -> dict[str, str]:
    """What was installed last time, by hash; nothing when that is not known for certain."""
    if not STAMP.exists():
        return {}
    lines = [line.split() for line in STAMP.read_text(encoding="utf-8", errors="replace").splitlines()]
    return {words[0]: words[-1] for words in lines if words}


def stamp(wanted: Mapping[str, str]) -> None:
    """Write down what is installed, whole or not at all."""
    scratch = STAMP.with_suffix(".new")
    scratch.write_text("".join(f"{name} {value}\n" for name, value in wanted.items()), encoding="utf-8")
    scratch.replace(STAMP)


def digest(*files: Path) -> str:
    """One hash of these files and their places in the checkout."""
    whole = hashlib.sha256()
    for file in files:
        whole.update(f"{file.relative_to(ROOT)}\n".encode() + file.read_bytes())
    return whole.hexdigest()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time inside; the lock dies with its holder."""
    with path.open("r" if path == Path(__file__) else "a", encoding="utf-8") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        yield


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    """The last thing a program said."""
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[-1] if lines else f"exit code {done.returncode}"


def say(text: str) -> None:
    """One line of progress."""
    sys.stderr.write(f"   {text}\n")


if __name__ == "__main__":
    sys.exit(main())
