"""Faults on purpose: a nemesis that breaks a local stack under load, and a proxy that harms its connections."""
