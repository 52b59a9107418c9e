"""The HTTP API: admission, idempotency, problems, documents, server-sent events."""
