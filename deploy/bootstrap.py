"""From a bare Python 3.11 to a working checkout: a virtual environment with exactly what the lock file names.

Run by make before anything else, with the system's Python and nothing but its standard library.
Done once; again only when the lock file, a pyproject.toml or the Python changes.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = Path(os.environ.get("QUADRILLE_VENV", ROOT / ".venv"))
LOCK = ROOT / "requirements" / "dev.txt"
STAMP = VENV / ".quadrille"
WHEELS_MB = 200
"""What the wheels of the lock file weigh, with what they unpack to."""
NOT_HERE = 9
OLDEST = (3, 11)


def main() -> int:
    """Bring the environment up to date; 0, or 9 with what is missing and its fix."""
    if sys.version_info < OLDEST:
        return refuse(
            f"Python {sys.version.split()[0]} is too old", "install Python 3.11 or newer: make PYTHON=python3.11"
        )
    packages = sorted(path.parent for path in ROOT.glob("*/pyproject.toml"))
    packages += sorted(path.parent for path in ROOT.glob("services/*/pyproject.toml"))
    wanted = {"wheels": digest(LOCK), "packages": digest(*(p / "pyproject.toml" for p in packages))}
    have = stamped()
    if have.get("wheels") != wanted["wheels"] or not (VENV / "bin" / "python").exists():
        code = install_wheels()
        if code:
            return code
        have = {}
    if have.get("packages") != wanted["packages"]:
        code = install_packages(packages)
        if code:
            return code
        STAMP.write_text("".join(f"{name} {value}\n" for name, value in wanted.items()), encoding="utf-8")
    return 0


def install_wheels() -> int:
    """The virtual environment and every wheel of the lock file, by hash."""
    if not (VENV / "bin" / "python").exists():
        missing = [name for name in ("venv", "ensurepip") if importlib.util.find_spec(name) is None]
        if missing:
            return refuse(f"this Python has no `{missing[0]}` module", "apt-get install python3-venv")
        say(f"making a virtual environment in {VENV.name}")
        made = subprocess.run(  # noqa: S603 - our own command line
            [sys.executable, "-m", "venv", str(VENV)], capture_output=True, text=True, check=False
        )
        if made.returncode:
            shutil.rmtree(VENV, ignore_errors=True)
            return refuse(f"no virtual environment: {last_line(made)}", "apt-get install python3-venv")
    have = shutil.disk_usage(VENV).free // 2**20
    if have < WHEELS_MB * 3:
        return refuse(f"the disk is too full: needs {WHEELS_MB * 3} MB, has {have} MB", "free some space")
    kept = cache() / "wheels"
    from_cache = ["install", "--no-index", "--find-links", str(kept)]
    say("installing what requirements/dev.txt names (wheels only, by hash)")
    if not pip(*from_cache, quiet=True):
        return 0
    if pip("download", "--dest", str(kept)) or pip(*from_cache):
        return refuse(
            "the wheels could not be installed (pip says why above)",
            f"no network: connect once, about {WHEELS_MB} MB are fetched and then cached; "
            "no wheel for this platform: Linux x86_64 and aarch64 with Python 3.11 to 3.13 are supported",
        )
    return 0


def pip(action: str, *options: str, quiet: bool = False) -> int:
    """Run pip over the lock file; its exit code, and what it complained of unless told to be quiet."""
    command = [str(VENV / "bin" / "python"), "-m", "pip", action, *options, "--disable-pip-version-check", "--quiet"]
    command += ["--progress-bar", "off", "--require-hashes", "--only-binary", ":all:", "--no-deps", "-r", str(LOCK)]
    said = subprocess.DEVNULL if quiet else None
    return subprocess.run(command, check=False, stderr=said, stdout=said).returncode  # noqa: S603 - our own command line


def cache() -> Path:
    """Where downloads are kept for every checkout: $QUADRILLE_CACHE, else `quadrille` in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("QUADRILLE_CACHE") or Path(base) / "quadrille")


def install_packages(packages: list[Path]) -> int:
    """Our own packages, editable: nothing is fetched."""
    say(f"installing {len(packages)} packages of this checkout")
    editable = [text for package in packages for text in ("-e", str(package))]
    command = [str(VENV / "bin" / "uv"), "pip", "install", "--quiet", "--offline", "--no-deps", "--no-index"]
    python = ["--python", str(VENV / "bin" / "python"), "--no-build-isolation"]
    if subprocess.run([*command, *python, *editable], check=False).returncode:  # noqa: S603 - our own command line
        return refuse("the packages of this checkout could not be installed", "see above; or begin anew: rm -r .venv")
    return 0


def stamped() -> dict[str, str]:
    """What was installed last time, by hash."""
    if not STAMP.exists():
        return {}
    return dict(line.split() for line in STAMP.read_text(encoding="utf-8").splitlines())


def digest(*files: Path) -> str:
    """One hash of these files, their places and this Python."""
    whole = hashlib.sha256(f"{VENV} {sys.version}".encode())
    for file in files:
        whole.update(f"{file.relative_to(ROOT)}\n".encode() + file.read_bytes())
    return whole.hexdigest()


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    """The last thing a program said."""
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[-1] if lines else f"exit code {done.returncode}"


def say(text: str) -> None:
    """One line of progress."""
    sys.stderr.write(f"   {text}\n")


def refuse(what: str, fix: str) -> int:
    """What is missing, and the fix."""
    sys.stderr.write(f"{what}\n  fix: {fix}\n")
    return NOT_HERE


if __name__ == "__main__":
    with Path(__file__).open(encoding="utf-8") as turn:  # two makes at once: the second finds the work done
        fcntl.flock(turn, fcntl.LOCK_EX)
        sys.exit(main())
