"""Fixtures for tests on real parts: one stack per session, on its own ports and data, started part by part as asked.

Loaded by pytest through the entry point `quadrille`, so every package's tests may use them.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from quadrille.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="session")
def stack_home() -> Iterator[Path]:
    """A directory for the session's stacks; kept when QUADRILLE_KEEP is set."""
    home = Path(tempfile.mkdtemp(prefix="quadrille-test-"))
    home.chmod(0o711)  # Postgres may run as another user
    yield home
    if not os.environ.get("QUADRILLE_KEEP"):
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def parts_of_the_stack(stack_home: Path) -> Iterator[Callable[..., Stack]]:
    """Asks for parts, `parts_of_the_stack("postgres:inventory", "kafka")`: each set is started once a session."""
    stacks: dict[frozenset[str], Stack] = {}

    def started(*parts: str) -> Stack:
        wanted = frozenset(parts)
        for there, stack in stacks.items():
            if wanted <= there:
                return stack
        stack = Stack(stack_home / f"stack-{len(stacks)}", parts=wanted, scattered=True)
        stacks[wanted] = stack
        stack.start()
        return stack

    yield started
    for stack in stacks.values():
        stack.stop()
        stack.wipe()
