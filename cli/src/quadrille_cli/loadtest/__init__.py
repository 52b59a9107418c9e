"""Load: what is observed while orders are placed."""
