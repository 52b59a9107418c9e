"""A record no honest client sends: librdkafka's own producer, past the Python client's checks."""

from __future__ import annotations

import ctypes
from ctypes import c_char_p, c_int, c_int32, c_size_t, c_ssize_t, c_void_p
from pathlib import Path

import confluent_kafka

END, TOPIC, PARTITION, VALUE, KEY, MSGFLAGS, HEADER, COPY = 0, 1, 3, 4, 5, 7, 9, 2  # rdkafka.h


def produce(bootstrap: str, topic: str, partition: int, key: bytes, header: bytes) -> None:
    """Produce one record with a header of this name and wait until it is there."""
    [library] = (Path(confluent_kafka.__file__).parent.parent / "confluent_kafka.libs").glob("librdkafka*")
    kafka, trouble = ctypes.CDLL(str(library)), ctypes.create_string_buffer(512)
    kafka.rd_kafka_conf_new.restype = kafka.rd_kafka_new.restype = c_void_p
    conf = c_void_p(kafka.rd_kafka_conf_new())
    servers = c_char_p(b"bootstrap.servers"), c_char_p(bootstrap.encode())
    assert kafka.rd_kafka_conf_set(conf, *servers, trouble, c_size_t(512)) == 0, trouble.value
    producer = c_void_p(kafka.rd_kafka_new(0, conf, trouble, c_size_t(512)))
    assert producer.value, trouble.value
    value, of = b"\0\0\0\0\7{}", c_int
    sent = kafka.rd_kafka_producev(
        producer, of(TOPIC), c_char_p(topic.encode()), of(PARTITION), c_int32(partition), of(MSGFLAGS), of(COPY),
        of(VALUE), c_char_p(value), c_size_t(len(value)), of(KEY), c_char_p(key), c_size_t(len(key)),
        of(HEADER), c_char_p(header), c_char_p(b"v"), c_ssize_t(1), of(END),
    )  # fmt: skip
    assert sent == 0
    assert kafka.rd_kafka_flush(producer, 10_000) == 0
    kafka.rd_kafka_destroy(producer)
