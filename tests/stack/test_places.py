"""Directories of any name, closed, full, read-only, linked or half made: they work, or are refused in one line."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from quadrille_cli.commands import demo
from quadrille_cli.stack import CannotRun, Stack, paths
from quadrille_cli.stack.servers import artifacts
from tests.stack.conftest import NEEDS_ROOT, quadrille

NOT_HERE, UNREACHABLE = 9, 7
ODD = "jo sé, a;b 'c' \"d\" ~e %f #g $h [i] {j} (k) &l !m @n =o +p *q ?r <s> |t ^u `v` €"
"""One name with every sign that some syntax takes for its own; as a directory it is nothing special."""


@pytest.fixture
def open_home(stack_home: Path) -> Path:
    """A directory of this test's own that every user can reach, as a person's usually is."""
    home = Path(tempfile.mkdtemp(dir=stack_home))
    home.chmod(0o755)
    return home


@contextmanager
def mounted(where: Path, options: str) -> Iterator[Path]:
    """A file system of its own in a directory."""
    where.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(where)], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", "--lazy", str(where)], check=True)


def test_a_stack_lives_in_a_directory_of_any_name(open_home: Path) -> None:
    """Servers keep their data where they were told, whatever its name holds; wiped, it is all gone."""
    stack = Stack(open_home / ODD, parts={"kafka", "registry", "postgres:order"}, scattered=True)
    try:
        stack.start()
        with psycopg.connect(stack.database_url("order", "postgres")) as connection:
            assert connection.execute("SHOW data_directory").fetchone() == (str(stack.postgres_home / "order"),)
        assert (stack.data / "registry" / "registry.mv.db").exists()
        assert (stack.data / "kafka" / "data" / "meta.properties").exists()
        assert [path.name for path in open_home.iterdir()] == [ODD]
    finally:
        stack.stop()
        stack.wipe()
    assert not list(open_home.iterdir())


@pytest.mark.parametrize("name", ["new\nline", "bell\a", "back\\slash", os.fsdecode(b"latin-\xe9")])
def test_a_data_directory_that_cannot_work_is_refused_by_name(tmp_path: Path, name: str) -> None:
    """What some part could not be told is refused before anything is made, with the sign that is in the way."""
    code, text = quadrille("up", "--detach", "--data", str(tmp_path / name))

    assert (code, "the data directory cannot be used: its path" in text, "fix: name a new" in text) == (9, True, True)
    assert repr(next(sign for sign in name if sign == "\\" or not sign.isprintable())) in text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a:b", "really!", "[x]", "new\nline"])
def test_a_cache_that_cannot_work_is_refused_by_name(tmp_path: Path, name: str) -> None:
    """Java could not load its classes from there: said before anything is fetched or started."""
    env = {"QUADRILLE_CACHE": str(tmp_path / name)}
    code, text = quadrille("up", "--detach", "--data", str(tmp_path / "data"), env=env)

    assert (code, "the cache directory cannot be used: its path" in text) == (NOT_HERE, True), text
    assert "fix: set QUADRILLE_CACHE=DIR" in text
    assert not (tmp_path / name).exists()


STARTS = ("up", "--detach"), ("status",), ("logs",)
COMMANDS = (
    *STARTS,
    ("demo",),
    ("down", "--wipe"),
    ("status", "--config"),
    ("topics", "plan"),
    ("orders", "list"),
    ("load", "--orders", "1"),
)


def refused_in_a_line(data: Path, env: Mapping[str, str], commands: Sequence[tuple[str, ...]] = COMMANDS) -> None:
    """These commands say of this directory, without a traceback, what is wrong and how to go on."""
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda words: quadrille(*words, "--data", str(data), env=env), commands))
    for words, (code, text) in zip(commands, done, strict=True):
        assert "Traceback" not in text, words
        assert code in (UNREACHABLE, NOT_HERE) or words[0] == "down", (words, text)
        assert code == 0 or "fix: " in text, (words, text)


@pytest.mark.parametrize(("name", "commands"), [("circle", COMMANDS), ("file/data", STARTS), ("long" * 80, STARTS)])
def test_every_command_refuses_what_is_no_directory(
    tmp_path: Path, name: str, commands: Sequence[tuple[str, ...]]
) -> None:
    """Below a file, in a circle of links, with too long a name: a line with its fix, never a traceback."""
    (tmp_path / "file").write_text("")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")

    refused_in_a_line(tmp_path / name, {}, commands)


@NEEDS_ROOT
def test_every_command_refuses_a_read_only_disk(tmp_path: Path) -> None:
    """With home, cache and data on a file system that cannot be written: a line with its fix, never a traceback."""
    with mounted(tmp_path / "disk", "ro") as disk:
        refused_in_a_line(disk / "data", {"HOME": str(disk), "QUADRILLE_CACHE": "", "XDG_CACHE_HOME": ""})


@NEEDS_ROOT
def test_a_disk_that_fills_while_the_cache_is_made_leaves_nothing_half(tmp_path: Path) -> None:
    """The first start says that the disk is full and how to go on; the next, with room, unpacks anew and works."""
    archive = artifacts.fetch(artifacts.REGISTRY)[0]
    with mounted(tmp_path / "disk", "size=30m") as disk:
        env = {"QUADRILLE_CACHE": str(disk), "QUADRILLE_NO_AOT": "1"}
        for ours in ("maven", *(file.name for file in paths.cache_dir().glob("*.json"))):
            (disk / ours).symlink_to(paths.cache_dir() / ours)
        unpack = (
            f"from quadrille_cli.stack.servers import registry; import sys; sys.argv = ['quadrille']; {AS_THE_COMMAND}"
        )
        full = subprocess.run(
            [sys.executable, "-c", unpack], env={**os.environ, **env}, capture_output=True, text=True, check=False
        )
        assert (full.returncode, "fix: free some space" in full.stderr) == (NOT_HERE, True), full.stderr
        assert "Traceback" not in full.stderr

        subprocess.run(["mount", "-o", "remount,size=400m", str(disk)], check=True)
        subprocess.run([sys.executable, "-c", unpack], env={**os.environ, **env}, check=True)
        names = [path.name for path in disk.iterdir() if path.name.startswith("apicurio") and path.is_dir()]
        whole = paths.cache_dir() / names[0]
        assert artifacts.unpacked(archive, names[0]) == whole
        assert len(names) == 1
        assert sorted(p.name for p in (disk / names[0]).rglob("*")) == sorted(p.name for p in whole.rglob("*"))


AS_THE_COMMAND = "from quadrille_cli import main; main._load_more = print; "
AS_THE_COMMAND += "main.app = lambda **_: registry.distribution(); main.run()"
"""Runs one step as the command would, with its way to tell what cannot be."""


def test_what_a_killed_start_left_in_the_cache_is_made_anew(tmp_path: Path) -> None:
    """Half of a tree, left under its name for half ones, is neither used nor mixed with the whole one."""
    (tmp_path / "tree.new" / "half").mkdir(parents=True)

    def make(to: Path) -> None:
        to.mkdir()
        (to / "whole").touch()

    paths.made_once(tmp_path / "tree", make)

    assert [path.name for path in (tmp_path / "tree").iterdir()] == ["whole"]
    assert not (tmp_path / "tree.new").exists()


def test_a_leading_tilde_is_the_home(tmp_path: Path) -> None:
    """`--data=~/x`, in which no shell sees the tilde, is below the home, not in a directory called `~`."""
    code, text = quadrille("down", "--data=~/x", env={"HOME": str(tmp_path)})

    assert (code, f"nothing was started in {tmp_path}/x" in text) == (0, True), text


def test_a_wiped_link_is_emptied_where_it_leads(open_home: Path) -> None:
    """A data directory that is a link to another disk works; wiped, what it leads to is empty, and the link stays."""
    (open_home / "disk").mkdir()
    (open_home / "link").symlink_to("disk")
    stack = Stack(open_home / "link", parts={"postgres:order"}, scattered=True)
    with stack:
        assert (open_home / "disk" / "state.json").exists()
    stack.wipe()

    assert (open_home / "link").is_symlink()
    assert not list((open_home / "disk").iterdir())


@NEEDS_ROOT
def test_databases_are_found_again_though_a_directory_was_opened_or_closed(open_home: Path) -> None:
    """As root: made while the home was closed, the databases are the same ones when it is open, and wiped with it."""
    open_home.chmod(0o700)
    stack = Stack(open_home / "data", parts={"postgres:order"}, scattered=True)
    with stack, psycopg.connect(stack.database_url("order", "owner")) as connection:
        connection.execute("CREATE TABLE kept ()")
    apart = stack.postgres_home
    assert not apart.is_relative_to(open_home)

    open_home.chmod(0o755)
    again = Stack(open_home / "data", parts={"postgres:order"}, scattered=True)
    with again, psycopg.connect(again.database_url("order", "owner")) as connection:
        assert connection.execute("SELECT * FROM kept").fetchall() == []
    again.wipe()
    assert not apart.parent.exists()


@NEEDS_ROOT
def test_databases_behind_a_directory_closed_since_are_not_begun_anew(open_home: Path) -> None:
    """As root: databases made in an open home that was closed since are refused with the way back, not made again."""
    stack = Stack(open_home / "data", parts={"postgres:order"}, scattered=True)
    with stack:
        pass
    open_home.chmod(0o700)

    with pytest.raises(CannotRun) as refused:
        stack.start()

    assert f"{open_home} was closed to others" in refused.value.what
    assert refused.value.fix == f"chmod o+x {open_home}"
    subprocess.run(shlex.split(refused.value.fix), check=True)
    with stack:
        assert stack.process("postgres:order").running


@NEEDS_ROOT
def test_a_place_that_somebody_made_first_is_not_used(open_home: Path) -> None:
    """As root: where anybody may make a directory, one of another user's with our name is passed over."""
    open_home.chmod(0o700)
    [first, *others] = paths.elsewhere(open_home / "data")
    assert others
    first.mkdir()
    try:
        shutil.chown(first, "nobody")
        assert paths.elsewhere(open_home / "data")[0] == others[0]
    finally:
        first.rmdir()


