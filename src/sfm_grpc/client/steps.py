"""What a flow can ask of its driver. A flow is a generator that yields steps and is sent their results; a failed step is thrown
into it. `sync` and `aio` each have a driver.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar


@dataclass(frozen=True, slots=True)
class Call:
    """Send this and answer the reply's bytes, or throw an SfmError."""

    method: str
    request: bytes
    timeout_s: float


class Stream(Protocol):
    """A call with many answers that is under way."""

    def cancel(self) -> object:
        """Ends it; whoever waits for its next answer is told so. Any thread may."""


@dataclass(frozen=True, slots=True)
class Open:
    """Begin a call with many answers, and answer its Stream."""

    method: str
    request: bytes
    timeout_s: float | None
    """Of all of it; None: none."""


@dataclass(frozen=True, slots=True)
class Converse:
    """Begin a call with many requests and many answers, and answer its Stream."""

    method: str


@dataclass(frozen=True, slots=True)
class Send:
    """Send a request on a stream that was begun so; on one that has ended it goes nowhere, and Receive says why."""

    stream: Stream
    request: bytes | None
    """None: there are no more."""


@dataclass(frozen=True, slots=True)
class Receive:
    """Wait for the stream's next answer and answer its bytes, None at its end, or throw an SfmError."""

    stream: Stream
    timeout_s: float | None
    """What it was opened with."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Let time pass."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Run:
    """Call the caller's function and answer what it answers (the asyncio driver awaits an awaitable)."""

    fn: Callable[..., Any]
    args: tuple[object, ...]


Step: TypeAlias = Call | Open | Converse | Send | Receive | Pause | Run
T = TypeVar("T")
Flow: TypeAlias = Generator[Step, Any, T]
