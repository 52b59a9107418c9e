"""Avro on the wire: events to bytes and back, schemas bounded, ids from the registry."""
