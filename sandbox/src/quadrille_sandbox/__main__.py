"""``python -m quadrille_sandbox`` starts the processor and the mailbox."""

from __future__ import annotations

import sys

from quadrille_sandbox.main import main

if __name__ == "__main__":
    sys.exit(main())
