"""`sfm rho log`, `show`, `diff` and `restore`: what a namespace was, is, and shall be again."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfm_grpc.cli.asking import ask
from sfm_grpc.cli.connection import Connection, Json, connected
from sfm_grpc.cli.exits import CommandError

if TYPE_CHECKING:
    from sfm_grpc.client import Namespace, RhoVersion, Snapshot
    from sfm_grpc.model import Certificate

NamespaceName = Annotated[str, typer.Argument(metavar="NS", help="The namespace.", show_default=False)]
OneVersion = Annotated[int | None, typer.Option("--version", min=1, metavar="N", help="This version; default: the newest.")]


LOG_COLUMNS = ("Version >", "Committed", "By", "Valid", "λ_min ≥ >", "|tr ρ − 1| >", "Changed ~", "Metadata ~")


# ---- log -------------------------------------------------------------------------------------------------------------


@connected
def log(
    connection: Connection,
    *,
    ns: NamespaceName,
    limit: Annotated[int, typer.Option(min=0, metavar="N", help="At most this many; 0: all that are kept.")] = 20,
    as_json: Json = False,
) -> None:
    """List the versions that are kept, newest first."""
    from sfm_grpc.cli import output

    with connection.open() as client:
        # One more than shown, to know whether there are more.
        found = list(
            islice(client.namespace(ns).versions(page_size=min(limit + 1, 50) if limit else 0), limit + 1 if limit else None)
        )
    shown = found[:limit] if limit else found
    if as_json:
        output.print_json({"namespace": ns, "tenant": connection.tenant, "versions": shown})
        return
    output.print_table(LOG_COLUMNS, map(log_row, shown))
    if len(found) > len(shown):
        print("… and older ones; --limit 0 lists all that are kept")


def log_row(version: RhoVersion) -> tuple[Any, ...]:
    """One version, in `LOG_COLUMNS`."""
    from sfm_grpc.cli import output

    density = [e.certificate for e in version.entries if e.certificate.kind.name == "DENSITY"]
    changed = f"restored {version.restored_version}" if version.restored_version else ", ".join(version.changed_keys)
    return (
        version.version,
        output.time_of(version.commit_time),
        version.committer,
        output.marked(version.valid, "yes", "NO"),
        output.small(min(c.min_eigenvalue_bound for c in density)) if density else "",
        output.small(max(c.trace_error for c in density)) if density else "",
        changed,
        _pairs(version.metadata),
    )


def _pairs(metadata: Any) -> str:
    return " ".join(f"{k}={v}" for k, v in sorted(metadata.items()))


# ---- show ------------------------------------------------------------------------------------------------------------


@connected
def show(connection: Connection, ns: NamespaceName, version: OneVersion = None, as_json: Json = False) -> None:
    """Show one version and what was proved of its matrices."""
    from sfm_grpc.cli import output

    with connection.open() as client:
        namespace = client.namespace(ns)
        snapshot = namespace.describe(version)
        commit = _find(namespace, snapshot.version)
    if as_json:
        output.print_json(_shown(connection.tenant, snapshot, commit))
        return
    print(f"{output.clean(ns)} version {snapshot.version}")
    output.print_facts(_commit_facts(snapshot, commit))
    print()
    print_certificates({key: (c, snapshot.put_versions[key]) for key, c in snapshot.certificates.items()})


def _find(namespace: Namespace, version: int) -> RhoVersion | None:
    """What the list says of a version; None when retention has just taken it."""
    return next((v for v in namespace.versions() if v.version <= version), None)


def _shown(tenant: str, snapshot: Snapshot, commit: RhoVersion | None) -> dict[str, object]:
    matrices = [
        {"key": key, "put_version": snapshot.put_versions[key], "certificate": c} for key, c in snapshot.certificates.items()
    ]
    return {
        "namespace": snapshot.namespace,
        "tenant": tenant,
        "version": snapshot.version,
        "commit_time": snapshot.commit_time,
        "committer": commit.committer if commit else "",
        "metadata": commit.metadata if commit else {},
        "restored_version": commit.restored_version if commit else 0,
        "changed_keys": commit.changed_keys if commit else [],
        "matrices": matrices,
    }


def _commit_facts(snapshot: Snapshot, commit: RhoVersion | None) -> Iterator[tuple[str, Any]]:
    from sfm_grpc.cli import output

    by = f" by {commit.committer}" if commit and commit.committer else ""
    yield "committed", f"{output.time_of(snapshot.commit_time)}{by} ({output.ago(snapshot.commit_time)} ago)"
    if commit and commit.restored_version:
        yield "restored", f"version {commit.restored_version}"
    elif commit:
        yield "changed", ", ".join(commit.changed_keys)
    if commit and commit.metadata:
        yield "metadata", _pairs(commit.metadata)


def print_certificates(found: dict[str, tuple[Certificate, int]]) -> None:
    """What each key is and what was proved of it; `found`: key → certificate and the version that put it."""
    from sfm_grpc.cli import output

    columns = ("Key", "Matrix", "Valid", "λ_min ≥ >", "Proof", "|tr ρ − 1| >", "‖ρ − ρᵀ‖_F >", "Clamped >", "Put by >", "SHA-256")
    output.print_table(columns, (_certificate_row(key, c, put) for key, (c, put) in found.items()))


def _certificate_row(key: str, c: Certificate, put_version: int) -> tuple[Any, ...]:
    from sfm_grpc.cli import output

    density = c.kind.name == "DENSITY"
    return (
        key,
        matrix_words(c),
        output.marked(c.valid, "yes", "NO"),
        output.small(c.min_eigenvalue_bound) if density else "",
        c.psd_method.name.lower() if density else "",
        output.small(c.trace_error) if density else "",
        output.small(c.asymmetry) if density else "",
        output.small(c.clamped_mass) if c.clamped else "no",
        put_version,
        c.digest.hex()[:16],
    )


def matrix_words(c: Certificate) -> str:
    """`density 384×384 float64`, `density factor 64×384 float32`."""
    factor = " factor" if c.layout.name == "FACTOR" else ""
    return f"{c.kind.name.lower()}{factor} {c.shape[0]}×{c.shape[1]} {c.dtype.label}"


# ---- diff ------------------------------------------------------------------------------------------------------------


@connected
def diff(
    connection: Connection,
    *,
    ns: NamespaceName,
    v1: Annotated[int, typer.Argument(metavar="V1", min=1, help="A version.", show_default=False)],
    v2: Annotated[
        int | None, typer.Argument(metavar="V2", min=1, help="Another one; default: the newest.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Say how far apart two versions are.

    Trace distance, fidelity and ‖Δ‖_F; purity and entropy of both. Everything is computed here, from the numbers; the server
    only stores them. Entropies are in nats.
    """
    from sfm_grpc.cli import compare, output

    with connection.open() as client:
        namespace = client.namespace(ns)
        before, after = namespace.read(version=v1), namespace.read(version=v2)
    found = compare.snapshots(before, after)
    if as_json:
        output.print_json(
            {"namespace": ns, "tenant": connection.tenant, "v1": before.version, "v2": after.version, "keys": found}
        )
        return
    print(f"{output.clean(ns)}: version {before.version} → {after.version}")
    columns = ("Key", "Change", "Trace distance >", "Fidelity >", "‖Δ‖_F >", "Purity >", "Entropy >")
    output.print_table(columns, map(compare.row, found))


