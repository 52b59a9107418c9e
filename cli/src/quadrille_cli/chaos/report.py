"""A run of the nemesis as people read it, in 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from quadrille_cli.chaos.nemesis import Result

COLUMNS = 80
SHOWN = 20


def lines(result: Result) -> Iterator[str]:
    """Yield the report: what was done, what it did to the orders, what was wrong, what the auditor says."""
    done = f"{len(result.log)} faults of {len(result.kinds)} kinds, {result.overlapping} of them beside another"
    yield from _folded(f"seed {result.seed}: {done}; {result.seconds:.0f} s")
    for kind, count in sorted(result.kinds.items()):
        yield f"  {kind:<26}{count:>5}"
    ends = ", ".join(f"{count:,} {end}" for end, count in result.ends.most_common())
    yield from _folded(f"{result.orders:,} orders accepted of {result.sent:,} ({result.rate:g}/s): {ends or 'none'}")
    yield from _folded("answers: " + ", ".join(f"{n:,} {what}" for what, n in result.answers.most_common()))
    if result.healed_seconds is not None:
        yield f"every order had ended {result.healed_seconds:.1f} s after the last fault was healed"
    yield f"/readyz was looked at {result.truth.looks:,} times; {len(result.truth.lies)} lies"
    yield from _wrong(result)
    if result.report is not None:
        from quadrille_auditor import lines as audit_lines  # noqa: PLC0415 - Kafka's client and more

        yield ""
        yield from audit_lines(result.report)
    elif result.interrupted:
        yield "interrupted: all is healed, nothing is judged"


def _wrong(result: Result) -> Iterator[str]:
    found = list(result.wrong())
    for line in found[:SHOWN]:
        yield from _folded(f"wrong: {line}")
    if len(found) > SHOWN:
        yield f"… and {len(found) - SHOWN} more; -o json tells all"


def _folded(text: str) -> Iterator[str]:
    yield from textwrap.wrap(text, COLUMNS, subsequent_indent="  ", break_on_hyphens=False)
