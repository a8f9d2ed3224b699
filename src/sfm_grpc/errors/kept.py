"""What the store holds, or does not hold."""

from __future__ import annotations

from dataclasses import dataclass

from sfm_grpc.errors.base import Code, SfmError, told_names, when


@dataclass(eq=False, kw_only=True)
class VersionConflict(SfmError):
    """`expected_version` is not the namespace's version, or `if_revision` not the memory's revision."""

    code = Code.ABORTED
    reason = "VERSION_CONFLICT"
    namespace: str
    expected: int
    current: int
    committer: str
    commit_time_us: int
    key: str = ""
    """The memory; "": the namespace's version is meant, or (`field` is `if_revision`) the revision of its memories."""
    field: str = ""

    def sentence(self) -> str:
        if self.key:
            now = f"has revision {self.current}" if self.current else "is absent"
            return (
                f"memory {self.key!r} of {self.namespace!r} {now}, not revision {self.expected}; read it again and decide again"
            )
        if self.field == "if_revision":
            return f"the memories of {self.namespace!r} are at revision {self.current}, not {self.expected}; look again and decide again"
        if self.current == 0:
            return f"{self.namespace!r} was never committed to (version 0), not at version {self.expected}; commit with expected_version 0"
        by = f" by {self.committer!r}" if self.committer else ""
        return (
            f"{self.namespace!r} is at version {self.current} (committed{by} at {when(self.commit_time_us)}), not {self.expected}; "
            "read it again and decide again"
        )


@dataclass(eq=False, kw_only=True)
class NotFound(SfmError):
    """The namespace, keys or version do not exist, or are another tenant's."""

    code = Code.NOT_FOUND
    reason = "NOT_FOUND"
    what: str
    """`namespace`, `key`, `version`, `valid version`, `memory`, `deleted memory`, `prune plan` or `prune`."""
    namespace: str
    names: tuple[str, ...] = ()
    current: int = 0

    def sentence(self) -> str:
        if self.what == "namespace":
            return f"namespace {self.namespace!r} does not exist; its first commit (expected_version 0) or put creates it"
        if self.what == "valid version":
            return f"{self.namespace!r} keeps no version that is valid and whole; commit a valid one"
        if self.what == "memory":
            return f"memory {told_names(self.names)} not found in {self.namespace!r}: it never was, was deleted, or has expired"
        if self.what == "deleted memory":
            return f"memory {told_names(self.names)} of {self.namespace!r} cannot be undeleted: it never was, or is gone for good"
        if self.what in ("prune", "prune plan"):
            return f"{self.what} {told_names(self.names)} not found in {self.namespace!r}"
        return f"{self.what} {told_names(self.names)} not found in {self.namespace!r} (version {self.current})"


@dataclass(eq=False, kw_only=True)
class AlreadyExists(SfmError):
    """What was to be created is there."""

    code = Code.ALREADY_EXISTS
    reason = "ALREADY_EXISTS"
    what: str
    """`memory` or `namespace`."""
    namespace: str
    key: str = ""
    revision: int = 0
    """The memory's."""
    field: str = ""

    def sentence(self) -> str:
        if self.what == "namespace":
            return f"namespace {self.namespace!r} exists already, with another dimension or distance"
        return f"memory {self.key!r} of {self.namespace!r} exists already, at revision {self.revision}"


@dataclass(eq=False, kw_only=True)
class VersionNotReached(SfmError):
    """`min_version` is above the newest version."""

    code = Code.FAILED_PRECONDITION
    reason = "VERSION_NOT_REACHED"
    namespace: str
    min_version: int
    current: int

    def sentence(self) -> str:
        return f"{self.namespace!r} is at version {self.current} and has not reached version {self.min_version}"


@dataclass(eq=False, kw_only=True)
class VersionCompacted(SfmError):
    """The version is no longer kept."""

    code = Code.OUT_OF_RANGE
    reason = "VERSION_COMPACTED"
    namespace: str
    version: int
    oldest: int
    current: int

    def sentence(self) -> str:
        return f"version {self.version} of {self.namespace!r} is no longer kept: the oldest is {self.oldest}, the newest {self.current}"


@dataclass(eq=False, kw_only=True)
class ConfirmationRequired(SfmError):
    """What would go is to be said once more."""

    code = Code.FAILED_PRECONDITION
    reason = "CONFIRMATION_REQUIRED"
    namespace: str
    memories: int
    matrices: int
    revision: int
    version: int
    field: str = "confirm"

    def sentence(self) -> str:
        memories = "1 memory" if self.memories == 1 else f"{self.memories} memories"
        matrices = "1 matrix" if self.matrices == 1 else f"{self.matrices} matrices"
        return (
            f"deleting {self.namespace!r} would delete {memories} for good (it is at revision {self.revision}) and "
            f"{matrices} (at version {self.version}); say its name once more in `confirm` to have it so"
        )
