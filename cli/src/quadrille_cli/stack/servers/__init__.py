"""The servers of the local stack: Kafka, registry, Postgres, Jaeger, and what they run on."""
