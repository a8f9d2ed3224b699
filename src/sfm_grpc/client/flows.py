"""Every operation, written once, as a generator of steps (see `steps`). Nothing here waits or knows gRPC."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Unpack, cast

from google.protobuf.duration_pb2 import Duration
from sfm.v1 import health_pb2, rho_store_pb2

from sfm_grpc.client import convert
from sfm_grpc.client.cache import Kept, Selection, checked_selection
from sfm_grpc.client.caches import GET_RHO_CACHE, SET_RHO_CACHE
from sfm_grpc.client.commits import (
    CommitOptions,
    Keys,
    Kinds,
    LastValid,
    MaxStep,
    MemoryChanges,
    UpdateOptions,
    after_commit,
    base_version,
    commit_of,
    matrices_of,
    updates,
)
from sfm_grpc.client.memory_convert import changes_of
from sfm_grpc.client.records import (
    Changes,
    Commit,
    Consistency,
    HealthReport,
    Restored,
    ServerInfo,
    Snapshot,
    VersionPage,
    empty_snapshot,
)
from sfm_grpc.client.steps import Call, Flow, Pause, Run
from sfm_grpc.errors import (
    DeadlineExceeded,
    InvalidRequest,
    LimitExceeded,
    NotFound,
    SfmError,
    VersionConflict,
)
from sfm_grpc.model import Matrix, Metadata

GET_RHO = "/sfm.v1.RhoStore/GetRho"
COMMIT_RHO = "/sfm.v1.RhoStore/CommitRho"
LIST_RHO_VERSIONS = "/sfm.v1.RhoStore/ListRhoVersions"
RESTORE_RHO = "/sfm.v1.RhoStore/RestoreRho"
GET_HEALTH = "/sfm.v1.Health/GetHealth"
GET_SERVER_INFO = "/sfm.v1.Health/GetServerInfo"
METHODS = (GET_RHO, COMMIT_RHO, LIST_RHO_VERSIONS, RESTORE_RHO, GET_RHO_CACHE, SET_RHO_CACHE, GET_HEALTH, GET_SERVER_INFO)

UPDATE_ATTEMPTS = 16
# What a message may have besides its numbers and still be within the limit; the server's is the same.
_HEADROOM_BYTES = 64 * 1024
# Each conflict means that another writer has succeeded; the pauses only keep many writers from meeting again and again.
_BACKOFF_S = 0.004
_BACKOFF_MAX_S = 0.5


class Flows:
    """The operations of one client: they share what it keeps."""

    def __init__(self, *, timeout_s: float, message_bytes_max: int, cache_bytes_max: int) -> None:
        self.kept = Kept(cache_bytes_max)
        self.timeout_s = timeout_s
        self._message_bytes_max = message_bytes_max

    # ---- reads

    def read(
        self,
        namespace: str,
        keys: Keys = None,
        *,
        version: int | None = None,
        consistency: Consistency = "cached",
        min_version: int | None = None,
        max_staleness_s: float | None = None,
        timeout_s: float | None = None,
    ) -> Flow[Snapshot]:
        """The matrices of one version; those that are already here do not travel again."""
        selection = checked_selection(keys)
        kept = self.kept.find(namespace, selection)
        request = rho_store_pb2.GetRhoRequest(
            namespace=namespace, keys=selection or (), known_version=kept.version if kept else 0, view=rho_store_pb2.VIEW_FULL
        )
        if version is not None:
            request.version = version
        else:
            self._set_freshness(request, consistency, min_version, max_staleness_s)
        reply = yield from self.call(namespace, GET_RHO, request.SerializeToString(), timeout_s)
        snapshot = convert.snapshot_of(namespace, reply, kept)
        self.kept.saw(namespace, snapshot.version)
        if snapshot.modified:
            self.kept.keep(selection, snapshot)
        return snapshot

    def describe(self, namespace: str, *, version: int | None = None, timeout_s: float | None = None) -> Flow[Snapshot]:
        """One version's certificates, without numbers."""
        request = rho_store_pb2.GetRhoRequest(namespace=namespace, view=rho_store_pb2.VIEW_SUMMARY)
        if version is not None:
            request.version = version
        else:
            self._set_freshness(request, "cached", None, None)
        reply = yield from self.call(namespace, GET_RHO, request.SerializeToString(), timeout_s)
        snapshot = convert.snapshot_of(namespace, reply, None)
        self.kept.saw(namespace, snapshot.version)
        return snapshot

    def _set_freshness(
        self,
        request: rho_store_pb2.GetRhoRequest,
        consistency: Consistency,
        min_version: int | None,
        max_staleness_s: float | None,
    ) -> None:
        freshness = request.freshness
        freshness.min_version = max(self.kept.newest_seen(request.namespace), min_version or 0)
        if consistency == "canonical":
            freshness.consistency = rho_store_pb2.CONSISTENCY_CANONICAL
        elif consistency != "cached":
            raise InvalidRequest(field="consistency", problem=f"{consistency!r} is neither 'cached' nor 'canonical'")
        if max_staleness_s is not None:
            freshness.max_staleness.CopyFrom(_duration(max_staleness_s))

    def page(self, namespace: str, page_size: int, page_token: str, timeout_s: float | None = None) -> Flow[VersionPage]:
        """One page of the versions that are kept, newest first."""
        request = rho_store_pb2.ListRhoVersionsRequest(namespace=namespace, page_size=page_size, page_token=page_token)
        reply = yield from self.call(namespace, LIST_RHO_VERSIONS, request.SerializeToString(), timeout_s)
        page = convert.page_of(reply)
        self.kept.saw(namespace, page.newest_version)
        return page

    # ---- writes

    def commit(
        self,
        namespace: str,
        changes: Changes,
        *,
        expected_version: int | Snapshot,
        metadata: Metadata | None = None,
        request_id: str | None = None,
        validate_only: bool = False,
        max_step: MaxStep = None,
        kinds: Kinds = None,
        memories: MemoryChanges = (),
        timeout_s: float | None = None,
    ) -> Flow[Commit]:
        """Commits all changes or none. What was sent is kept as what is there, if the server stored it untouched."""
        base = base_version(namespace, expected_version)
        matrices = matrices_of(changes, expected_version, kinds=kinds, max_step=max_step)
        request_id = new_request_id() if request_id is None else request_id
        message = rho_store_pb2.CommitRhoRequest(
            namespace=namespace,
            expected_version=base,
            request_id=request_id,
            metadata=metadata,
            validate_only=validate_only,
            memories=changes_of(memories),
            updates=updates(changes, matrices, max_step),
        )
        request = convert.joined_commit(message, matrices.values())
        reply = yield from self.call(namespace, COMMIT_RHO, request, timeout_s)
        commit = commit_of(namespace, request_id, reply)
        if not validate_only:
            self.kept.saw(namespace, commit.version)
            self._keep_commit(commit, base, request, matrices)
        return commit

    def _keep_commit(self, commit: Commit, base: int, request: bytes, matrices: Mapping[str, Matrix]) -> None:
        """Keeps what is known to be the new version: a known version, changed by what was sent and stored untouched."""
        before = self.kept.at_version(commit.namespace, base) if base else [(None, empty_snapshot(commit.namespace))]
        sent = convert.sent_arrays(request, matrices) if before else {}
        for selection, snapshot in before:
            after = after_commit(snapshot, selection, commit, sent)
            if after is not None:
                self.kept.keep(selection, after)

    def update(
        self, namespace: str, fn: Callable[[Snapshot], Any], *, keys: Keys = None, **options: Unpack[UpdateOptions]
    ) -> Flow[Commit | None]:
        """Reads, lets `fn(snapshot)` decide, commits; again from the start when another writer was faster."""

        def decide(snapshot: Snapshot) -> Flow[Changes | None]:
            return cast(Changes | None, (yield Run(fn, (snapshot,))))

        return self._update(namespace, decide, checked_selection(keys), **options)

    def update_key(
        self, namespace: str, key: str, fn: Callable[[Any], Any], **options: Unpack[UpdateOptions]
    ) -> Flow[Commit | None]:
        """The same for one key: `fn` is given its numbers (None where it is absent) and answers the new ones."""

        def decide(snapshot: Snapshot) -> Flow[Changes | None]:
            numbers = yield Run(fn, (snapshot.value(key),))
            return None if numbers is None else {key: numbers}

        return self._update(namespace, decide, (key,), **options)

    def _update(
        self,
        namespace: str,
        decide: Callable[[Snapshot], Flow[Changes | None]],
        selection: Selection,
        *,
        attempts: int = UPDATE_ATTEMPTS,
        timeout_s: float | None = None,
        **options: Unpack[CommitOptions],
    ) -> Flow[Commit | None]:
        remaining = _remaining(timeout_s)
        options["memories"] = [*options.get("memories", ())]  # each attempt sends them
        for attempt in range(1, attempts + 1):
            snapshot = yield from self._read_or_empty(namespace, selection, remaining())
            changes = yield from decide(snapshot)
            if changes is None:
                return None
            try:
                return (yield from self.commit(namespace, changes, expected_version=snapshot, timeout_s=remaining(), **options))
            except VersionConflict as error:
                # A memory's revision was said before anything was read: to read ρ again does not change it.
                if attempt == attempts or error.key:
                    raise
            yield Pause(_backoff_s(attempt))
        raise InvalidRequest(field="attempts", problem=f"{attempts} is not at least 1")

    def _read_or_empty(self, namespace: str, selection: Selection, timeout_s: float | None) -> Flow[Snapshot]:
        """The newest snapshot, without the keys that it does not hold; version 0 for a namespace that does not exist."""
        # Known before the read: meanwhile another thread's commit may create the namespace.
        known_to_exist = self.kept.newest_seen(namespace) > 0
        try:
            return (yield from self.read(namespace, selection, timeout_s=timeout_s))
        except NotFound as error:
            if error.what == "namespace" and not known_to_exist:
                return empty_snapshot(namespace)
            if error.what != "key" or selection is None:
                raise
        # Some of the keys are absent. Only a read of everything says so and names the version it is true of.
        whole = yield from self.read(namespace, timeout_s=timeout_s)
        return whole.restricted(selection)

    def restore(
        self,
        namespace: str,
        version: int | LastValid,
        *,
        expected_version: int | Snapshot,
        request_id: str | None = None,
        metadata: Metadata | None = None,
        validate_only: bool = False,
        timeout_s: float | None = None,
    ) -> Flow[Restored]:
        """Makes an earlier version the newest again."""
        request_id = new_request_id() if request_id is None else request_id
        request = rho_store_pb2.RestoreRhoRequest(
            namespace=namespace,
            expected_version=base_version(namespace, expected_version),
            request_id=request_id,
            metadata=metadata,
            validate_only=validate_only,
        )
        if version == "last_valid":
            request.last_valid.SetInParent()
        else:
            request.version = version
        reply = yield from self.call(namespace, RESTORE_RHO, request.SerializeToString(), timeout_s)
        restored = convert.restored_of(namespace, request_id, reply)
        if not validate_only:
            self.kept.saw(namespace, restored.version)
        return restored

    # ---- the server itself

    def health(self, namespace: str = "", timeout_s: float | None = None) -> Flow[HealthReport]:
        """The whole report."""
        request = health_pb2.GetHealthRequest(namespace=namespace)
        reply = yield from self.call("", GET_HEALTH, request.SerializeToString(), timeout_s)
        return convert.health_of(reply)

    def server_info(self, timeout_s: float | None = None) -> Flow[ServerInfo]:
        """What the server is and which limits it enforces."""
        request = health_pb2.GetServerInfoRequest()
        reply = yield from self.call("", GET_SERVER_INFO, request.SerializeToString(), timeout_s)
        return convert.server_info_of(reply)

    def call(self, namespace: str, method: str, request: bytes, timeout_s: float | None) -> Flow[bytes]:
        """One call on a namespace ("": on none). Raises LimitExceeded for what no server would take."""
        if len(request) > self._message_bytes_max + _HEADROOM_BYTES:
            raise LimitExceeded(limit="message_bytes_max", value=len(request), maximum=self._message_bytes_max)
        try:
            return cast(bytes, (yield Call(method, request, self.timeout_s if timeout_s is None else timeout_s)))
        except SfmError as error:
            self.kept.refused(namespace, error)
            raise


def new_request_id() -> str:
    """A request id that nobody else has."""
    return uuid.uuid4().hex


def _remaining(timeout_s: float | None) -> Callable[[], float | None]:
    """What is left of `timeout_s` from now on; None when there is no such bound. Raises DeadlineExceeded at its end."""
    if timeout_s is None:
        return lambda: None
    end = time.monotonic() + timeout_s

    def left() -> float:
        seconds = end - time.monotonic()
        if seconds <= 0:
            raise DeadlineExceeded(deadline_ms=round(timeout_s * 1000))
        return seconds

    return left


def _backoff_s(attempt: int) -> float:
    """Somewhere up to a bound that doubles with each attempt (full jitter)."""
    return random.uniform(0, min(_BACKOFF_MAX_S, _BACKOFF_S * 2.0 ** min(attempt, 10)))  # noqa: S311  no secret


def _duration(seconds: float) -> Duration:
    whole = int(seconds)
    return Duration(seconds=whole, nanos=round((seconds - whole) * 1e9))
