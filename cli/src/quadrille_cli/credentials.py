"""Credentials: which API key is shown to which address; a key goes to the addresses it was named for, and no other."""

from __future__ import annotations

import os
from collections.abc import Iterable

VARIABLE = "QUADRILLE_KEY"
_KEYS: dict[str, str] = {}


def remember(urls: Iterable[str], key: str) -> None:
    """Show this key to these addresses from now on."""
    _KEYS.update(dict.fromkeys((url.rstrip("/") for url in urls), key))


def shown_to(url: str) -> str:
    """Return the key to show to an address, nothing if none was named for it."""
    return _KEYS.get(url.rstrip("/"), "")


def of_the_shell() -> str:
    """Return the key of the shell's environment, nothing without one."""
    return os.environ.get(VARIABLE, "").strip()
