"""The shell's environment changes nothing: which code runs, what databases are asked, in which order logs are read."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest

from quadrille_cli.client import Client
from quadrille_cli.demo_data import order_of
from quadrille_cli.stack import EVERYTHING, Stack, logs
from quadrille_cli.stack import stack as parts
from quadrille_cli.stack.leftovers import MARK
from quadrille_cli.stack.ports import ROLES
from quadrille_cli.testing import Start
from tests.stack.conftest import MakePlace, Place

TABLE = "20 orders: 9 CONFIRMED, 10 CANCELLED, 1 COMPENSATION_FAILED      expected = actual"

SHADOWS = ("order", "quadrille", "quadrille_sandbox", "typer", "json", "psycopg", "sitecustomize")
NOWHERE = "/nonexistent"
HOSTILE: Mapping[str, str] = {
    "PGSSLMODE": "require", "PGHOSTADDR": "192.0.2.1", "PGCLIENTENCODING": "LATIN1", "PGOPTIONS": "-c x.y",
    "PGSERVICE": "nowhere", "PGDATABASE": "nowhere", "PGTZ": "Asia/Kolkata", "PGDATESTYLE": "German",
    "PROMETHEUS_MULTIPROC_DIR": NOWHERE, "PYTHONSTARTUP": NOWHERE, "PYTHONWARNINGS": "error", "PYTHONOPTIMIZE": "2",
    "PYTHONDONTWRITEBYTECODE": "1", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONNOUSERSITE": "",
    "PYTHONHASHSEED": "0", "PYTHONASYNCIODEBUG": "1", "PYTHONPYCACHEPREFIX": NOWHERE, "TZ": "Asia/Kolkata",
    "LC_ALL": "C", "LANG": "tr_TR", "JAVA_TOOL_OPTIONS": "-Xmx1m", "_JAVA_OPTIONS": "-Xmx1m",
    "JDK_JAVA_OPTIONS": "--no-such-option", "KAFKA_OPTS": "-Xmx1m", "CLASSPATH": NOWHERE, "JAVA_HOME": NOWHERE,
    "http_proxy": "http://192.0.2.1:1", "HTTP_PROXY": "http://192.0.2.1:1", "ALL_PROXY": "http://192.0.2.1:1",
    "https_proxy": "http://192.0.2.1:1", "OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://192.0.2.1",
    "SSL_CERT_FILE": NOWHERE, "LD_PRELOAD": f"{NOWHERE}.so", "TMPDIR": NOWHERE, "NO_COLOR": "1", "COLUMNS": "200",
    "PIP_USER": "1", "PIP_TARGET": NOWHERE, "PIP_REQUIRE_VIRTUALENV": "1", "PIP_NO_BINARY": ":all:", "BIN": NOWHERE,
    "UV_PYTHON": NOWHERE, "UV_SYSTEM_PYTHON": "1", "UV_PROJECT_ENVIRONMENT": NOWHERE, "VIRTUAL_ENV": NOWHERE,
    "MAKEFLAGS": "-j4", "GIT_DIR": NOWHERE, "GIT_WORK_TREE": NOWHERE, "QUADRILLE_TRACE_RATIO": "7",
    "QUADRILLE_API_BIND": "0.0.0.0:1",
}  # fmt: skip
"""What somebody's shell may hold; nothing of it is meant for us."""
ALLOWED = {
    "PATH",
    "TMPDIR",
    "LANG",
    "TZ",
    "HOME",
    "MALLOC_ARENA_MAX",
    "LD_LIBRARY_PATH",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
}


@pytest.fixture
def shadows(tmp_path: Path) -> Path:
    """A directory of modules that bear the names of ours, and of libraries of ours; each ends whoever imports it."""
    home = tmp_path / "shadows"
    home.mkdir()
    for name in SHADOWS:
        (home / f"{name}.py").write_text(f"raise SystemExit('{name}.py of a stranger was imported')\n")
    return home


