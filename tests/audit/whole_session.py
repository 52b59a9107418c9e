"""What an audit finds on a stack that many tests have used, but for what they put there themselves."""

from __future__ import annotations

from collections.abc import Iterator

from quadrille_auditor import Evidence, Finding, Report, gather, judge
from quadrille_cli.auditing import sources
from tests.conftest import Shop

BY_TESTS = frozenset({9, 12, 14})
"""What breaks where a test itself puts records on topics that no service has said."""
FORGED = frozenset({8, 20, 21})
"""What tests break with records of services sent again under other headers, traces and names; `test_auditor` and
`test_patched` judge these on a stack of their own."""


def wrong_after(shop: Shop) -> list[Finding]:
    """Wait until all is read; return what does not agree."""
    shop.until(shop.all_read, "all is read")
    evidence = gather(sources(shop.stack, wait=120.0))
    return list(_unplanted(evidence, judge(evidence)))


def _unplanted(e: Evidence, report: Report) -> Iterator[Finding]:
    """Yield the findings that no test has put there: of records that no service has committed."""
    said = {row.id for db in e.databases.values() for row in db.outbox}
    strange = [record for record in e.records if record.id not in said]
    places = {record.at for record in strange} | {record.id for record in strange if record.id}
    for finding in report.findings:
        if finding.invariant not in FORGED and not (finding.invariant in BY_TESTS and places & set(finding.shown_by)):
            yield finding
