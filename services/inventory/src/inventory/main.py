"""Inventory wired: handlers and store for the worker, the stock API."""

from __future__ import annotations

from chassis.operators import undo_deeds
from chassis.program import Program
from inventory import store
from inventory.handlers import on

PROGRAM = Program(on, store, api="inventory.api:make", operators=undo_deeds(store.standing))
