"""What librdkafka says of trouble."""

from __future__ import annotations

import logging
import re

from confluent_kafka import KafkaError

# What is wrong is told once, by whoever asks; librdkafka would write it to standard error again and again.
SILENT = logging.Logger("librdkafka", logging.CRITICAL + 1)
_AFTERWORD = re.compile(r" \(after \d+ms in state .*\)$")


def words(error: KafkaError) -> str:
    """Without how long librdkafka tried and how often it has said so before."""
    return _AFTERWORD.sub("", str(error.str())).rstrip(".")
