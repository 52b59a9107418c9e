"""The peers, each on the same parts as we."""
