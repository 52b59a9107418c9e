"""The same saga built the way tutorials do: the peer that says what the chassis is worth."""
