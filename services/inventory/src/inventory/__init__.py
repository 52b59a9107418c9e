"""Inventory: holds stock for an order, takes it for good or gives it back."""
