"""The order service: it places orders and decides, alone, how they end (law L1)."""
