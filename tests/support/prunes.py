"""Pruner as a test asks it: over gRPC, in few words; refusals are raised as the errors that the server raised."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import grpc
from sfm.v1 import pruner_pb2 as pb
from sfm.v1 import pruner_pb2_grpc

from tests.support.memories import Memories
from tests.support.refusals import is_refusal, refusal_of


class Prunes:
    """One namespace of one tenant, asked by somebody."""

    def __init__(self, channel: grpc.aio.Channel, namespace: str = "n", tenant: str = "default", client: str = "manager") -> None:
        self.stub: Any = pruner_pb2_grpc.PrunerStub(channel)
        self._channel = channel
        self.namespace, self.tenant, self.client = namespace, tenant, client

    @classmethod
    def beside(cls, memories: Memories, client: str = "manager") -> Prunes:
        return cls(memories._channel, memories.namespace, memories.tenant, client)

    def by(self, client: str) -> Prunes:
        """The same, asked by somebody else."""
        return Prunes(self._channel, self.namespace, self.tenant, client)

    async def ask(self, method: str, **said: Any) -> Any:
        request = getattr(pb, f"{method}Request")(**{"namespace": self.namespace, **said})
        metadata = (("x-soma-tenant", self.tenant), ("x-soma-client", self.client))
        try:
            return await getattr(self.stub, method)(request, timeout=30, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            if not is_refusal(error):  # nobody answered
                raise
            raise refusal_of(error).error from error

    async def plan(self, *keys: str, keep: int | None = None, **said: Any) -> Any:
        if keep is not None:
            return await self.ask("PlanPrune", fallback=pb.PruneFallback(keep=keep), **said)
        return await self.ask("PlanPrune", order=pb.PruneOrder(keys=keys), **said)

    async def get_plan(self, plan_id: str) -> Any:
        return await self.ask("GetPrunePlan", plan_id=plan_id)

    async def apply_plan(self, plan_id: str, token: str = "", **said: Any) -> Any:
        return await self.ask("ApplyPrune", plan_id=plan_id, confirm_token=token, **said)

    async def apply(self, *keys: str, **said: Any) -> Any:
        return await self.ask("ApplyPrune", order=pb.PruneOrder(keys=keys), **said)

    async def undo(self, number: int, **said: Any) -> Any:
        return await self.ask("UndoPrune", number=number, **said)

    async def audits(self, **said: Any) -> Sequence[pb.PruneAudit]:
        return list((await self.ask("ListPruneAudits", **said)).audits)


def check_chain(audits: Sequence[pb.PruneAudit]) -> None:
    """From the first: numbers without a gap, each hash of the one before and the record, the fields those of the record."""
    before = bytes(32)
    for number, audit in enumerate(audits, start=1):
        facts = json.loads(audit.record)
        assert (audit.number, facts["number"]) == (number, number)
        before = hashlib.sha256(before + audit.record.encode()).digest()
        assert audit.hash == before
        assert (audit.action, audit.memories, audit.skipped) == (facts["action"], facts["memories"], facts["skipped"])