def told(env: Mapping[str, str], *command: str | Path, cwd: Path | None = None) -> tuple[int, str]:
    """Run a command with these variables added to the environment; its exit code and all that it said."""
    whole = {**os.environ, **env}
    done = subprocess.run(list(map(str, command)), env=whole, cwd=cwd, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    "variable", ["all of them", "LANG", "LD_PRELOAD", "PYTHONOPTIMIZE", "PYTHONWARNINGS", "TMPDIR"]
)
def test_the_command_runs_whatever_its_shell_holds(tmp_path: Path, variable: str) -> None:
    """`quadrille status` answers as ever with all these variables set, and with single ones; none makes a traceback."""
    env = HOSTILE if variable == "all of them" else {variable: HOSTILE[variable]}

    code, text = told(env, Path(sys.executable).with_name("quadrille"), "status", "--data", tmp_path)

    assert (code, "no stack runs here\n  fix: quadrille up" in text, "Traceback" in text) == (7, True, False), text


@pytest.mark.parametrize("how", ["PYTHONPATH", "directory"])
def test_a_strangers_module_is_never_imported_for_ours(tmp_path: Path, shadows: Path, how: str) -> None:
    """An `order.py`, `json.py` or `typer.py` on PYTHONPATH, or where one stands, is not what the command imports."""
    env = {"PYTHONPATH": str(shadows)} if how == "PYTHONPATH" else {}
    if how == "PYTHONPATH":
        (shadows / "sitecustomize.py").unlink()  # Python imports it before anybody can say no
    started = [Path(sys.executable).with_name("quadrille")]
    if how == "directory":
        started = [Path(sys.executable), Path("-m"), Path("quadrille_cli")]

    code, text = told(env, *started, "status", "--data", tmp_path, cwd=shadows)

    assert (code, "no stack runs here" in text) == (7, True), text


def test_make_demo_in_a_hostile_shell(first_start: MakePlace, shadows: Path) -> None:
    """`make demo`, from a fresh checkout on, with all these variables: the table, all processes, logs in order."""
    env = {**HOSTILE, "PYTHONPATH": str(shadows), "PYTHONHOME": NOWHERE}
    place = first_start()

    code, text = place.make("demo", env=env)

    assert (code, TABLE in text) == (0, True), text
    found = Stack.found(place.checkout / ".quadrille")
    assert found is not None
    assert all(found.process(f"order-{role}").running for role in ROLES)
    for process in found.processes.values():
        with suppress(psutil.NoSuchProcess):  # the training may have ended
            held = psutil.Process(process.pid).environ()
            assert {name for name in held if not name.startswith("QUADRILLE_")} <= ALLOWED | {MARK, "LC_CTYPE"}
    (shadows / "sitecustomize.py").unlink()  # Python imports it before anybody can say no
    assert_logs_are_in_order(place, env)
    assert_an_emoji_is_listed(found)


def assert_logs_are_in_order(place: Place, env: Mapping[str, str]) -> None:
    """The stamps of both Javas and of a database are in UTC, as all the others are: they are merged by moment."""
    outside = {name: value for name, value in env.items() if name != "PYTHONHOME"}  # with it no Python at all begins
    for name in ("kafka", "registry", "postgres-order"):
        code, text = place.quadrille("logs", name, env=outside)
        assert code == 0, text
        stamp = logs.STAMP.search(text)
        assert stamp is not None, text
        assert abs(datetime.now(UTC) - datetime.fromisoformat(f"{stamp[1]}T{stamp[2]}+00:00")) < timedelta(hours=4), (
            name
        )


def assert_an_emoji_is_listed(stack: Stack) -> None:
    """An order whose reference has an emoji in it does not break the list of orders."""
    with Client(stack.url("order")) as api:
        body = {**order_of([("SKU-TEA", 1)]), "reference": "birthday 🎂 for José"}
        api.demand("POST", "/v1/orders", body, {"Idempotency-Key": str(uuid.uuid4())})
        listed = api.demand("GET", "/v1/orders").body
    assert body["reference"] in {order["reference"] for order in listed["orders"]}


