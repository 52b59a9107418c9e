"""A writer on an open-loop clock: one statement a commit, numbered from 0; its task is JSON on standard input."""

from __future__ import annotations

import json
import os
import sys
import time

import psycopg


def main() -> None:
    """Write at the rate, late or not."""
    task = json.load(sys.stdin)
    statement = task["statement"].encode()
    with psycopg.connect(os.environ["DSN"], autocommit=True) as app:
        began = time.monotonic()
        for number in range(int(task["rate"] * task["seconds"])):
            if (wait := began + number / task["rate"] - time.monotonic()) > 0:
                time.sleep(wait)
            app.execute(statement, [number], prepare=True)


if __name__ == "__main__":
    main()
