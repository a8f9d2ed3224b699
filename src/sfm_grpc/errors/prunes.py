"""What a prune is refused for."""

from __future__ import annotations

from dataclasses import dataclass

from sfm_grpc.errors.base import Code, SfmError, told_names, when


@dataclass(eq=False, kw_only=True)
class PruneConfirmationRequired(SfmError):
    """A guard does not let it pass without a plan and its token."""

    code = Code.FAILED_PRECONDITION
    reason = "PRUNE_CONFIRMATION_REQUIRED"
    namespace: str
    plan_id: str
    """"": it was an order, without a plan."""
    memories: int
    """How many would go."""
    memories_before: int
    guards: tuple[str, ...]
    """Those that trip, each with its numbers."""
    field: str = "confirm_token"

    def sentence(self) -> str:
        what = f"plan {self.plan_id!r}" if self.plan_id else "the order"
        do = (
            "GetPrunePlan tells the token that confirms it"
            if self.plan_id
            else "PlanPrune makes a plan of it, and a token that confirms it"
        )
        return (
            f"{what} would prune {self.memories} of the {self.memories_before} memories of {self.namespace!r}: "
            f"{'; '.join(self.guards)}; {do}"
        )


@dataclass(eq=False, kw_only=True)
class PrunePlanStale(SfmError):
    """What was planned changed, or went."""

    code = Code.FAILED_PRECONDITION
    reason = "PRUNE_PLAN_STALE"
    namespace: str
    plan_id: str
    changed: int
    """How many of its memories; of a fallback, how many fewer than it should leave would be left."""
    names: tuple[str, ...]
    """The first of them."""

    def sentence(self) -> str:
        memories = "1 memory" if self.changed == 1 else f"{self.changed} memories"
        which = f" ({told_names(self.names)})" if self.names else ""
        return f"{memories} of plan {self.plan_id!r} of {self.namespace!r} changed or went since it was made{which}; plan again"


@dataclass(eq=False, kw_only=True)
class PrunePlanSpent(SfmError):
    """The plan was applied, or its time is over."""

    code = Code.FAILED_PRECONDITION
    reason = "PRUNE_PLAN_SPENT"
    namespace: str
    plan_id: str
    state: str
    """`applied` or `expired`."""
    time_us: int
    """When."""

    def sentence(self) -> str:
        was = "was applied" if self.state == "applied" else "expired"
        return f"plan {self.plan_id!r} of {self.namespace!r} {was} at {when(self.time_us)}; plan again"


@dataclass(eq=False, kw_only=True)
class PruneTokenInvalid(SfmError):
    """The token is not this caller's for this plan."""

    code = Code.FAILED_PRECONDITION
    reason = "PRUNE_TOKEN_INVALID"
    namespace: str
    plan_id: str
    committer: str
    field: str = "confirm_token"

    def sentence(self) -> str:
        who = repr(self.committer) if self.committer else "a caller without a name"
        return f"the token does not confirm plan {self.plan_id!r} of {self.namespace!r} for {who}; GetPrunePlan tells the one that does"


@dataclass(eq=False, kw_only=True)
class PruneNotUndoable(SfmError):
    """The prune was undone already, or its window is over."""

    code = Code.FAILED_PRECONDITION
    reason = "PRUNE_NOT_UNDOABLE"
    namespace: str
    number: int
    undone_by: int
    """The audit's number; 0: the window is over."""
    field: str = "number"

    def sentence(self) -> str:
        why = f"was undone by {self.undone_by}" if self.undone_by else "was too long ago (undelete_s of GetServerInfo)"
        return f"prune {self.number} of {self.namespace!r} {why}"


@dataclass(eq=False, kw_only=True)
class QuotaExceeded(SfmError):
    """The namespace may not have so many memories."""

    code = Code.RESOURCE_EXHAUSTED
    reason = "QUOTA_EXCEEDED"
    namespace: str
    memories: int
    """How many there would be."""
    memories_max: int

    def sentence(self) -> str:
        return (
            f"{self.namespace!r} may have {self.memories_max} memories, and would have {self.memories}; "
            "delete or prune some, or have its limit set (SetMemoryLimit)"
        )
