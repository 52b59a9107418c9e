"""The first command works wherever it is typed: other users, closed homes, odd umasks, paths that are not plain."""

from __future__ import annotations

import os

from tests.stack.conftest import MakePlace

TABLE = "20 orders: 9 CONFIRMED, 10 CANCELLED, 1 COMPENSATION_FAILED      expected = actual"


def test_root_in_a_closed_home(first_start: MakePlace) -> None:
    """`make demo` shows its table below a home of mode 0700, under umask 077, in a path with a blank and an é."""
    place = first_start("jo sé", "my shop", umask=0o077, mode=0o700)

    code, text = place.make("demo")

    assert (code, TABLE in text) == (0, True), text


def test_an_ordinary_user(first_start: MakePlace) -> None:
    """`make demo` shows its table for a user who is not root."""
    place = first_start(user="nobody" if os.geteuid() == 0 else None)

    code, text = place.make("demo")

    assert (code, TABLE in text) == (0, True), text
