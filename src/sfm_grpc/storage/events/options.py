"""What Kafka's client is told: `SFM_KAFKA_*`, in librdkafka's words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Property = str | int | float | bool


@dataclass(frozen=True, slots=True)
class KafkaOptions:
    """How to reach Kafka."""

    bootstrap: str
    """`host:port`, separated by commas."""
    client_id: str = "sfm"
    properties: Mapping[str, Property] = field(default_factory=dict)
    """librdkafka's own, SASL and TLS among them."""
    topics: tuple[str, ...] = ()
    """Those that are asked for when it is asked how it is."""

    @property
    def client(self) -> dict[str, Property]:
        """What every client of this Kafka is told, producers and consumers."""
        return {
            "client.id": self.client_id,
            "reconnect.backoff.max.ms": 1_000,
            "socket.keepalive.enable": True,
            **self.properties,
            "bootstrap.servers": self.bootstrap,
        }
