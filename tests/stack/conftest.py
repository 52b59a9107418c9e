"""First starts: the checkout copied into a strange place, and its commands run there as somebody in particular."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from quadrille_cli.stack import paths

ROOT = Path(__file__).resolve().parents[2]
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts, name spaces")
SEEDED = ("wheels", "maven")
"""What a cache holds that only a network, or minutes, could bring."""
PYTHONS = (Path(sys.base_prefix, "bin", "python3"), Path("/usr/bin/python3"), Path("/usr/local/bin/python3"))
CAN = f"import ensurepip, sys, venv; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"


def quadrille(*arguments: str, env: Mapping[str, str] | None = None, before: tuple[str, ...] = ()) -> tuple[int, str]:
    """Run the command as a person would; its exit code and everything it printed."""
    command = [*before, sys.executable, "-m", "quadrille_cli", *arguments]
    done = subprocess.run(command, env={**os.environ, **(env or {})}, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@dataclass(frozen=True, slots=True)
class Place:
    """A checkout somewhere, and who works in it: user, umask and whole environment; `before` wraps every command."""

    checkout: Path
    python: Path
    env: Mapping[str, str]
    user: str | None = None
    umask: int = 0o022
    before: Sequence[str] = ()

    def run(self, *command: str | Path, env: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Run a command in the checkout; its exit code and everything it printed."""
        done = subprocess.run(
            [*self.before, *_as(self.user), *map(str, command)],
            cwd=self.checkout, env={**self.env, **(env or {})}, umask=self.umask,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    def make(self, target: str, env: Mapping[str, str] | None = None) -> tuple[int, str]:
        """`make TARGET`, typed in the checkout."""
        return self.run("make", f"PYTHON={self.python}", target, env=env)

    def quadrille(self, *words: str | Path, env: Mapping[str, str] | None = None) -> tuple[int, str]:
        """`.venv/bin/quadrille ...`, typed in the checkout."""
        return self.run(".venv/bin/quadrille", *words, env=env)


def _as(user: str | None) -> list[str]:
    """The words before a command that is to be run by this user, in none of our groups."""
    if user is None:
        return []
    who = pwd.getpwnam(user)
    become = ["setpriv", f"--reuid={who.pw_uid}", f"--regid={who.pw_gid}", "--clear-groups", "--"]
    return [*become, "env"]  # finds and starts the command without the capabilities that setpriv still holds


MakePlace = Callable[..., Place]


@pytest.fixture(scope="module")
def first_start() -> Iterator[MakePlace]:
    """Makes places: `first_start("jo sé", "my shop", user="nobody", umask=0o077, mode=0o700, env={...}, before=(...))`.

    The first is the name of a fresh HOME, which gets `mode`, the second that of the checkout in it; the cache, in the
    home, starts with what this machine has fetched already. What runs there is ended, what lies there is removed.
    """
    made: list[Place] = []
    homes: list[Path] = []

    def place(  # noqa: PLR0913 - keyword only, each with a plain default
        name: str = "home",
        checkout: str = "checkout",
        *,
        user: str | None = None,
        umask: int = 0o022,
        mode: int = 0o755,
        env: Mapping[str, str] | None = None,
        before: Sequence[str] = (),
    ) -> Place:
        if user is not None and os.geteuid() != 0:
            pytest.skip(f"needs root to become {user}")
        homes.append(Path(tempfile.mkdtemp(prefix="quadrille-first-")))
        homes[-1].chmod(0o755)
        home = homes[-1] / name
        copy = _copied(home / checkout)
        cache = _seeded(home / ".cache" / "quadrille", linked=user is None)
        if user is not None:
            subprocess.run(["chown", "--recursive", f"{user}:", str(home)], check=True)
        home.chmod(mode)
        settings = {"PATH": os.environ["PATH"], "HOME": str(home), "QUADRILLE_CACHE": str(cache)}
        settings |= {"QUADRILLE_NO_AOT": "1", **(env or {})}  # archives are of a cache's place: none is trained here
        made.append(Place(copy, _python(user), settings, user, umask, before))
        return made[-1]

    yield place
    for one in made:
        if (one.checkout / ".venv").exists():
            one.quadrille("down", "--wipe")
    left = [line for home in homes for line in _living(home)]
    for one in made:  # a copy of Postgres that its own user can reach
        for apart in paths.elsewhere(Path(one.env["QUADRILLE_CACHE"])):
            shutil.rmtree(apart, ignore_errors=True)
    if not os.environ.get("QUADRILLE_KEEP"):
        for home in homes:
            shutil.rmtree(home, ignore_errors=True)
    assert not left, "processes were left behind"


def _copied(where: Path) -> Path:
    """The checkout's files, as git would hand them to somebody else, in another place."""
    listed = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, capture_output=True, check=True).stdout.decode().split("\0")
    for name in filter(None, names):
        if (ROOT / name).exists():
            (where / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, where / name)
    return where


def _seeded(where: Path, *, linked: bool) -> Path:
    """A cache with what this machine has fetched; files are shared with ours where nobody else is to own them."""
    where.mkdir(parents=True)
    ours = paths.cache_dir()
    for name in SEEDED:
        if (ours / name).exists():
            how = ["cp", "--archive", *(["--link"] if linked and _same_disk(ours, where) else [])]
            subprocess.run([*how, str(ours / name), str(where / name)], check=True)
    for file in ours.glob("*.json"):
        shutil.copy2(file, where / file.name)
    return where


def _same_disk(one: Path, other: Path) -> bool:
    return one.stat().st_dev == other.stat().st_dev


def _python(user: str | None) -> Path:
    """A Python of our version that this user can run."""
    for python in PYTHONS:
        asked = subprocess.run([*_as(user), str(python), "-c", CAN], cwd="/", capture_output=True, check=False)
        if asked.returncode == 0:
            return python
    pytest.skip(f"no Python {sys.version_info[0]}.{sys.version_info[1]} with venv that {user} can run")


def _living(home: Path) -> list[str]:
    """Every process that still has to do with this directory."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd", "status"]):
        told = [*(process.info["cmdline"] or []), process.info["cwd"] or ""]
        if any(str(home) in part for part in told) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(" ".join(told))
            process.kill()
    return found
