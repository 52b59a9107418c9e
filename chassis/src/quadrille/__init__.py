"""The reusable half of Quadrille: it knows no event and no service."""

from __future__ import annotations
