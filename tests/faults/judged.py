"""The end of a fault test: what the clients know, against what the store says, by every way there is to ask it."""

from __future__ import annotations

from sfm_grpc.settings import Settings
from tests.faults.clients import Load, joined, listed, remembered
from tests.support.histories import Problem, problems


async def judged(load: Load, address: str, settings: Settings) -> list[Problem]:
    """What is wrong: with the versions that a server lists, and with what the store remembers of those that it keeps no more."""
    kept = await listed(address, load.namespaces)
    all_made = {namespace: made for namespace, made in remembered(settings).items() if namespace in load.namespaces}
    return problems(load.history, joined(kept, all_made))
