"""``python -m sandbox`` starts the processor and the mailbox."""

import sys

from sandbox.main import main

if __name__ == "__main__":
    sys.exit(main())