@pytest.mark.parametrize(("part", "package"), [("order", "order"), ("sandbox", "quadrille_sandbox")])
def test_a_service_that_is_shadowed_is_refused_by_name(tmp_path: Path, shadows: Path, part: str, package: str) -> None:
    """Where another `order` would run in its place nothing starts, and the refusal says where that lies."""
    start = f"import sys; from quadrille_cli.stack import CannotRun, Stack; sys.path.insert(0, {str(shadows)!r})\n"
    start += f"try: Stack({str(tmp_path / 'data')!r}, parts={{{part!r}, 'postgres:order'}}).start()\n"
    start += "except CannotRun as refused: print(refused)\n"

    code, text = told({}, sys.executable, "-I", "-c", start)

    assert code == 0, text
    assert f"the package {package} is shadowed by {shadows / package}.py" in text
    assert not (tmp_path / "data" / "postgres").exists()


def test_a_service_that_is_missing_is_refused_by_name(tmp_path: Path) -> None:
    """Without the package of a service nothing starts: no stack is ready without its order service."""
    start = "import sys; from quadrille_cli.stack import CannotRun, EVERYTHING, Stack; sys.modules['payment'] = None\n"
    start += f"try: Stack({str(tmp_path / 'data')!r}, parts=EVERYTHING).start()\n"
    start += "except CannotRun as refused: print(refused)\n"

    code, text = told({}, sys.executable, "-I", "-c", start)

    assert (code, "the package payment is not installed\n  fix: make" in text) == (0, True), text
    assert not (tmp_path / "data" / "kafka").exists()


def test_every_process_inherits_the_allow_list_alone(new_stack: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a hostile shell no process of the stack is given any variable but those on the list; what is ours is ours."""
    for name, value in HOSTILE.items():
        monkeypatch.setenv(name, value)
    stack = new_stack(parts=EVERYTHING)
    stack.ports = dict.fromkeys(parts.port_names(stack.parts), 1)
    stack._know(stack._snapshot())  # noqa: SLF001 - every process as it would be started, none started

    for process in stack.processes.values():
        env = process.spec.env
        strange = {name for name in env if name not in ALLOWED and not name.startswith("QUADRILLE_")}
        assert (process.name, strange, env["TZ"]) == (process.name, set(), "UTC")
        assert env["TMPDIR"] != NOWHERE
        assert env.get("QUADRILLE_TRACE_RATIO") is None
        assert env.get("QUADRILLE_API_BIND") != "0.0.0.0:1"


def test_a_running_process_holds_nothing_of_the_shell(new_stack: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel says of a server's and a program's environment is the list, and the mark of its stack."""
    for name, value in HOSTILE.items():
        monkeypatch.setenv(name, value)
    stack = new_stack(parts={"postgres:order", "sandbox"})
    stack.start()

    for process in stack.processes.values():
        held = psutil.Process(process.pid).environ()
        assert {name for name in held if not name.startswith("QUADRILLE_")} <= ALLOWED | {MARK, "LC_CTYPE"}


def test_a_slip_in_a_variable_of_ours_is_refused(tmp_path: Path) -> None:
    """`QUADRILLE_DAT=...` starts nothing anywhere: the refusal names what is meant; exit code 9."""
    code, text = told(
        {"QUADRILLE_DAT": str(tmp_path)}, sys.executable, "-m", "quadrille_cli", "up", "--data", tmp_path / "x"
    )

    assert (code, "nothing is named QUADRILLE_DAT; QUADRILLE_DATA is" in text) == (9, True), text
    assert not (tmp_path / "x").exists()


def test_logs_are_merged_by_the_moment_whatever_their_offset(tmp_path: Path) -> None:
    """Lines with an offset, in UTC by letter and in UTC without a word stand in the order of their moments."""
    lines = {
        "a": "2026-11-29 12:00:01.5 first\n2026-11-29T12:00:04Z fourth\n  of two lines\n",
        "b": "2026-11-29T17:30:02.25+05:30 second\n2026-11-29T09:00:05.000-0300 fifth\n",
        "c": "no stamp yet\n2026-11-29 12:00:03,001 third\n2026-99-99 99:99:99+05:30 looks like one\n",
    }
    for name, text in lines.items():
        (tmp_path / f"{name}.log").write_text(text)
    files = {name: tmp_path / f"{name}.log" for name in lines}

    merged = [text for _, text in logs.merged(files, logs.LogFilter())]

    assert [line.split()[-1] for line in merged] == [
        "yet",
        "first",
        "second",
        "third",
        "fourth",
        "lines",
        "fifth",
        "one",
    ]
