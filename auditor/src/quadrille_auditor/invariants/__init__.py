"""The 21 invariants, each one pure function over the evidence; to import this is to declare them."""

from quadrille_auditor.invariants import events, goods, handling, intake, lives, money, people

__all__ = ["events", "goods", "handling", "intake", "lives", "money", "people"]
