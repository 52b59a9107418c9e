"""The quadrille command: the local stack of real parts, and what one asks of a running system."""

from __future__ import annotations
