"""Floors: what the parts alone can do, under any service."""
