"""The relay: outbox rows from the write-ahead log to Kafka."""
