"""The parts that the protocol is made of. Each is there because without it something wrong can be read: see the mutants."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Parts:
    """A protocol. A mutant is `replace(PROTOCOL, token=False)`."""

    token: bool = True
    """FILL needs the token that READ planted: whatever loses the hash loses the token, and with it every fill on its way."""

    fence: bool = True
    """PUBLISH leaves its version behind as a fence; nothing older is filled or live afterwards."""

    forward: bool = True
    """FILL never replaces a newer version, fenced or not."""

    run_id: bool = True
    """A hash that another run of Redis wrote is deleted before anything else, and FILL names the run that READ saw."""

    registered_run_id: bool = True
    """Only the run of Redis that the head row names is filled, and only there does PUBLISH count as a fence."""

    lease: bool = True
    """What is filled is live for a while only."""

    lease_from_token_time: bool = True
    """That while begins when the token was planted, not when FILL arrives."""

    token_before_commit: bool = True
    """A writer plants the token that its PUBLISH may fill with before COMMIT."""

    gated_fill: bool = True
    """Filled is only what was read, or committed, by a statement that saw the cache `on`."""

    drain: bool = True
    """Who cannot fence turns the cache off, and waits until it is drained before telling. Without it: tells at once."""

    drain_waits: bool = True
    """`drained` is written a lease after `off`, not at once."""

    epoch: bool = True
    """`drained` is written only in the epoch in which the waiting began: a drain that slept until the cache was back is void."""

    state_from_commit: bool = True
    """A writer knows the cache's state from the row that its own COMMIT has locked, not from a look before."""

    publish_after_commit: bool = True
    """PUBLISH comes after COMMIT."""

    one_switch: bool = True
    """All matrices of a version appear by one command."""


PROTOCOL = Parts()
