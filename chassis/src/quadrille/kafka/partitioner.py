"""Partitioner: on which partition of a topic a key's records lie, hashed as the relay's producer and Java do."""

from __future__ import annotations

_SEED, _MULTIPLIER, _BITS = 0x9747B28C, 0x5BD1E995, 0xFFFFFFFF
_POSITIVE = 0x7FFFFFFF


def partition_of(key: str, partitions: int) -> int:
    """Return the partition that a key's records are on, of so many."""
    return (_murmur2(key.encode("utf-8", "surrogatepass")) & _POSITIVE) % partitions


def _murmur2(data: bytes) -> int:
    """Return MurmurHash2 of 32 bits with Kafka's seed."""
    found, whole = _SEED ^ len(data), len(data) & ~3
    for start in range(0, whole, 4):
        word = int.from_bytes(data[start : start + 4], "little") * _MULTIPLIER & _BITS
        word = (word ^ word >> 24) * _MULTIPLIER & _BITS
        found = (found * _MULTIPLIER & _BITS) ^ word
    if rest := data[whole:]:
        found = (found ^ int.from_bytes(rest, "little")) * _MULTIPLIER & _BITS
    found = (found ^ found >> 13) * _MULTIPLIER & _BITS
    return found ^ found >> 15
