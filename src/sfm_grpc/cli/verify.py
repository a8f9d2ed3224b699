"""`sfm rho verify` and `sfm verify-export`: the server's claims, checked with numpy alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfm_grpc.cli.connection import Connection, Json, connected
from sfm_grpc.cli.exits import CommandError, Exit
from sfm_grpc.cli.rho_history import NamespaceName, OneVersion, matrix_words

if TYPE_CHECKING:
    from sfm_grpc.cli.bodies import Body
    from sfm_grpc.cli.export_check import Found, KeySummary
    from sfm_grpc.cli.history import Wrong
    from sfm_grpc.cli.measure import Bounds, Measured
    from sfm_grpc.client import Namespace, RhoVersion

Epsilon = Annotated[float | None, typer.Option(min=0, metavar="X", help="Require λ_min ≥ −X; default: each certificate's bound.")]
TraceTolerance = Annotated[
    float | None, typer.Option(min=0, metavar="X", help="Require |tr ρ − 1| ≤ X; default: each certificate's bound.")
]


@connected
def verify(
    connection: Connection,
    *,
    ns: NamespaceName,
    version: OneVersion = None,
    every: Annotated[
        bool, typer.Option("--all", help="Every version that is kept, and that each follows from the one before.")
    ] = False,
    epsilon: Epsilon = None,
    trace_tolerance: TraceTolerance = None,
    as_json: Json = False,
) -> None:
    """Fetch the numbers and check them here, trusting no server.

    SHA-256, math.fsum and numpy.linalg.eigvalsh are run on the numbers that came: digest, finite, Hermitian, trace, and λ_min
    against the certificate's bound.     Exit code 1 when anything is wrong.
    """
    from sfm_grpc.cli.measure import Bounds

    if every and version is not None:
        raise CommandError("--all and --version exclude each other")
    bounds = Bounds(epsilon, trace_tolerance)
    with connection.open() as client:
        namespace = client.namespace(ns)
        checks, wrong, versions = _verify_all(namespace, bounds) if every else _verify_one(namespace, version, bounds)
    if as_json:
        _print_verified_json(connection.tenant, ns, versions, checks, wrong)
    else:
        _print_verified(ns, versions, checks, wrong)
    if wrong:
        raise typer.Exit(Exit.WRONG)


_Checks = list[tuple["Body", "Measured | None", list[str]]]


def _verify_all(namespace: Namespace, bounds: Bounds) -> tuple[_Checks, list[Wrong], list[int]]:
    from sfm_grpc.cli.bodies import all_versions
    from sfm_grpc.cli.history import check_history

    versions = all_versions(namespace)
    checks, wrong = _check_bodies(namespace, versions, bounds)
    return checks, [*wrong, *check_history(versions)], [v.version for v in versions]


def _verify_one(namespace: Namespace, number: int | None, bounds: Bounds) -> tuple[_Checks, list[Wrong], list[int]]:
    from sfm_grpc.client import Entry, RhoVersion

    told = namespace.describe(number)
    entries = tuple(Entry(key, c, told.put_versions[key]) for key, c in told.certificates.items())
    version = RhoVersion(told.version, told.commit_time, "", {}, all(e.certificate.valid for e in entries), 0, entries, ())
    checks, wrong = _check_bodies(namespace, [version], bounds)
    return checks, wrong, [told.version]


def _check_bodies(namespace: Namespace, versions: Sequence[RhoVersion], bounds: Bounds) -> tuple[_Checks, list[Wrong]]:
    from sfm_grpc.cli import bodies, output
    from sfm_grpc.cli.history import Wrong

    checks: _Checks = []
    wrong: list[Wrong] = []
    with output.progress("matrices", bodies.distinct(versions)) as advance:
        for body in bodies.fetch_bodies(namespace, versions):
            if isinstance(body, bodies.Gone):
                # As retention says; a version that was asked for by number and is gone was refused before.
                continue
            measured, problems = _check(body, bounds)
            checks.append((body, measured, problems))
            wrong += (Wrong(problem, body.version, body.entry.key) for problem in problems)
            advance()
    return checks, wrong


def _check(body: Body, bounds: Bounds) -> tuple[Measured | None, list[str]]:
    from sfm_grpc.cli.measure import measure, problems_of

    if body.array is None:
        return None, [body.problem]
    claimed = body.entry.certificate
    measured = measure(body.array, claimed.kind, claimed.layout)
    return measured, problems_of(measured, body.array.shape, claimed, bounds)


def _print_verified_json(tenant: str, ns: str, versions: list[int], checks: _Checks, wrong: list[Wrong]) -> None:
    from sfm_grpc.cli import output

    matrices = [
        {"version": b.version, "key": b.entry.key, "certificate": b.entry.certificate, "measured": m, "problems": p}
        for b, m, p in checks
    ]
    output.print_json(
        {"namespace": ns, "tenant": tenant, "ok": not wrong, "versions": versions, "matrices": matrices, "wrong": wrong}
    )


def _print_verified(ns: str, versions: list[int], checks: _Checks, wrong: list[Wrong]) -> None:
    from sfm_grpc.cli import output

    columns = ("Version >", "Key", "Matrix", "Verdict", "λ_min >", "certified ≥ >", "|tr ρ − 1| >", "‖ρ − ρᵀ‖_F >", "SHA-256")
    output.print_table(columns, (_verified_row(*check) for check in checks))
    count = "1 version" if len(versions) == 1 else f"{len(versions)} versions"
    matrices = "1 matrix" if len(checks) == 1 else f"{len(checks)} distinct matrices"
    _print_verdict(f"{output.clean(ns)}: {count}, {matrices}", wrong)


def _verified_row(body: Body, measured: Measured | None, problems: list[str]) -> tuple[Any, ...]:
    from sfm_grpc.cli import output

    c = body.entry.certificate
    numbers: tuple[Any, ...] = ("", "", "", "")
    if measured is not None and measured.finite and c.kind.name == "DENSITY":
        values = (measured.min_eigenvalue, c.min_eigenvalue_bound, measured.trace_error, measured.asymmetry)
        numbers = tuple(map(output.small, values))
    verdict = output.marked(not problems, "ok", "WRONG")
    return (body.version, body.entry.key, matrix_words(c), verdict, *numbers, c.digest.hex()[:16])


def _print_verdict(subject: str, wrong: Sequence[Wrong]) -> None:
    from sfm_grpc.cli import output

    if not wrong:
        print(f"{subject}: everything is as certified")
        return
    print(f"{subject}: {len(wrong)} thing{'s are' if len(wrong) > 1 else ' is'} wrong")
    for one in wrong:
        print(f"  {output.clean(one)}")


# ---- an exported history ---------------------------------------------------------------------------------------------


def verify_export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `sfm rho export` wrote.", show_default=False)],
    epsilon: Epsilon = None,
    trace_tolerance: TraceTolerance = None,
    as_json: Json = False,
) -> None:
    """Check an exported history without any server.

    Numbers (with numpy alone), digests, certificates, and that every version follows from the one before. Exit code 1 when
    anything is wrong, with the list of what.
    """
    from sfm_grpc.cli import output
    from sfm_grpc.cli.export_check import check_export
    from sfm_grpc.cli.measure import Bounds

    found = check_export(file, Bounds(epsilon, trace_tolerance))
    if as_json:
        output.print_json(_found_json(file, found))
    else:
        _print_found(file, found)
    if found.wrong:
        raise typer.Exit(Exit.WRONG)


def _found_json(file: Path, found: Found) -> dict[str, object]:
    return {
        "file": str(file),
        "ok": not found.wrong,
        "header": found.header,
        "versions": [v.version for v in found.versions],
        "bodies": found.bodies,
        "keys": found.keys,
        "wrong": found.wrong,
    }


def _print_found(file: Path, found: Found) -> None:
    from sfm_grpc.cli import output

    columns = ("Key", "Versions >", "Matrices >", "smallest λ_min >", "certified ≥ >", "largest |tr ρ − 1| >", "‖ρ − ρᵀ‖_F >")
    output.print_table(columns, (_summary_row(key, summary) for key, summary in found.keys.items()))
    name = found.header.get("namespace", "")
    span = f"versions {found.versions[0].version} to {found.versions[-1].version}" if found.versions else "no versions"
    _print_verdict(f"{output.clean(file)}: {output.clean(name)}, {span}, {found.bodies} distinct matrices", found.wrong)


def _summary_row(key: str, s: KeySummary) -> tuple[Any, ...]:
    from sfm_grpc.cli import output

    if s.min_eigenvalue is None or s.min_eigenvalue_bound is None:
        return (key, s.versions, s.matrices, "", "", "", "")
    numbers = (s.min_eigenvalue, s.min_eigenvalue_bound, s.trace_error, s.asymmetry)
    return (key, s.versions, s.matrices, *map(output.small, numbers))
