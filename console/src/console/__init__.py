"""The console: a service that hears every record of every topic, and shows operators how each order stands."""
