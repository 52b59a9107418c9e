"""Command: `quadrille`, deaf to what a shell tells Python and the database client; its own options and names remain."""

from __future__ import annotations

import os
import sys

UNHEARD = ("PYTHON", "PG", "LD_PRELOAD", "PROMETHEUS_MULTIPROC_DIR")
"""Variables that begin so would change which code runs, or what a database is asked; no process of ours hears them."""


def run() -> None:
    """The program's entry: isolated and in UTF-8, if need be by starting Python once more in this process."""
    for name in [name for name in os.environ if name.startswith(UNHEARD)]:
        del os.environ[name]
    if not (sys.flags.isolated and sys.flags.utf8_mode):
        os.execv(sys.executable, [sys.executable, "-I", "-X", "utf8", "-m", "quadrille_cli", *sys.argv[1:]])  # noqa: S606
    from quadrille_cli import main  # noqa: PLC0415 - until here a file of the shell's choice could be imported instead

    main.run()
