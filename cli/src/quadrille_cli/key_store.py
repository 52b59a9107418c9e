"""Key store: the key file as a command changes it, one at a time, whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quadrille import keys
from quadrille.keys import ApiKey
from quadrille_cli.stack import paths

MODE = 0o644
"""Of a new file: a service may run as another user, and no secret is in it."""


@contextmanager
def changing(file: Path) -> Iterator[list[ApiKey]]:
    """The file's keys, to be changed; written when the block ends, if it changed any. Raises KeyFileError, OSError."""
    with paths.locked(file.with_name(f".{file.name}.lock")):
        kept = list(keys.read_keys(file)) if file.exists() else []
        before = tuple(kept)
        yield kept
        if tuple(kept) != before or not file.exists():
            _write(file, keys.document_of(kept))


def _write(file: Path, text: str) -> None:
    mode = file.stat().st_mode & 0o777 if file.exists() else MODE
    scratch = file.with_name(f".{file.name}.{os.getpid()}")
    scratch.unlink(missing_ok=True)
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as new:
        new.write(text)
        new.flush()
        os.fsync(new.fileno())
    scratch.chmod(mode)
    scratch.replace(file)
