"""``python -m tests.model [profile or search] [plant]``: search, print what was found, exit 1 on a violation."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from tests.model import actions
from tests.model.mutants import PLANTED
from tests.model.scope import NIGHTLY, PROFILES
from tests.model.search import Search


def main(wanted: str = "quick", planted: str = "") -> int:
    """Run the searches of a profile, or one by its name; print a JSON line for each."""
    if planted:
        actions.SHARED.append(PLANTED[planted])
    scopes = PROFILES.get(wanted) or {wanted: NIGHTLY[wanted]}
    broken = False
    for name, scope in scopes.items():
        report = Search(scope).run()
        broken |= bool(report.broken)
        sys.stdout.write(json.dumps({"search": name, **asdict(report)}, ensure_ascii=False) + "\n")
        sys.stdout.flush()
    return int(broken)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
