"""The reusable half of Quadrille: it knows no event and no service."""
