"""The typed client of the data plane: numpy in and out, blocking (`Client`) or asyncio (`AsyncClient`).

    with Client("127.0.0.1:50051") as client:
        namespace = client.namespace("agent-7")
        namespace.update(lambda snapshot: {"rho": normalized(step(snapshot.get("rho")))})
        rho = namespace.read()["rho"]

Errors are the classes of `sfm_grpc.errors`; those that callers handle are here too.
"""

from sfm_grpc.client import distances
from sfm_grpc.client.aio import AsyncClient, AsyncNamespace, AsyncRho
from sfm_grpc.client.aio_memories import AsyncMemories
from sfm_grpc.client.bulk import ExportProgress, ImportReport, LineError
from sfm_grpc.client.caches import CachePage, NamespaceCache
from sfm_grpc.client.channel import Tls
from sfm_grpc.client.density import normalized
from sfm_grpc.client.events import Event
from sfm_grpc.client.index_audit import IndexProgress, IndexReport
from sfm_grpc.client.links import Link, LinkReceipt
from sfm_grpc.client.memories import Memories
from sfm_grpc.client.memory_records import (
    KEEP,
    FoundMemories,
    Keep,
    MemoryDelete,
    MemoryPage,
    MemoryPut,
    MemoryReceipt,
    MemoryRecord,
    MemoryTypeStats,
    MemoryUpdate,
    Neighbour,
    RawJson,
    SearchResult,
)
from sfm_grpc.client.namespaces import CreatedNamespace, DeletedNamespace, NamespaceInfo, RefusedVector
from sfm_grpc.client.records import (
    Changes,
    Commit,
    Component,
    Factor,
    HealthReport,
    Latency,
    Receipt,
    Restored,
    RhoHealth,
    RhoVersion,
    ServerInfo,
    Snapshot,
    WatchedSnapshot,
)
from sfm_grpc.client.streams import AsyncEventTail, AsyncFollower, AsyncWatch, EventTail, Follower, Watch
from sfm_grpc.client.sync import Client, Namespace, Rho
from sfm_grpc.errors import (
    AlreadyExists,
    ConfirmationRequired,
    DeadlineExceeded,
    Draining,
    IndexUnavailable,
    InternalError,
    InvalidRequest,
    KindChanged,
    LimitExceeded,
    MatrixMalformed,
    NotFound,
    Overloaded,
    RequestIdReused,
    RhoCorrupt,
    RhoNotFinite,
    RhoNotHermitian,
    RhoNotPsd,
    RhoTrace,
    SfmError,
    StepTooLarge,
    StoreUnavailable,
    UnexpectedStatus,
    Unreachable,
    VersionCompacted,
    VersionConflict,
    VersionNotReached,
)
from sfm_grpc.model import Certificate, Entry, Kind, Layout

__all__ = [
    "KEEP",
    "AlreadyExists",
    "AsyncClient",
    "AsyncEventTail",
    "AsyncFollower",
    "AsyncMemories",
    "AsyncNamespace",
    "AsyncRho",
    "AsyncWatch",
    "CachePage",
    "Certificate",
    "Changes",
    "Client",
    "Commit",
    "Component",
    "ConfirmationRequired",
    "CreatedNamespace",
    "DeadlineExceeded",
    "DeletedNamespace",
    "Draining",
    "Entry",
    "Event",
    "EventTail",
    "ExportProgress",
    "Factor",
    "Follower",
    "FoundMemories",
    "HealthReport",
    "ImportReport",
    "IndexProgress",
    "IndexReport",
    "IndexUnavailable",
    "InternalError",
    "InvalidRequest",
    "Keep",
    "Kind",
    "KindChanged",
    "Latency",
    "Layout",
    "LimitExceeded",
    "LineError",
    "Link",
    "LinkReceipt",
    "MatrixMalformed",
    "Memories",
    "MemoryDelete",
    "MemoryPage",
    "MemoryPut",
    "MemoryReceipt",
    "MemoryRecord",
    "MemoryTypeStats",
    "MemoryUpdate",
    "Namespace",
    "NamespaceCache",
    "NamespaceInfo",
    "Neighbour",
    "NotFound",
    "Overloaded",
    "RawJson",
    "Receipt",
    "RefusedVector",
    "RequestIdReused",
    "Restored",
    "Rho",
    "RhoCorrupt",
    "RhoHealth",
    "RhoNotFinite",
    "RhoNotHermitian",
    "RhoNotPsd",
    "RhoTrace",
    "RhoVersion",
    "SearchResult",
    "ServerInfo",
    "SfmError",
    "Snapshot",
    "StepTooLarge",
    "StoreUnavailable",
    "Tls",
    "UnexpectedStatus",
    "Unreachable",
    "VersionCompacted",
    "VersionConflict",
    "VersionNotReached",
    "Watch",
    "WatchedSnapshot",
    "distances",
    "normalized",
]
