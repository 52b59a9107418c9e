"""The task scheduler: intents and timers, leased, executed and recorded."""
