"""`sfm status` for people, `sfm healthcheck` for containers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfm_grpc.cli.connection import Connection, Json, connected
from sfm_grpc.cli.exits import Exit

if TYPE_CHECKING:
    from sfm_grpc.client import HealthReport, RhoHealth, ServerInfo


@connected
def status(
    connection: Connection,
    namespace: Annotated[str, typer.Option(help="Only this namespace, of any tenant; default: the worst ones.")] = "",
    limits: Annotated[bool, typer.Option("--limits", help="Show the limits the server enforces, too.")] = False,
    as_json: Json = False,
) -> None:
    """Show how the server and every ρ on it are.

    Exit code 1 when something is wrong, 3 when there is no answer.
    """
    from sfm_grpc.cli import output

    with connection.open() as client:
        health, info = client.health(namespace), client.server_info()
    if as_json:
        output.print_json({"target": connection.target, "ok": health.ok, "health": health, "server": info})
    else:
        _print(connection.target, health, info, limits=limits, namespace=namespace)
    if not health.ok:
        raise typer.Exit(Exit.WRONG)


def _print(target: str, health: HealthReport, info: ServerInfo, *, limits: bool, namespace: str) -> None:
    from sfm_grpc.cli import output

    print(f"sfm-grpc {info.version} at {target}")
    output.print_facts(_facts(health, info))
    if health.rho:
        print()
        columns = ("Tenant", "Namespace", "Version >", "ρ ~", "λ_min ≥ >", "|tr ρ − 1| >", "Re-verified")
        output.print_table(columns, (_rho_row(r) for r in health.rho))
        if not namespace and health.namespaces > len(health.rho):
            print(f"… and {health.namespaces - len(health.rho)} more; --namespace shows one of them")
    elif namespace:
        print(f"\nNo namespace {output.clean(namespace)!r}.")
    if limits:
        print()
        output.print_table(("Limit", "Value >"), ((k, f"{v:,}") for k, v in info.limits.items()))


def _facts(health: HealthReport, info: ServerInfo) -> Iterator[tuple[str, Any]]:
    from sfm_grpc.cli import output

    yield "ok", output.marked(health.ok, "yes", "NO")
    yield "serving", output.marked(health.ready, f"yes, for {output.ago(health.start_time)}", "NO: not ready")
    for part in health.components:
        yield part.name, output.marked(part.ok, part.detail, f"NO: {part.detail}")
    yield "ρ", output.marked(health.psd_ok, *_psd(health))
    trace = f"largest |tr ρ − 1| is {output.small(health.trace_error)} (tolerance {output.small(info.trace_tolerance)})"
    yield "trace", output.marked(health.trace_ok, trace, f"NO: {trace}")
    yield "reads", output.marked(not health.degraded, "from memory where possible", "DEGRADED: without the fast path")
    for latency in health.latencies:
        yield f"{latency.operation} p95", _latency(latency)
    yield "re-verified", f"{health.verifications} stored matrices since the start"
    yield "enforcement", f"{info.rho_enforcement}, epsilon {output.small(info.epsilon)}"
    yield "node", info.node_id


def _psd(health: HealthReport) -> tuple[str, str]:
    if not health.namespaces:
        return ("no ρ yet", "no ρ yet")
    where = "the one namespace" if health.namespaces == 1 else f"{health.namespaces} namespaces"
    return f"positive semi-definite in {where}", f"NO: wrong somewhere in {where}"


def _latency(latency: Any) -> Any:
    from sfm_grpc.cli import output

    if not latency.count:
        return f"no calls in the last {output.lasting(latency.window_s)}"
    text = f"{latency.p95_s * 1e3:.2f} ms over {latency.count} calls (bound {latency.bound_s * 1e3:g} ms)"
    return output.marked(latency.ok, text, f"OVER: {text}")


def _rho_row(rho: RhoHealth) -> tuple[object, ...]:
    from sfm_grpc.cli import output

    ok = rho.psd_ok and rho.trace_ok and not rho.corrupt
    return (
        rho.tenant,
        rho.namespace,
        rho.version,
        output.marked(ok, "valid", rho.problem or "wrong"),
        output.small(rho.min_eigenvalue_bound) if rho.certificate else "",
        output.small(rho.trace_error) if rho.certificate else "",
        f"{output.ago(rho.verify_time)} ago" if rho.verify_time else "not yet",
    )


@connected
def healthcheck(
    connection: Connection,
    service: Annotated[
        str, typer.Option(help="readiness, liveness, startup, rho, '' or a full service name such as sfm.v1.RhoStore.")
    ] = "readiness",
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say on stderr what the answer was.")] = False,
) -> None:
    """Ask grpc.health.v1, for a container's probe.

    Prints nothing; the exit code is the answer: 0 serving, 1 not serving, 3 no answer, 4 no such service.
    """
    answer, code = _check(connection, service)
    if verbose:
        from sfm_grpc.cli import output

        output.say(f"{service or 'server'}: {answer}")
    raise typer.Exit(code)


def _check(connection: Connection, service: str) -> tuple[str, Exit]:
    """One Check with grpc alone: no numpy, no client."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with _channel(connection) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            found = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=connection.timeout)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            gone = code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
            return f"{code.name} {error.details()}".strip(), Exit.UNREACHABLE if gone else Exit.REFUSED
    name = health_pb2.HealthCheckResponse.ServingStatus.Name(found.status)
    return name, Exit.OK if found.status == health_pb2.HealthCheckResponse.SERVING else Exit.WRONG


def _channel(connection: Connection) -> Any:
    import grpc

    tls = connection.credentials()
    # A proxy of the environment is not meant for probes.
    options = (("grpc.enable_http_proxy", 0),)
    if tls is None:
        return grpc.insecure_channel(connection.target, options)
    return grpc.secure_channel(connection.target, tls.credentials(), options)
