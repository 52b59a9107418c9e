"""Calls to the outside: a circuit breaker behind a bulkhead, and an HTTP client that knows no retry."""
