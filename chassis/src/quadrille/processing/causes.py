"""Causes: what is kept of an exception: its class, the way it took through the code, and a fingerprint; never a value.

A fingerprint is the same for inputs of one type that fail at one line of one service, so that they are seen as a group.
"""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath
from types import FrameType
from typing import Any

from quadrille.service import Service

FRAMES_MOST = 40  # the innermost ones; a recursion has a thousand
FINGERPRINT_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Cause:
    """Why an input failed: ``exception`` is a class's name, ``frames`` are ``file:line:function``, innermost last.

    ``place`` is the ``file:line`` of the service's own code in which it was raised.
    """

    fingerprint: str
    exception: str | None = None
    frames: str | None = None
    place: str | None = None


def cause_of(service: Service[Any], kind: str, error_class: str, raised: BaseException | None = None) -> Cause:
    """Return what is kept of an input's failure; of one that no exception tells of, its fingerprint alone."""
    if raised is None:
        return Cause(_fingerprint(service.name, kind, error_class, ""))
    frames = [*_frames(raised)][-FRAMES_MOST:]
    own = _own_packages(service)
    mine = next((text for package, text in reversed(frames) if package in own), None)
    innermost = mine or (frames[-1][1] if frames else "")
    told = "\n".join(text for _, text in frames)
    fingerprint = _fingerprint(service.name, kind, error_class, innermost)
    return Cause(fingerprint, type(raised).__name__, told or None, mine and mine.rpartition(":")[0])


def _fingerprint(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()[:FINGERPRINT_DIGITS]


def _own_packages(service: Service[Any]) -> set[str]:
    """Return the packages that the service's handlers and store are from."""
    modules = {spec.handler.__module__ for spec in service.on.specs.values()} | {type(service.store).__module__}
    stores = {getattr(service.store, "__name__", "")}  # a plain module is a store too
    return {name.partition(".")[0] for name in modules | stores} - {"", "builtins", "quadrille"}


def _frames(raised: BaseException) -> Iterator[tuple[str, str]]:
    """Yield each frame's package and its text, outermost first."""
    for frame, line in traceback.walk_tb(raised.__traceback__):
        module = str(frame.f_globals.get("__name__") or "")
        yield module.partition(".")[0], f"{_file(frame, module)}:{line}:{frame.f_code.co_qualname}"


def _file(frame: FrameType, module: str) -> str:
    """Return a frame's file relative to its package's parent: no path of a machine."""
    path, inside = PurePath(frame.f_code.co_filename), module.count(".") + 1
    if path.name == "__init__.py":
        inside += 1
    return "/".join(path.parts[-inside:]) if module != "__main__" else path.name