# ---- restore ---------------------------------------------------------------------------------------------------------


@connected
def restore(
    connection: Connection,
    *,
    ns: NamespaceName,
    version: Annotated[
        str, typer.Argument(metavar="VERSION|last-valid", help="What becomes the newest again.", show_default=False)
    ],
    expected_version: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Only if this is the newest version; default: the one you are asked about."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Make an earlier version the newest again, as a new commit.

    last-valid is the newest one whose certificates are valid and whose numbers match their digests.
    """
    from sfm_grpc.cli import output

    target = _target(version)
    with connection.open() as client:
        namespace = client.namespace(ns)
        expected = expected_version or namespace.describe().version
        question = f"{ns} is at version {expected}. Make version {expected + 1} of {_words(target)}?"
        ask(question, yes=yes, what="restore changes the namespace")
        done = namespace.restore("last_valid" if target is None else target, expected_version=expected)
    if as_json:
        output.print_json(done)
        return
    print(f"{output.clean(ns)} is at version {done.version}, which holds what version {done.restored_version} held")
    print_certificates({e.key: (e.certificate, e.put_version) for e in done.entries})


def _target(version: str) -> int | None:
    """The number; None: last-valid. Raises CommandError."""
    if version.replace("_", "-").lower() == "last-valid":
        return None
    if not version.isascii() or not version.isdigit() or int(version) < 1:
        raise CommandError(f"{version!r} is neither a version nor last-valid")
    return int(version)


def _words(target: int | None) -> str:
    return "the newest one that is valid and whole" if target is None else f"version {target}"
