"""`make bench`: runs the cells of a profile, writes results, tables and the page, and holds ratios to the baseline."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from bench import report
from bench.cases import CELLS, CI
from bench.fingerprint import busy, fingerprint, now
from bench.model import SIZES, CannotMeasureError, Cell, Contestant, Result, Run, Size

CONFLICT = 6
RESULTS = report.HERE / "results"
LOOSE = Path(".quadrille") / "bench"
"""Where results lie that count for nothing: forced ones, and those of the smallest size."""
BASELINE = report.HERE / "baseline"


def main() -> int:
    """Run the bench; 0, 1 when something is invalid or worse, 6 when the machine is busy, 2 for a wrong name."""
    asked = _asked()
    size = SIZES[asked.profile]
    cells = [cell for cell in CELLS if chosen(cell.name, asked.case, size)]
    if not cells:
        print(f"no cell is called {asked.case}; there are {', '.join(cell.name for cell in CELLS)}", file=sys.stderr)
        return 2
    told_busy = busy()
    if told_busy and not asked.force:
        fix = "wait until it is quiet, or make bench FORCE=1, and the result is marked and no baseline"
        print(f"this machine is busy: {told_busy}\n  fix: {fix}", file=sys.stderr)
        return CONFLICT
    counts = not told_busy and not asked.out and size.name != "smoke"
    file = Path(asked.out) if asked.out else (RESULTS if counts else LOOSE) / f"{size.name}.json"
    baseline = (report.load(BASELINE / f"{size.name}.json") or {}) if not told_busy else {}
    seen, bad, results = fingerprint(), list[str](), dict[str, Result]()
    for cell in cells:
        results[cell.name] = measured(cell, size)
        if report.worse(cell, results[cell.name], baseline):
            say(f"{cell.name}: worse than the baseline, so it is measured once more")
            results[cell.name] = measured(cell, size)
            bad += report.worse(cell, results[cell.name], baseline)
        # kept as it grows: a bench that is cut short has lost no cell that was done
        told = report.merged(report.load(file), report.document(size.name, seen, told_busy, results))
        report.save(file, told)
    text = report.table(CELLS, told, bad)
    print(text)
    if counts:
        report.write_readme(text, report.README)
        if asked.baseline:
            report.save(BASELINE / f"{size.name}.json", baseline | report.ratios(cells, results))
    wrong = [line for result in results.values() for line in result.invalid()]
    return 1 if bad or wrong else 0


def _asked() -> argparse.Namespace:
    arguments = argparse.ArgumentParser(prog="make bench", description=__doc__)
    arguments.add_argument("--profile", choices=SIZES, default="ci", help="how much is measured")
    arguments.add_argument("--case", default="", help="only cells that are called or begin so, a comma between")
    arguments.add_argument("--force", action="store_true", help="although the machine is busy; the result is marked")
    arguments.add_argument("--baseline", action="store_true", help="keep these ratios as the ones to be held")
    arguments.add_argument("--out", default="", help="write the JSON here, and no page")
    asked = arguments.parse_args()
    asked.force = asked.force or os.environ.get("FORCE") == "1"
    return asked


def chosen(name: str, wanted: str, size: Size) -> bool:
    """Tell whether a cell is among those asked for, by its name or the first words of it, else those of the profile."""
    if not wanted:
        return size.name != "ci" or name in CI
    return any(f"{name}_".startswith(f"{one.strip()}_") for one in wanted.split(","))


def measured(cell: Cell, size: Size) -> Result:
    """Measure a cell: everybody warm, then round by round, each round in the same order."""
    result = Result(cell.name, measured=now())
    say(f"{cell.name}: {cell.question}")
    try:
        with cell.contestants(size, result.absent) as contestants:
            for contestant in contestants:
                _warm(contestant, size.warm_seconds if cell.warm else 0.0)
            for number in range(size.repeats):
                round_: dict[str, Run] = {}
                for contestant in contestants:
                    round_[contestant.name] = run = _run(contestant)
                    say(f"  {number + 1}/{size.repeats} {_line(run, cell)}")
                result.rounds.append(round_)
    except CannotMeasureError as reason:
        result.absent["all"] = str(reason)
    return result


def _warm(contestant: Contestant, seconds: float) -> None:
    """Run for so long, and throw away what came out."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        _run(contestant)


def _run(contestant: Contestant) -> Run:
    """Run a contestant once; one that breaks down has an invalid run, and the others go on."""
    try:
        return contestant.run()
    except (RuntimeError, OSError) as broken:  # a TimeoutError is the latter
        return Run(contestant.name, {}, [f"broke down: {type(broken).__name__}: {broken}"])


def _line(run: Run, cell: Cell) -> str:
    figures = ", ".join(f"{cell.units[n]} {report.figure(v)}" for n, v in run.figures.items() if n in cell.units)
    return f"{run.contestant}: {figures}" + "".join(f"; INVALID: {what}" for what in run.wrong)


def say(line: str) -> None:
    """Tell of the progress."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
