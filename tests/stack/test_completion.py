"""Completion in shells: orders, groups, operations, topics, services, processes; without a stack silence."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Shop

TEA = [("SKU-TEA", 1)]
PROGRAM = Path(sys.executable).with_name("quadrille")
NEEDS_BASH = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
TYPED = """
eval "$(_QUADRILLE_COMPLETE=source_bash quadrille)"
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _quadrille_completion quadrille; printf '%s\\n' "${COMPREPLY[@]}"
"""


def typed(data: Path, *words: str) -> list[str]:
    """What bash offers for the last word of a line, by the script that `--install-completion` writes."""
    env = {**os.environ, "QUADRILLE_DATA": str(data), "PATH": f"{PROGRAM.parent}:{os.environ['PATH']}"}
    line = ["bash", "--norc", "-c", TYPED, "bash", "quadrille", *words]
    done = subprocess.run(line, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return [one for one in done.stdout.splitlines() if one]


@NEEDS_BASH
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("events", "list", "--topic", "pay"), ["payment.events", "payment.dead-letters"]),
        (("replay", "--topic", "ops"), ["ops.events"]),
        (("consumers", "pause", "n"), ["notification"]),
        (("restart", "work"), ["worker"]),
        (("orders", "show", "01"), []),
        (("parked", "redrive", "--group", ""), []),
        (("operations", "show", ""), []),
        (("intake", "re"), ["resume"]),
        (("rel",), ["relay"]),
    ],
)
def test_without_a_stack_only_what_is_declared_is_offered(
    tmp_path: Path, words: tuple[str, ...], offered: list[str]
) -> None:
    """Topics, services, roles and verbs; of ids nothing, and no word about it on the screen."""
    assert typed(tmp_path, *words) == offered


@NEEDS_BASH
def test_what_is_in_the_stack_is_offered(shop: Shop) -> None:
    """An order by the beginning of its id and of its end, processes by name; of what there is not, nothing."""
    order, data = shop.submit(TEA), shop.stack.data
    assert order in typed(data, "why", "")
    assert order in typed(data, "orders", "show", order[:9])
    assert order[-8:] in typed(data, "timeline", order[-8:-3])  # as tables show it
    assert typed(data, "timeline", "zzzz") == []
    assert typed(data, "restart", "order-") == ["order-api", "order-relay", "order-worker"]
