"""Suspects: an input that kills the process that handles it is set aside on its third death, and costs nobody else.

What may kill is taken alone, and written down before it is even decoded: records and what is parked after a worker's
death, answers and timers whose lease has run out, for then their worker was lost. Whoever finds it written down knows
of a death. Without a death nothing of this costs a statement. What a long action redrives is written down always,
from its first death on: any worker may go on with it, and would die of it.
"""

from __future__ import annotations

from uuid import UUID

from quadrille.service import Tx

DEATHS = 3  # the first is nobody's, for nothing was written down: who is written down dies for the second time
NOTE = """
INSERT INTO suspect AS s VALUES (%b, %b, %b, %b)
ON CONFLICT (topic, partition) DO UPDATE
   SET deaths = CASE WHEN s."offset" = excluded."offset" THEN s.deaths + 1 ELSE excluded.deaths END,
       "offset" = excluded."offset"
RETURNING deaths - 1"""
CLEAR = "DELETE FROM suspect WHERE (topic, partition) = (%b, %b)"
CLEAR_PARKED = """
DELETE FROM suspect s WHERE s.topic = %b
    OR (s.topic LIKE 'parked %%' AND NOT EXISTS (
          SELECT FROM parked p WHERE 'parked ' || p.id = s.topic AND p.state <> 'REDRIVEN'))"""
CLEAR_TASK = """
DELETE FROM suspect s WHERE s.topic = %b
    OR (s.topic LIKE 'task %%' AND NOT EXISTS (SELECT FROM task t WHERE 'task ' || t.id = s.topic))"""


class Suspects:
    """What is taken alone; ``left`` are the records still to be taken so. A life counts one death at most."""

    def __init__(self) -> None:
        self.left = 0
        self._noted: dict[tuple[str, int, int], int] = {}

    def note(self, tx: Tx, topic: str, partition: int, offset: int) -> bool:
        """Write down what is about to be handled; tell whether it has killed often enough not to be handled at all.

        Noted again it is what an outage has let nobody commit: no death.
        """
        return self._deaths(tx, topic, partition, offset, counts=2) >= DEATHS

    def _deaths(self, tx: Tx, topic: str, partition: int, offset: int, *, counts: int) -> int:
        """Write down what is about to be handled; return the deaths before this life, its own counts for so many."""
        place = topic, partition, offset
        if place not in self._noted:
            row = tx.execute(NOTE, [*place, counts]).fetchone()
            self._noted[place] = int(row[0]) if row else 0
        return self._noted[place]

    def clear(self, tx: Tx, topic: str, partition: int) -> None:
        """Forget a record that was handled and killed nobody."""
        tx.execute(CLEAR, [topic, partition])
        self._noted = {}
        self.left -= 1

    def note_task(self, tx: Tx, task: UUID) -> bool:
        """Write down whose answer, or which timer, is about to be handled; tell as ``note`` does."""
        return self.note(tx, f"task {task}", 0, 0)

    def clear_task(self, tx: Tx, task: UUID) -> None:
        """Forget a task that was handled and killed nobody, and those that are gone."""
        tx.execute(CLEAR_TASK, [f"task {task}"])
        self._noted.pop((f"task {task}", 0, 0), None)

    def note_parked(self, tx: Tx, parked: UUID, *, always: bool = False) -> int:
        """Write down which parked input is about to be redriven; return how often that has killed.

        ``always`` is said of what is written down without a death before it, too.
        """
        return self._deaths(tx, f"parked {parked}", 0, 0, counts=1 if always else 2)

    def clear_parked(self, tx: Tx, parked: UUID) -> None:
        """Forget a parked input that was redriven and killed nobody, and those that are not parked any more."""
        tx.execute(CLEAR_PARKED, [f"parked {parked}"])
        self._noted.pop((f"parked {parked}", 0, 0), None)
