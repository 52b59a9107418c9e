"""Programs built from Go modules: once, with the machine's own Go, kept in the cache; optional all of them."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from quadrille_cli.stack import paths
from quadrille_cli.stack.errors import CannotRun

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

STEP = 300  # lines of the compiler between two signs of life, of some 2,300


@dataclass(frozen=True, slots=True)
class GoProgram:
    """A program by its module; its versions are pinned in ``deploy/<folder>/go.mod`` and ``go.sum``.

    ``absence`` says in a line what there will not be without Go, ``fix`` what to do then.
    """

    name: str
    module: str
    folder: str
    absence: str
    fix: str

    def binary(self) -> Path:
        """Return the program's place in the cache, by the exact modules it is built from; it may not exist (yet)."""
        sums = b"".join(paths.template(f"{self.folder}/{file}").read_bytes() for file in ("go.sum", "go.mod"))
        return paths.cache_dir() / f"{self.name}-{hashlib.sha256(sums).hexdigest()[:12]}"

    def available(self) -> bool:
        """Tell whether it is built, or could be."""
        return self.binary().exists() or shutil.which("go") is not None

    def build(self, said: Callable[[str], object]) -> Path:
        """Return the program, built when it is not there yet (minutes, once); raises CannotRun."""
        program = self.binary()
        if program.exists():
            return program
        go = shutil.which("go")
        if go is None:
            raise CannotRun(what=self.absence, fix=self.fix)
        said(f"building {self.name} from its Go modules: some minutes, once")
        return paths.made_once(paths.usable(program.parent) / program.name, lambda to: self._build(go, to, said))

    def _build(self, go: str, program: Path, said: Callable[[str], object]) -> None:
        with tempfile.TemporaryDirectory(dir=program.parent) as name:
            scratch = Path(name)
            for file in ("go.mod", "go.sum"):
                shutil.copy(paths.template(f"{self.folder}/{file}"), scratch / file)
            command = ["nice", go, "build", "-v", "-trimpath", "-o", str(scratch / self.name), self.module]
            self._compile(command, scratch, said)
            (scratch / self.name).rename(program)

    def _compile(self, command: Sequence[str], scratch: Path, said: Callable[[str], object]) -> None:
        """Run the compiler and tell now and then how far it is; raises CannotRun with its last lines."""
        tail: deque[str] = deque(maxlen=20)
        with subprocess.Popen(command, cwd=scratch, stderr=subprocess.PIPE, text=True) as compiler:  # noqa: S603
            for number, line in enumerate(compiler.stderr or (), 1):
                tail.append(line.rstrip())
                if number % STEP == 0:
                    said(f"{number} modules and packages fetched and compiled")
        if compiler.returncode:
            raise CannotRun(what=f"{self.name} could not be built", fix=f"see above; or {self.fix}", tail=tuple(tail))

    def main(self) -> None:
        """Build it ahead of the tests, or say in one line why there will be none."""
        try:
            self.build(lambda text: sys.stderr.write(f"   {text}\n"))
        except CannotRun as refused:
            sys.stderr.write(f"   {refused.what}\n")
