"""Projection: a read model that a service declares rebuildable, for all that fills it lies on topics.

A shadow replay rebuilds it beside the live one, compares both at one position, and may exchange them
(``quadrille.replay.shadow``). State that commands or the outside also fill cannot be rebuilt so: it is not declared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["ProjectedTable", "Projection"]


@dataclass(frozen=True, slots=True)
class ProjectedTable:
    """One table of a projection: ``key`` is the column with the records' key.

    ``without`` are columns that are not compared, such as the time at which a row was written.
    """

    key: str
    without: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Projection:
    """A rebuildable read model: its name, and its tables by theirs.

    Each table has a primary key, no foreign key, trigger or view, and is written by handlers of events alone. Its rows
    are the same in whatever sequence the topics are read: Kafka keeps one within a partition and nowhere else.
    """

    name: str
    tables: Mapping[str, ProjectedTable]
