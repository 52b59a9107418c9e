"""Shell: what the processes of the stack inherit from it, an allow-list; everything else they are told is ours."""

from __future__ import annotations

import difflib
import os
import tempfile
from typing import TYPE_CHECKING

from quadrille_cli.stack.errors import CannotRun

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = "QUADRILLE_"
OWN = frozenset({"CACHE", "DATA", "NO_AOT", "VENV", "KEEP"})
"""Names of the command line, the bootstrap and the tests."""

KEPT = ("LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR")
"""Where a Python finds its libraries, and whom it trusts when a processor or a collector is reached over TLS."""


def server() -> dict[str, str]:
    """What a foreign server inherits: where programs and temporary files are; it writes UTF-8 and times in UTC."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "TMPDIR": tempfile.gettempdir(),  # the shell's, unless it cannot be used
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "MALLOC_ARENA_MAX": "2",
    }


def program() -> dict[str, str]:
    """What a program of ours inherits."""
    return server() | {name: os.environ[name] for name in KEPT if name in os.environ}


def unheard() -> Iterator[str]:
    """Say of each QUADRILLE_* of the shell that the local stack does not hear it; raises CannotRun for a slip of it."""
    names = {name.removeprefix(PREFIX) for name in os.environ if name.startswith(PREFIX)} - OWN
    if not names:
        return
    from quadrille.settings import ELSEWHERE  # noqa: PLC0415 - 0.1 s that most starts can spare
    from quadrille_cli.services import all_settings  # noqa: PLC0415 - as above
    from quadrille_cli.stack.topics import SETTING  # noqa: PLC0415 - as above

    settings = {name.upper() for name in all_settings().model_fields} | {SETTING}
    for name in sorted(names - (ELSEWHERE - {SETTING})):
        near = difflib.get_close_matches(name, settings | OWN, 1, 0.8)
        if name in settings:
            yield f"{PREFIX}{name} of the shell is not passed on; a setting for every service is: --set {name}=..."
        elif near:
            what = f"nothing is named {PREFIX}{name}; {PREFIX}{near[0]} is"
            raise CannotRun(what=what, fix=f"rename it, or: unset {PREFIX}{name}")
