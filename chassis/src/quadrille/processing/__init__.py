"""Batch processing: inputs, state, inbox, outbox and positions in one transaction."""
