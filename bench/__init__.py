"""Quadrille measured: against its peers on the same parts, against floors, and by the scripts of single questions."""
