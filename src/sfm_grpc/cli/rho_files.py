"""`sfm rho get`, `commit` and `export`: numbers between the server and local files."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfm_grpc.cli.connection import Connection, Json, connected, repeatable
from sfm_grpc.cli.exits import CommandError, Exit
from sfm_grpc.cli.rho_history import NamespaceName, OneVersion, matrix_words

if TYPE_CHECKING:
    from sfm_grpc.cli.export import Exported
    from sfm_grpc.client import Commit, Namespace, Snapshot

Output = Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where to; replaced when all of it is written.")]
KeyValues = Annotated[
    list[str] | None, typer.Option(metavar="KEY=VALUE", help="A fact to keep with the version; may be repeated.")
]


# ---- get -------------------------------------------------------------------------------------------------------------


@connected
def get(
    connection: Connection,
    *,
    ns: NamespaceName,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="FILE.npy, .npz, .sfm (envelope) or .json (envelope).")
    ],
    key: Annotated[
        str | None, typer.Argument(metavar="KEY", help="Which matrix; default: rho, or all of them into a .npz.")
    ] = None,
    version: OneVersion = None,
    dense: Annotated[bool, typer.Option("--dense", help="Write ρ = SᵀS/‖S‖²_F where a factor S is stored.")] = False,
    as_json: Json = False,
) -> None:
    """Fetch numbers, bit for bit, into a file."""
    from sfm_grpc.cli import files
    from sfm_grpc.cli.output import print_json

    files.check_suffix(output)
    if key is None and output.suffix.lower() != ".npz":
        key = "rho"
    with connection.open() as client:
        snapshot = client.namespace(ns).read(key, version=version)
    snapshot.verify()
    files.write_matrices(output, snapshot, dense=dense)
    if as_json:
        print_json({"namespace": ns, "version": snapshot.version, "file": str(output), "matrices": snapshot.certificates})
    else:
        _print_got(snapshot, output, dense=dense)


def _print_got(snapshot: Snapshot, file: Path, *, dense: bool) -> None:
    from sfm_grpc.cli.output import clean, size_of

    print(f"{clean(snapshot.namespace)} version {snapshot.version} is in {clean(file)}, {size_of(file.stat().st_size)}")
    for key, c in snapshot.certificates.items():
        factor = c.layout.name == "FACTOR"
        note = (
            ", written as ρ" if dense else ", written as S: --factor commits it again" if file.suffix in (".npy", ".npz") else ""
        )
        print(f"  {clean(key)}: {matrix_words(c)}{note if factor else ''}")


# ---- commit ----------------------------------------------------------------------------------------------------------


@connected
def commit(
    connection: Connection,
    *,
    ns: NamespaceName,
    expected_version: Annotated[
        str,
        typer.Option(
            metavar="N|current", help="The version you decided on; 0: nothing was committed yet; current: whatever it is."
        ),
    ],
    puts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=FILE", help=".npy, .npz, an envelope (binary, JSON) or the predecessor's JSON.", show_default=False
        ),
    ] = None,
    delete: Annotated[list[str] | None, typer.Option(metavar="KEY", help="Take KEY away; may be repeated.")] = None,
    factor: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="KEY's file holds a factor S (k×d), which means ρ = SᵀS/‖S‖²_F; may be repeated."),
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=density|generic", help="What KEY is, if it is new and not rho; may be repeated."),
    ] = None,
    meta: KeyValues = None,
    max_step: Annotated[float | None, typer.Option(metavar="X", help="Refuse when ‖new − old‖_F of a matrix is over X.")] = None,
    request_id: Annotated[
        str | None, typer.Option(metavar="ID", help="Repeat the commit that had this id, to learn whether it happened.")
    ] = None,
    validate_only: Annotated[bool, typer.Option("--validate-only", help="Run every check and record nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Commit matrices from files, all or none.

    Only if the namespace is still at the expected version (exit code 4 otherwise, with who was faster).
    """
    from sfm_grpc.cli import output

    changes = _changes(puts or [], delete or [], factor or [])
    kinds: Any = _pairs("--kind", kind or [])
    metadata = _pairs("--meta", meta or [])
    with connection.open() as client:
        namespace = client.namespace(ns)
        expected = _expected(namespace, expected_version)
        done = _send(namespace, changes, expected_version=expected, kinds=kinds, metadata=metadata, max_step=max_step,
                     request_id=request_id, validate_only=validate_only)  # fmt: skip
    if as_json:
        output.print_json({**output.plain(done), "validate_only": validate_only})
    else:
        _print_commit(done, validate_only=validate_only)


