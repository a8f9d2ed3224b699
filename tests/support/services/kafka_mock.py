"""A cluster that librdkafka plays: real enough for its protocol, and there in a tenth of a second. Run as a script, by `kafka`.

It lives in a process of its own so that it can be killed and frozen; what it has is in memory, and gone with it. Tells its
address in the file that it is given, and sleeps.

    kafka_mock.py BROKERS FILE
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from confluent_kafka import Producer


def play(brokers: int, told: Path) -> None:
    cluster = Producer({"test.mock.num.brokers": brokers, "bootstrap.servers": "mock", "log_level": 0})
    found = cluster.list_topics(timeout=30).brokers.values()
    told.with_suffix(".new").write_text(",".join(f"{b.host}:{b.port}" for b in found))
    told.with_suffix(".new").rename(told)
    threading.Event().wait()


if __name__ == "__main__":
    play(int(sys.argv[1]), Path(sys.argv[2]))
