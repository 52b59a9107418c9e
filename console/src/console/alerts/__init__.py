"""Alerts: what operators must know, told to webhooks outside; each change once, in order, until it is over."""
