"""The auditor: holds the whole against its 21 invariants from outside, trusting no service's own word.

``audit`` reads databases, topics, the processor's ledger, the mailbox and, where there is one, the clients' log, and
returns a ``Report``; ``gather`` and ``judge`` are its two halves. It imports nothing else of Quadrille: ids, bytes and
chains of hashes are reckoned here anew.
"""

from quadrille_auditor.auditing import Report, audit, judge
from quadrille_auditor.evidence import HEARD, Evidence
from quadrille_auditor.gather import gather
from quadrille_auditor.report import lines
from quadrille_auditor.sources import Sources, StillMovingError, UnreadableError
from quadrille_auditor.verdict import INVARIANTS, Finding, Invariant, Verdict

__all__ = [
    "HEARD",
    "INVARIANTS",
    "Evidence",
    "Finding",
    "Invariant",
    "Report",
    "Sources",
    "StillMovingError",
    "UnreadableError",
    "Verdict",
    "audit",
    "gather",
    "judge",
    "lines",
]