def _changes(puts: Sequence[str], deletes: Sequence[str], factors: Sequence[str]) -> dict[str, Any]:
    """Key → what becomes of it. Raises CommandError."""
    from sfm_grpc.cli.files import read_matrix

    named = _pairs("KEY=FILE", puts)
    if not named and not deletes:
        raise CommandError("nothing to commit: say KEY=FILE, or --delete KEY")
    if unknown := [key for key in factors if key not in named]:
        raise CommandError(f"--factor {unknown[0]}: there is no {unknown[0]}=FILE")
    if twice := [key for key in deletes if key in named or deletes.count(key) > 1]:
        raise CommandError(f"{twice[0]!r} is named twice")
    changes: dict[str, Any] = {key: read_matrix(Path(file), key, factor=key in factors) for key, file in named.items()}
    return changes | dict.fromkeys(deletes)


def _pairs(option: str, given: Sequence[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise CommandError(f"{text!r} is not {option}" if option == "KEY=FILE" else f"{option} {text!r}: write KEY=VALUE")
        if key in pairs:
            raise CommandError(f"{key!r} is named twice")
        pairs[key] = value
    return pairs


def _expected(namespace: Namespace, said: str) -> int | Snapshot:
    """What the caller decided on. A snapshot also tells what kind each key is."""
    from sfm_grpc.client import NotFound

    if said != "current" and not (said.isascii() and said.isdigit()):
        raise CommandError(f"--expected-version {said}: write a version, 0 or current")
    if said != "current":
        return int(said)
    try:
        return namespace.describe()
    except NotFound:
        return 0


def _send(namespace: Namespace, changes: dict[str, Any], **options: Any) -> Commit:
    """Commits; an error whose outcome is unknown says how to find out."""
    from sfm_grpc.client.flows import new_request_id

    options["request_id"] = options["request_id"] or new_request_id()
    with repeatable(options["request_id"], "committed"):
        return namespace.commit(changes, **options)


def _print_commit(done: Commit, *, validate_only: bool) -> None:
    from sfm_grpc.cli import output

    name = output.clean(done.namespace)
    if validate_only:
        print(f"valid: {name} would be at version {done.version}; nothing was recorded")
    elif done.replayed:
        print(f"{name} was committed as version {done.version} before, by this request; this is the first answer again")
    else:
        print(f"{name} is at version {done.version}")
    columns = ("Key", "Matrix", "Valid", "λ_min ≥ >", "|tr ρ − 1| >", "‖Δ‖_F >", "Clamped >", "SHA-256")
    output.print_table(columns, (_receipt_row(key, receipt) for key, receipt in done.receipts.items()))
    if any(r.clamped for r in done.receipts.values()):
        print("Clamped matrices are not the ones that were sent: read them back before using them.")


def _receipt_row(key: str, receipt: Any) -> tuple[Any, ...]:
    from sfm_grpc.cli import output

    c = receipt.certificate
    if c is None:
        return (key, "deleted", "", "", "", "", "", "")
    density = c.kind.name == "DENSITY"
    return (
        key,
        matrix_words(c),
        output.marked(c.valid, "yes", "NO"),
        output.small(c.min_eigenvalue_bound) if density else "",
        output.small(c.trace_error) if density else "",
        "" if receipt.step is None else f"{receipt.step:.6g}",
        output.small(c.clamped_mass) if receipt.clamped else "no",
        c.digest.hex()[:16],
    )


# ---- export ----------------------------------------------------------------------------------------------------------


@connected
def export(connection: Connection, ns: NamespaceName, output: Output, as_json: Json = False) -> None:
    """Write the history that is kept, numbers and all, into a file.

    JSON Lines with every certificate and each distinct matrix once, for `sfm verify-export` to check.
    Exit code 1 when the server could not read some of the numbers: the rest is written, and what is missing is named.
    """
    from sfm_grpc.cli.export import export_history
    from sfm_grpc.cli.files import is_special
    from sfm_grpc.cli.output import print_json, say

    with connection.open() as client:
        header = {"namespace": ns, "tenant": connection.tenant, "server": client.server_info().version}
        done = export_history(client.namespace(ns), output, header)
    first, last = (done.versions[0].version, done.versions[-1].version) if done.versions else (0, 0)
    # Into a pipe the history itself goes; what is said of it goes elsewhere.
    with redirect_stdout(sys.stderr if is_special(output) else sys.stdout):
        if as_json:
            facts = {"first": first, "last": last, "versions": len(done.versions), "bodies": done.bodies}
            print_json({"namespace": ns, "file": str(output), **facts, "gone": done.gone, "problems": done.problems})
        else:
            _print_exported(ns, output, first, last, done)
    for problem in done.problems:
        say(f"sfm: {problem}")
    if done.problems:
        raise typer.Exit(Exit.WRONG)


def _print_exported(ns: str, file: Path, first: int, last: int, done: Exported) -> None:
    from sfm_grpc.cli.output import clean

    print(f"{clean(ns)}: {len(done.versions)} versions ({first} to {last}), {done.bodies} distinct matrices")
    print(f"written to {clean(file)}; check it with: sfm verify-export {clean(file)}")
    if done.gone:
        print(f"{done.gone} versions went meanwhile, as retention says, and are not in it.")
