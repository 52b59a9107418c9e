"""Faces of packages that import what they offer at first use: a relay names a web module and loads no FastAPI."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence


def face(package: str, homes: Mapping[str, Sequence[str]]) -> Callable[[str], object]:
    """Return the ``__getattr__`` of a package whose public names live in modules of other names.

    ``homes`` gives a module's public names by the module's name. The package imports the same names under
    ``TYPE_CHECKING``, by which type checkers and readers see them.
    """
    module_of = {name: module for module, names in homes.items() for name in names}

    def getattribute(name: str) -> object:
        if name not in module_of:
            message = f"module {package!r} has no attribute {name!r}"
            raise AttributeError(message)
        found: object = getattr(importlib.import_module(module_of[name]), name)
        setattr(sys.modules[package], name, found)
        return found

    return getattribute
