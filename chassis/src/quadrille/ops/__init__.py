"""The ops port of every role: health, metrics, and what an operator may ask."""
