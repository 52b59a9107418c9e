"""Reconciler: the services' own digests held against each other, and what does not agree kept as findings."""
