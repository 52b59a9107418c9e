"""A log line is one JSON object with the published fields, and holds nothing a person sent."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from quadrille.observability.logs import Sink, ThrottledLog, event_lines

PROGRAM = """
import logging, structlog
from quadrille.observability import logs
logs.configure("order", "worker", "{level}")
log = structlog.get_logger()
{body}
"""


def lines(body: str, level: str = "info") -> list[dict[str, Any]]:
    program = PROGRAM.format(level=level, body=body)
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == ""
    return [json.loads(line) for line in ran.stderr.splitlines()]


def test_a_line_is_one_object_with_the_published_fields_first() -> None:
    """Time, level, phrase, service, role and release stand on every line, then what the caller named."""
    (line,) = lines('log.info("input parked", order_id="o-1", offset=7, attempt=2, error_class="HANDLER")')

    assert list(line) == [
        "ts",
        "level",
        "event",
        "service",
        "role",
        "release",
        "order_id",
        "offset",
        "attempt",
        "error_class",
    ]
    assert (line["event"], line["level"], line["service"], line["role"]) == ("input parked", "info", "order", "worker")
    assert line["ts"].endswith("Z")
    assert len(line["ts"]) == 24


def test_keys_that_are_not_on_the_list_are_left_out() -> None:
    """A payload, a token or an address cannot get into a log by accident."""
    (line,) = lines('log.warning("odd", body="secret", payment_token="tok_ok", email="a@b", topic=None)')

    assert set(line) == {"ts", "level", "event", "service", "role", "release"}


def test_an_exception_is_its_class_and_place_never_its_text() -> None:
    """A traceback's values stay out: class, file, line and function go in."""
    body = 'def f(): raise ValueError("card 4242")\ntry: f()\nexcept ValueError: log.exception("intent failed")'
    (line,) = lines(body)

    assert line["error"] == "ValueError"
    assert line["where"].startswith("<string>:6 f < <string>:7 <module>")
    assert "4242" not in json.dumps(line)


def test_a_librarys_line_keeps_its_template_only() -> None:
    """Foreign lines come in the same form, with their unfilled template as phrase."""
    (line,) = lines('logging.getLogger("lib").warning("cannot reach %s", "postgresql://app:hunter2@db")')

    assert (line["event"], line["logger"], line["service"]) == ("cannot reach %s", "lib", "order")
    assert "hunter2" not in json.dumps(line)


def test_the_level_is_kept() -> None:
    """Lines below the level are not written."""
    body = 'log.debug("a"); log.info("b"); log.warning("c"); log.error("d")'

    assert [line["event"] for line in lines(body, "warning")] == ["c", "d"]


def test_what_comes_again_and_again_is_told_seldom() -> None:
    """The first of a kind is told at once, then one in ten seconds with how many there were; kinds are apart."""
    now = 100.0
    seldom = ThrottledLog(10.0, lambda: now)

    told = [seldom.met("_TRANSPORT") for _ in range(50)]
    assert (told, seldom.met("_RESOLVE")) == ([1] + [0] * 49, 1)
    now = 110.0
    assert [seldom.met("_TRANSPORT"), seldom.met("_TRANSPORT")] == [50, 0]


def test_trouble_met_again_and_again_is_a_line_with_its_count() -> None:
    """Each kind of each phrase is a warning once in a while; the next one says how many there were since."""
    now = 100.0
    seldom = ThrottledLog(10.0, lambda: now)
    with capture_logs() as told:
        for _ in range(30):
            seldom.warn("tasks wait", "OperationalError")
            seldom.warn("tasks wait", "FencedError")
        now = 110.0
        seldom.warn("tasks wait", "FencedError")

    assert [(line["event"], line["error_class"], line["count"]) for line in told] == [
        ("tasks wait", "OperationalError", 1),
        ("tasks wait", "FencedError", 1),
        ("tasks wait", "FencedError", 30),
    ]


def test_lines_that_cannot_be_written_are_counted(tmp_path: Path) -> None:
    """A disk that is full, a pipe that is closed: work goes on, and the next line is followed by how many were lost."""
    good = (tmp_path / "log").open("w", encoding="utf-8")
    full = Path("/dev/full").open("w", encoding="utf-8")  # noqa: SIM115 - closing it fails too
    sink = Sink(full)
    logger = logging.getLogger("lost")
    logger.addHandler(sink)
    try:
        logger.warning("one")
        logger.warning("two")
        assert sink.lost == 2
        sink.stream = good  # as if there were room again
        with capture_logs() as told:
            logger.warning("three")
    finally:
        logger.removeHandler(sink)
        good.close()
        with suppress(OSError):
            full.close()
    assert (tmp_path / "log").read_text() == "three\n"
    assert [(line["event"], line["count"]) for line in told] == [("log lines were lost", 2)]


def test_a_directory_for_other_processes_counts_is_let_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """The metrics' library would write files there, or end the process where there is none: we count in memory."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "/nowhere")
    imports = "from quadrille.observability import metrics\nfrom quadrille.ops import server\n"
    assert lines(f"{imports}metrics.SPANS_SENT.inc()\nlog.info('counted')")[0]["event"] == "counted"


def test_a_line_an_event_has_the_form_of_every_other() -> None:
    """Many at a time, each is what a line of its own would be; what is None is left out, what is odd is quoted."""
    rows = [("o-1", "payment.charged", 7, 1.5), ('"\\%s\n', None, 8, None)]
    body = f"""
logs.configure("order", "worker", "info", events=True)
names = ("order_id", "event_type", "offset", "ms")
logs.event_lines.write("input handled", names, {rows!r})
for row in {rows!r}:
    log.info("input handled", **dict(zip(names, row)))
"""
    found = [{name: value for name, value in line.items() if name != "ts"} for line in lines(body)]

    assert [list(line) for line in found[:2]] == [list(line) for line in found[2:]]
    assert found[:2] == found[2:]


@pytest.mark.parametrize(("level", "events"), [("info", False), ("warning", True)])
def test_lines_an_event_are_written_only_where_they_are_wanted(level: str, events: bool) -> None:  # noqa: FBT001 - a parameter
    """They are a setting, and of level info."""
    body = f'logs.configure("order", "worker", "{level}", events={events})\nassert not logs.event_lines.on'

    assert lines(body) == []


def test_a_line_an_event_has_no_other_keys_than_any() -> None:
    """A key that is not on the list is a mistake in the program, and is told as one."""
    event_lines.begin(Sink(sys.stderr), {"service": "order"}, wanted=True)
    try:
        with pytest.raises(ValueError, match="payload is no key"):
            event_lines.write("input handled", ("order_id", "payload"), [("o-1", "secret")])
    finally:
        event_lines.on = False
