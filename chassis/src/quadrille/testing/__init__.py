"""For tests of services: handlers in memory, stores on Postgres, APIs, fuzzing, relays."""
