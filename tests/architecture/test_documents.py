"""The documents are true: what README shows runs and answers as shown, and no file names a host or a machine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from quadrille_cli.services import SERVICES
from quadrille_cli.stack import Stack
from tests.conftest import Shop

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
LINES = 150
SAME = {  # what differs from run to run, and the name it has then
    r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}": "<id>",
    r"\b[0-9a-f]{32}\b": "<trace>",
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z": "<time>",
    r"http://127\.0\.0\.1:\d+": "<host>",
}
# in pieces, so that this file passes its own gate
HOSTS = [
    *("py" + "pi.org", "pythonhosted" + ".org"),
    *("maven" + ".org", "maven.apache" + ".org"),
    *("npm" + "js.org", "npm" + "js.com"),
    *("proxy.golang" + ".org", "sum.golang" + ".org"),
    *("deb.debian" + ".org", "security.debian" + ".org"),
]
MACHINE = ["/" + "work" + "/", "/" + "root" + "/", "/" + "home" + "/"]


def commands(text: str, mark: str) -> list[tuple[str, str]]:
    """Return the commands of the console blocks under a mark, each with what is shown to come back."""
    blocks = re.findall(rf"<!-- {mark} -->\n```console\n(.*?)```", text, re.DOTALL)
    pairs = [part.split("\n", 1) for block in blocks for part in _joined(block).split("$ ")[1:]]
    return [(command, shown.strip()) for command, shown in pairs]


def _joined(block: str) -> str:
    """Give a command that goes on over several lines as one line: a backslash or an open quote."""
    block = block.replace("\\\n", " ")
    return re.sub(r"'[^']*'", lambda quoted: quoted[0].replace("\n", " "), block)


def alike(text: str) -> str:
    """Return a text with everything that differs from run to run called by one name."""
    for pattern, name in SAME.items():
        text = re.sub(pattern, name, text)
    return text


def run(command: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a reader of the page would: in a shell, in the checkout, with our commands on the path."""
    env = {"PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"}
    return subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False
    )


def _told(answer: str) -> dict[str, Any]:
    """Return an order's document with its own values named, and of its links the one that is always there."""
    document: dict[str, Any] = json.loads(alike(answer))
    return document | {"links": {"self": document["links"]["self"]}}


def named(text: str) -> list[str]:
    """Return the registry hosts and machine paths a text names."""
    return [one for one in (*HOSTS, *MACHINE) if re.search(rf"(?<![\w.]){re.escape(one)}|\.{re.escape(one)}", text)]


def tracked() -> list[Path]:
    """Return the files git tracks."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as failed:
        pytest.skip(f"no git checkout: {failed}")
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def test_readme_is_short() -> None:
    """README.md has at most 150 lines: it is the door, not the house."""
    assert len(README.splitlines()) <= LINES


@pytest.mark.parametrize(("command", "shown"), commands(README, "runs"))
def test_a_cheap_command_does_what_is_shown(command: str, shown: str) -> None:
    """A command of README that needs no stack succeeds, and every line shown is among what it prints."""
    result = run(command)

    assert result.returncode == 0, result.stderr
    assert {line.strip() for line in shown.splitlines()} <= {line.strip() for line in result.stdout.splitlines()}


def test_the_curl_of_readme_places_an_order(shop: Shop, stack: Stack) -> None:
    """The request README shows is accepted, answers as shown, and again the same; the order goes to its end."""
    [(command, shown)] = commands(README, "runs on the stack")
    command = command.replace("http://127.0.0.1:8001", stack.url("order"))

    answers = [run(command).stdout for _ in range(2)]

    document: dict[str, Any] = json.loads(answers[0])
    assert _told(answers[0]) == _told(shown)
    assert answers[0] == answers[1]
    assert shop.ended(document["order_id"])["status"] == "CONFIRMED"


def test_readme_runs_something() -> None:
    """No command is left out because its mark was lost: README holds cheap ones, one on the stack, and both makes."""
    assert len(commands(README, "runs")) >= 1
    assert len(commands(README, "runs on the stack")) == 1
    assert {"$ make demo", "$ make test"} <= set(README.splitlines())
    assert "make test" in (ROOT / ".ci" / "run").read_text("utf-8").splitlines()


def test_the_promise_is_the_designs() -> None:
    """README and docs/guarantees.md make the same promise, and none of exactly-once delivery."""
    promise = re.search(r"\*\*At-least-once delivery, .*?\*\* Never \"exactly-once delivery\"\.", README)

    assert promise
    assert promise[0] in (ROOT / "docs" / "guarantees.md").read_text("utf-8")


def test_links_lead_somewhere() -> None:
    """Every relative link in a document leads to a file of the checkout."""
    pages = [file for file in tracked() if file.suffix == ".md"]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text("utf-8"))]

    assert [f"{page.name}: {link}" for page, link in links if not (page.parent / link).exists()] == []
    assert links


def test_every_service_is_in_the_picture() -> None:
    """The generated picture in README shows all services."""
    picture = README.partition("```mermaid")[2].partition("```")[0]

    assert all(name in picture for name in SERVICES)


def test_no_file_names_a_registry_host_or_a_machine_path() -> None:
    """Where packages come from is the machine's own configuration: no tracked file names a host, or a path of ours."""
    texts = {file: file.read_text("utf-8", errors="ignore") for file in tracked()}

    assert {str(file.relative_to(ROOT)): found for file, text in texts.items() if (found := named(text))} == {}
    assert len(texts) > 100


@pytest.mark.parametrize(
    "planted", [f"--index-url https://{HOSTS[0]}/simple", f"cd {MACHINE[0]}main", f"https://repo1.{HOSTS[2]}/x"]
)
def test_a_planted_host_or_path_turns_the_gate_red(planted: str) -> None:
    """A registry's address in a lock file and a path of one machine are found."""
    assert named(f"first line\n{planted}\n")
