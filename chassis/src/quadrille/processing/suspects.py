"""Suspects: an input that kills the process that handles it is set aside on its third death, and costs nobody else.

What may kill is taken alone, and written down before it is even decoded: records after a worker's death, answers and
timers whose lease has run out, for then their worker was lost. Whoever finds it written down knows of a death. Without
a death nothing of this costs a statement.
"""

from __future__ import annotations

from uuid import UUID

from quadrille.service import Tx

DEATHS = 3  # the first is nobody's, for nothing was written down: who is written down dies for the second time
NOTE = """
INSERT INTO suspect AS s VALUES (%b, %b, %b, 2)
ON CONFLICT (topic, partition) DO UPDATE
   SET deaths = CASE WHEN s."offset" = excluded."offset" THEN s.deaths + 1 ELSE 2 END, "offset" = excluded."offset"
RETURNING deaths - 1"""
CLEAR = "DELETE FROM suspect WHERE (topic, partition) = (%b, %b)"
CLEAR_TASK = """
DELETE FROM suspect s WHERE s.topic = %b
    OR (s.topic LIKE 'task %%' AND NOT EXISTS (SELECT FROM task t WHERE 'task ' || t.id = s.topic))"""


class Suspects:
    """What is taken alone; ``left`` are the records still to be taken so. A life counts one death at most."""

    def __init__(self) -> None:
        self.left = 0
        self._noted: dict[tuple[str, int, int], bool] = {}

    def note(self, tx: Tx, topic: str, partition: int, offset: int) -> bool:
        """Write down what is about to be handled; tell whether it has killed often enough not to be handled at all.

        Noted again it is what an outage has let nobody commit: no death.
        """
        place = topic, partition, offset
        if place not in self._noted:
            row = tx.execute(NOTE, [*place]).fetchone()
            self._noted[place] = row is not None and row[0] >= DEATHS
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
