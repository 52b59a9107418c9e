"""How large things are: prints the figures and fails on a function too long to read; files may be long."""

from __future__ import annotations

import ast
import statistics
import sys
from pathlib import Path

PACKAGES = ("chassis", "cli", "console", "sandbox", "why", "auditor")
FUNCTION_LINES = 60
P90_LINES = 25
PARAMETERS = 5
MEDIAN_LINES = 8


def sources(root: Path) -> list[Path]:
    """Return the product's own source files below a checkout, tests and migrations left out."""
    found = [
        *root.glob("services/*/src/**/*.py"),
        *(p for top in PACKAGES for p in root.glob(f"{top}/src/**/*.py")),
    ]
    return sorted(found)


def functions(file: Path) -> list[tuple[str, int, int]]:
    """Return name, lines and number of parameters of every function of a file; self and cls do not count."""
    tree = ast.parse(file.read_text("utf-8"))
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            parameters = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            counted = [name for name in parameters if name not in ("self", "cls")]
            found.append((node.name, (node.end_lineno or 0) - node.lineno + 1, len(counted)))
    return found


def findings(root: Path) -> list[str]:
    """Return what is beyond a bar, a line each."""
    wrong = []
    for file in sources(root):
        wrong += [
            f"{file.relative_to(root)}: {f} has {n} lines; {FUNCTION_LINES} is the bar"
            for f, n, _ in functions(file)
            if n > FUNCTION_LINES
        ]
    return wrong


def figures(root: Path) -> str:
    """Return the sizes in words: files, functions, median and ninth decile of lines."""
    files = sources(root)
    lengths = sorted(n for file in files for _, n, _ in functions(file))
    p90 = lengths[int(len(lengths) * 0.9)]
    total = sum(len(file.read_text("utf-8").splitlines()) for file in files)
    return (
        f"{len(files)} files, {total:,} lines; {len(lengths)} functions: median {statistics.median(lengths):g} lines "
        f"(bar {MEDIAN_LINES}), p90 {p90} (bar {P90_LINES}), longest {lengths[-1]} (bar {FUNCTION_LINES})"
    )


if __name__ == "__main__":
    here = Path(__file__).parents[2]
    found = findings(here)
    sys.stdout.write(figures(here) + "\n" + "".join(f"too large: {one}\n" for one in found))
    sys.exit(bool(found))
