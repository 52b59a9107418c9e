"""Kafka: client settings with their reasons, topics and their identities, CloudEvents headers."""
