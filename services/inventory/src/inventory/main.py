"""Inventory wired: handlers and store for the worker, the stock API."""

from __future__ import annotations

from inventory import store
from inventory.handlers import on
from quadrille.app import Program, compensation_actions

PROGRAM = Program(
    on, store, api="inventory.api:make", operators=compensation_actions(store.standing), look=store.standing,
    digest=store.DIGEST,
)  # fmt: skip
