"""The outside world for development: a card processor with its own ledger, and a mailbox; never for production."""

from __future__ import annotations
