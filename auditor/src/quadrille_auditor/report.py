"""The report as people read it: a line an invariant, then every finding with what shows it, in 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from quadrille_auditor.auditing import CLEAN, Report
from quadrille_auditor.verdict import INVARIANTS, Finding

COLUMNS = 80
SHOWN = 20
"""So many findings are told of each invariant; JSON has all."""


def lines(report: Report) -> Iterator[str]:
    """Yield the whole report, no line longer than 80 columns."""
    for row in report.rows:
        found = len(row.verdict.findings)
        state = f"{found} wrong" if found else "ok"
        yield f"{row.number:>2}  {row.name:<26}{state:<12}{row.verdict.checked:>10,} checked {row.seconds:>6.1f} s"
    for row in report.rows:
        if row.verdict.unjudged:
            yield from _folded(f"{row.number:>2}  not whole: {row.verdict.unjudged}", "    ")
    for row in report.rows:
        yield from _told(row.number, row.verdict.findings)
    yield from _read(report)
    yield from _folded(_sum(report), "  ")


def _told(number: int, findings: tuple[Finding, ...]) -> Iterator[str]:
    if findings:
        yield ""
        yield from _folded(f"invariant {number}: {INVARIANTS[number].sentence}", "  ")
    for finding in findings[:SHOWN]:
        yield from _folded(f"- {finding.says}" + (f": order {finding.order}" if finding.order else ""), "  ", "  ")
        if finding.expected or finding.found:
            yield from _folded(f"expected {finding.expected or '-'}; found {finding.found or '-'}", "      ", "    ")
        for shown in finding.shown_by[:SHOWN]:
            yield from _folded(shown, "      ", "    ")
    if len(findings) > SHOWN:
        yield f"  … and {len(findings) - SHOWN} more; --json tells all"


def _read(report: Report) -> Iterator[str]:
    if report.read:
        yield ""
        yield "read:"
    for line in report.read:
        yield from _folded(line, "    ", "  ")
    for line in report.unread:
        yield from _folded(f"could not be read: {line}", "  ")
    for line in report.moving:
        yield from _folded(f"still moving: {line}", "  ")


def _sum(report: Report) -> str:
    if report.unread or report.moving:
        return "not judged: nothing is said of what could not be read as it stood"
    orders = report.orders
    told = f"{orders['all']:,} orders: {orders['at_rest']:,} at rest"
    told += f", {orders['in_flight']:,} in flight (told, not judged as a whole)" if orders["in_flight"] else ""
    told += f", {orders['frozen']:,} wait for a person" if orders["frozen"] else ""
    end = "clean" if report.code == CLEAN else f"{len(report.findings)} findings"
    return f"{told}; {end}, {report.seconds:.1f} s"


def _folded(text: str, below: str, first: str = "") -> Iterator[str]:
    yield from textwrap.wrap(text, COLUMNS, initial_indent=first, subsequent_indent=below, break_on_hyphens=False)
