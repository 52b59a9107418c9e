"""SQLSTATE: whether what the database refuses is the fault of the row it was given, or of the state it is in.

Guarantee: an input is blamed only for what its own values cause. All else counts nothing and parks nothing: whoever
met it waits, tells of it seldom and tries again; that is every SQLSTATE not in this table, an unknown one too.

| SQLSTATE (PostgreSQL, appendix A) | to blame | why |
|---|---|---|
| 22 data exception | the input | a value that does not fit; not 2200H, a sequence that is used up |
| 23 integrity constraint violation | the input | a constraint has said no |
| 23514 without a constraint's name | the database, for an event's day | no partition: days are made, then it goes on |
| | the input, for its id's day | they are made, and still there is none: its id is too old, or far ahead |
| 54000 from where rows are measured | the input | a value too long for an index or a page |
| none: psycopg's own DataError | the input | a value that cannot even be sent, such as NUL in a text |
| 08, 57: line lost, shutdown, cancelled, time-out | the database | |
| 25006: read-only, a replica | the database | |
| 28, 3D, 42: rights, tables, functions, columns | the database | a migration runs, or has not run |
| 40, 55: deadlock, serialization, locked | the database | |
| 53, 54, 58, XX: disk, memory, connections, limits, damage | the database | |
"""

from __future__ import annotations

from typing import TypeGuard

import psycopg

INPUT_CLASSES = ("22", "23")
SEQUENCE_USED_UP = "2200H"
LIMIT_EXCEEDED = "54000"
TOO_LONG = ("indextuple.c", "nbtutils.c", "hio.c")  # where the server says so of one row; elsewhere it is its own limit


def blames_input(error: BaseException) -> bool:
    """Tell whether a psycopg error is caused by the values it was given, and would be elsewhere and at any time."""
    if not isinstance(error, psycopg.Error):
        return False
    if error.sqlstate is None:
        return isinstance(error, psycopg.DataError)
    if is_missing_partition(error):
        return (error.diag.table_name or "").startswith("inbox")
    if error.sqlstate == LIMIT_EXCEEDED:
        return error.diag.source_file in TOO_LONG
    return error.sqlstate[:2] in INPUT_CLASSES and error.sqlstate != SEQUENCE_USED_UP


def is_missing_partition(error: BaseException) -> TypeGuard[psycopg.errors.CheckViolation]:
    """Tell whether a row's day has no partition: the one check violation that no constraint has a name for."""
    return isinstance(error, psycopg.errors.CheckViolation) and error.diag.constraint_name is None