@NEEDS_ROOT
def test_postgres_is_run_from_where_it_can_be(open_home: Path) -> None:
    """As root, with binaries another user cannot read and a cache nothing may be run from, a copy elsewhere serves."""
    with mounted(open_home / "cache", "noexec,size=200m") as cache:
        cache.chmod(0o755)
        env = {**os.environ, "QUADRILLE_CACHE": str(cache)}
        closed = "import os; from quadrille_cli.stack.servers import postgres as p; real = p._complaint; "
        closed += "p._complaint = lambda tree: 'closed' if 'site-packages' in str(tree) else real(tree); "
        found = subprocess.run(
            [sys.executable, "-c", f"{closed} print(p.binaries())"], env=env, capture_output=True, text=True, check=True
        )
        tree = Path(found.stdout.strip())
        try:
            assert not tree.is_relative_to(cache)
            assert subprocess.run([tree / "bin" / "postgres", "--version"], user="nobody", check=True).returncode == 0
        finally:
            shutil.rmtree(next(place for place in paths.elsewhere(cache) if tree.is_relative_to(place)))


def test_the_command_the_demo_prints_can_be_typed_beside_any_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line of the demo's end quotes the program's own path too."""
    beside = tmp_path / "my shop" / "quadrille"
    beside.parent.mkdir()
    beside.touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "executable", str(beside.with_name("python")))

    typed = demo._resolve(Stack(tmp_path / "data", parts=()), "order")  # noqa: SLF001 - what a whole demo would print

    assert shlex.split(typed)[0] == "my shop/quadrille"
