"""The report of a bench: JSON with every raw run, tables made from it, and the gate against a baseline."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.model import OURS, Cell, Ratio, Result, Run, Spread

HERE = Path(__file__).parent
README = HERE / "README.md"
BEGIN, END = "<!-- measured: written by make bench -->", "<!-- end of measured -->"
WORSE = 0.10
"""A ratio that is worse than its baseline by more, twice, fails."""


def document(size: str, seen: Mapping[str, str], forced: str, results: Mapping[str, Result]) -> dict[str, Any]:
    """Return the JSON of a bench: where, what and every raw run."""
    cells = {
        name: {
            "measured": result.measured,
            "absent": result.absent,
            "rounds": [{n: asdict(run) for n, run in r.items()} for r in result.rounds],
        }
        for name, result in results.items()
    }
    return {"profile": size, "forced": forced, "fingerprint": dict(seen), "cells": cells}


def results_of(told: Mapping[str, Any]) -> dict[str, Result]:
    """Return the results of a bench's JSON."""
    return {
        name: Result(
            name,
            [{n: Run(**run) for n, run in round_.items()} for round_ in cell["rounds"]],
            dict(cell["absent"]),
            cell["measured"],
        )
        for name, cell in told["cells"].items()
    }


def merged(old: Mapping[str, Any] | None, new: dict[str, Any]) -> dict[str, Any]:
    """Return the new document with the cells it did not measure taken from the old one, if both are of one kind.

    Contestants of a cell were measured together: that cells are of several commits does no harm, each says of which.
    """
    if old is None or any(old[key] != new[key] for key in ("profile", "forced", "fingerprint")):
        return new
    return {**new, "cells": {**old["cells"], **new["cells"]}}


def ratios(cells: Iterable[Cell], results: Mapping[str, Result]) -> dict[str, dict[str, Any]]:
    """Return every ratio that came out, by cell and name: what a baseline keeps."""
    return {
        f"{cell.name}: {ratio.name}": asdict(found)
        for cell in cells
        if cell.name in results
        for ratio in cell.ratios
        if ratio.under and (found := results[cell.name].ratio(ratio)) is not None
    }


def worse(cell: Cell, result: Result, baseline: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return which ratios of a cell are worse than their baseline by over a tenth, quartiles apart; a line each."""
    told = []
    for ratio in cell.ratios:
        before, now = baseline.get(f"{cell.name}: {ratio.name}"), result.ratio(ratio)
        if before is None or now is None:
            continue
        was = Spread(**before)
        change = now.median / was.median if was.median else 1.0
        lost = 1 / change - 1 if ratio.more and change else change - 1
        if lost > WORSE and not now.overlaps(was):
            told.append(f"{cell.name}: {ratio.name} is {figure(now.median)}, baseline {figure(was.median)}")
    return told


def table(cells: Sequence[Cell], told: Mapping[str, Any], bad: Sequence[str] = ()) -> str:
    """Return the Markdown of a bench: what got worse first, then the ratios, then each cell."""
    results = results_of(told)
    shown = [cell for cell in cells if cell.name in results]
    lines = [*_head(told), *_section("Worse than the baseline, twice", bad)]
    lines += _section("Invalid", [line for result in results.values() for line in result.invalid()])
    lines += ["| cell | ratio | median (quartiles) | n | must | aim | |", "|---|---|---|---|---|---|---|"]
    lines += [row for cell in shown for row in _ratio_rows(cell, results[cell.name])]
    better = [line for cell in shown for line in behind(cell, results[cell.name])]
    lines += ["", *_section("What a peer does better", better or ["nothing that was measured"])]
    absent = [f"{cell.name}: {n}: {why}" for cell in shown for n, why in results[cell.name].absent.items()]
    lines += _section("Could not run here", absent)
    for cell in shown:
        lines += ["", *_cell(cell, results[cell.name])]
    return "\n".join(lines) + "\n"


def behind(cell: Cell, result: Result) -> Iterator[str]:
    """Yield in which ratios a peer was better than we."""
    for ratio in cell.ratios:
        found = result.ratio(ratio)
        if found is None or ratio.over != OURS or not ratio.under or ratio.under.startswith("floor"):
            continue
        if (found.median < 1) if ratio.more else (found.median > 1):
            yield f"{cell.name}: {ratio.name} is {figure(found.median)}"


def write_readme(text: str, readme: Path) -> None:
    """Put the tables into the page, between their two marks."""
    page = readme.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    readme.write_text(f"{before}{BEGIN}\n{text}{END}{rest.split(END)[1]}", encoding="utf-8")


def load(file: Path) -> dict[str, Any] | None:
    """Return a document written before, None where there is none."""
    if not file.exists():
        return None
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def save(file: Path, told: Mapping[str, Any]) -> None:
    """Write a document."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def figure(value: float) -> str:
    """Return a number with three digits that count."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _head(told: Mapping[str, Any]) -> list[str]:
    seen = told["fingerprint"]
    lines = [
        f"Profile `{told['profile']}`. {seen['cores']} cores ({seen['cpu']}), {seen['memory']}, {seen['kernel']},",
        f"Python {seen['python']}; {seen['ours']}; peers: {seen['peers']}.",
        "",
    ]
    if told["forced"]:
        lines += [f"**Forced on a busy machine, so no figure of it counts**: {told['forced']}.", ""]
    return lines


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return [f"**{title}**", "", *(f"- {line}" for line in lines), ""] if lines else []


def _ratio_rows(cell: Cell, result: Result) -> Iterator[str]:
    for ratio in cell.ratios:
        found = result.ratio(ratio)
        must, aim = (figure(value) if value is not None else "" for value in (ratio.must, ratio.aim))
        if found is None:
            yield f"| {cell.name} | {ratio.name} | – | 0 | {must} | {aim} | not measured |"
        else:
            spread = f"{figure(found.median)} ({figure(found.low)} to {figure(found.high)})"
            yield f"| {cell.name} | {ratio.name} | {spread} | {found.n} | {must} | {aim} | {met(ratio, found)} |"


def met(ratio: Ratio, found: Spread) -> str:
    """Return whether a ratio reaches what it must."""
    if ratio.must is None:
        return ""
    return "met" if (found.median >= ratio.must if ratio.more else found.median <= ratio.must) else "**missed**"


def _cell(cell: Cell, result: Result) -> Iterator[str]:
    yield f"**{cell.name}.** {cell.question} Medians (quartiles) of {len(result.rounds)} interleaved rounds,"
    yield f"{result.measured}:"
    yield ""
    yield "| |" + "".join(f" {unit} |" for unit in cell.units.values())
    yield "|---|" + "---|" * len(cell.units)
    for name in result.names():
        found = [result.spread(name, what) for what in cell.units]
        cells = [f"{figure(s.median)} ({figure(s.low)} to {figure(s.high)})" if s else "–" for s in found]
        yield f"| {name} | " + " | ".join(cells) + " |"
