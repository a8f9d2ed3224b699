"""Watching a namespace, and following it: written once, as flows. Nothing here waits or knows gRPC."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from sfm.v1 import rho_store_pb2

from sfm_grpc.client import convert
from sfm_grpc.client.cache import Kept, checked_selection
from sfm_grpc.client.commits import Keys
from sfm_grpc.client.records import Bookmark, Snapshot, WatchedSnapshot, empty_snapshot
from sfm_grpc.client.steps import Flow, Open, Receive, Run, Stream
from sfm_grpc.errors import (
    InvalidRequest,
    LimitExceeded,
    Overloaded,
    SfmError,
    UnexpectedStatus,
    VersionCompacted,
    VersionNotReached,
)

WATCH_RHO = "/sfm.v1.RhoStore/WatchRho"

_BACKOFF_S = 0.05
_BACKOFF_MAX_S = 2.0


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """How a namespace is watched; as `Namespace.watch` says."""

    after_version: int | None = None
    newest_only: bool = False
    numbers: bool = True
    bookmark_interval_s: float | None = None
    timeout_s: float | None = None


class Watching:
    """One stream. Its flows are performed one after the other; `cancel` may be called meanwhile."""

    def __init__(self, kept: Kept, namespace: str, keys: Keys, options: WatchOptions) -> None:
        """Raises InvalidRequest for keys that name none."""
        self._kept = kept
        self._namespace = namespace
        self._selection = checked_selection(keys)
        self._options = options
        self._stream: Stream | None = None
        self._cancelled = False
        self.as_of_time_us = 0
        """When nothing was newer than what has arrived; 0: not yet known."""

    def next(self) -> Flow[WatchedSnapshot]:
        """The next version; bookmarks pass by."""
        while (snapshot := (yield from self.receive())) is None:
            pass
        return snapshot

    def receive(self) -> Flow[WatchedSnapshot | None]:
        """The next version, or None for a bookmark."""
        if self._stream is None:
            self._stream = cast(Stream, (yield Open(WATCH_RHO, self._request(), self._options.timeout_s)))
            if self._cancelled:
                self._stream.cancel()
        try:
            reply = cast("bytes | None", (yield Receive(self._stream, self._options.timeout_s)))
        except SfmError as error:
            self._kept.refused(self._namespace, error)
            raise
        if reply is None:
            raise UnexpectedStatus(status="OK", problem="the server ended the stream")
        told = convert.watched_of(self._namespace, reply)
        self.as_of_time_us = max(self.as_of_time_us, told.as_of_time_us)
        self._kept.saw(self._namespace, told.version)
        if isinstance(told, Bookmark):
            return None
        if self._options.numbers and (self._selection is None or len(told) == len(self._selection)):
            self._kept.keep(self._selection, told)
        return told

    def _request(self) -> bytes:
        options = self._options
        request = rho_store_pb2.WatchRhoRequest(
            namespace=self._namespace,
            keys=self._selection or (),
            after_version=options.after_version,
            newest_only=options.newest_only,
            view=rho_store_pb2.VIEW_FULL if options.numbers else rho_store_pb2.VIEW_SUMMARY,
        )
        if options.bookmark_interval_s is not None:
            request.bookmark_interval.FromMicroseconds(round(options.bookmark_interval_s * 1e6))
        return request.SerializeToString()

    def cancel(self) -> None:
        """Ends the stream; whoever waits for its next version is told so."""
        self._cancelled = True
        if self._stream is not None:
            self._stream.cancel()


class Following:
    """The newest snapshot of a namespace, kept up to date from one stream to the next."""

    def __init__(
        self,
        kept: Kept,
        namespace: str,
        keys: Keys,
        *,
        bookmark_interval_s: float | None,
        tell: Callable[[], object],
        pause: Callable[[float], object],
    ) -> None:
        """`tell` is called whenever something arrived, `pause` lets time pass. Raises InvalidRequest for keys that name none."""
        self._kept = kept
        self._namespace = namespace
        self._selection = checked_selection(keys)
        self._bookmark_interval_s = bookmark_interval_s
        self._tell = tell
        self._pause = pause
        self._watching: Watching | None = None
        self._after: int | None = None
        """Where the next stream goes on; None: it begins with the newest."""
        self._closed = False
        self.snapshot: Snapshot | None = None
        """None: nothing has arrived yet."""
        self.as_of_time_us = 0
        self.problem: SfmError | None = None
        """Why there is no stream just now; None while there is one."""

    def run(self) -> Flow[None]:
        """Follows until it is closed. Raises InvalidRequest and LimitExceeded, which will not mend themselves."""
        failures = 0
        while not self._closed:
            try:
                yield from self._receive_all()
            except SfmError as error:
                if isinstance(error, (InvalidRequest, LimitExceeded)):
                    raise
                failures = failures + 1 if self.problem else 1
                self.problem = error
                if isinstance(error, (VersionCompacted, VersionNotReached)):
                    self._after = None
                if not self._closed:
                    yield Run(self._pause, (_pause_s(error, failures),))

    def _receive_all(self) -> Flow[None]:
        options = WatchOptions(self._after, newest_only=True, bookmark_interval_s=self._bookmark_interval_s)
        self._watching = watching = Watching(self._kept, self._namespace, self._selection, options)
        try:
            while not self._closed:
                snapshot = yield from watching.receive()
                self.problem = None
                if snapshot is not None or self._after is None:
                    # A bookmark that comes first says that the namespace does not exist.
                    self.snapshot = snapshot or empty_snapshot(self._namespace)
                    self._after = self.snapshot.version
                self.as_of_time_us = watching.as_of_time_us or self.as_of_time_us
                yield Run(self._tell, ())
        finally:
            watching.cancel()

    def close(self) -> None:
        """Ends the stream, and `run` with it."""
        self._closed = True
        if self._watching is not None:
            self._watching.cancel()


def _pause_s(error: SfmError, failures: int) -> float:
    """Longer each time, and never for all followers of a server alike; where the server says how long, at least that."""
    at_least_s = error.retry_after_s if isinstance(error, Overloaded) else 0.0
    return at_least_s + random.uniform(0, min(_BACKOFF_MAX_S, _BACKOFF_S * 2.0 ** min(failures, 10)))  # noqa: S311  no secret
