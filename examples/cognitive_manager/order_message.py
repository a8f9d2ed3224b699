"""Orders by Kafka, for a manager that would rather leave a message than wait for an answer."""

from __future__ import annotations

import base64
import json
import os
import uuid
from collections.abc import Sequence

from confluent_kafka import Producer

from examples.cognitive_manager.state import RHO
from examples.cognitive_manager.stream import FloatArray
from sfm_grpc.density.envelope import serialize_matrix

_BOOTSTRAP = "SFM_KAFKA_BOOTSTRAP"
_TOPIC = os.environ.get("SFM_KAFKA_TOPIC_PRUNE_ORDER", "prune.order")
_SENT_S = 30.0


class OrderMessages:
    """The topic `prune.order`; schemas/prune.order.json says what is sent."""

    def __init__(self, bootstrap: str, tenant: str, committer: str) -> None:
        self._producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True})
        self._tenant = tenant
        self._committer = committer

    @classmethod
    def configured(cls, tenant: str, committer: str) -> OrderMessages | None:
        """To the Kafka that the environment names; None: it names none."""
        bootstrap = os.environ.get(_BOOTSTRAP)
        return cls(bootstrap, tenant, committer) if bootstrap else None

    def send(self, namespace: str, keys: Sequence[str], rho: FloatArray, *, expected_version: int) -> None:
        """Orders that these go, with the ρ that is without them. Returns when Kafka has it. Raises TimeoutError.

        As float32: brokers take messages of a megabyte, and 384×384 float64 are more.
        """
        update = {"key": RHO, "envelope": base64.b64encode(serialize_matrix(rho.astype("<f4"))).decode()}
        order = {
            "order_id": uuid.uuid4().hex,
            "tenant": self._tenant,
            "namespace": namespace,
            "committer": self._committer,
            "keys": list(keys),
            "commit": {"expected_version": expected_version, "updates": [update]},
        }
        self._producer.produce(_TOPIC, json.dumps(order), key=f"{self._tenant}/{namespace}")
        if self._producer.flush(_SENT_S):
            raise TimeoutError(f"Kafka has not taken the order within {_SENT_S:g} s")
