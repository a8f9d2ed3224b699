"""What probes, scrapers and people ask: grpc.health.v1, the HTTP port, reflection, ServerInfo."""

from __future__ import annotations

import asyncio

import grpc
import httpx
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2 as probe_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from sfm.v1 import errors_pb2, health_pb2, rho_store_pb2

from sfm_grpc.errors import BY_REASON
from sfm_grpc.version import __version__
from tests.support.drivers import Put
from tests.support.matrices import density, with_eigenvalue
from tests.support.messages import commit_of, seed
from tests.support.metrics import sample, samples
from tests.support.refusals import refused
from tests.support.servers import Server

SERVING = probe_pb2.HealthCheckResponse.SERVING
SERVICES = {f"sfm.v1.{name}" for name in ("RhoStore", "MemoryStore", "Events", "Pruner", "Health")}
NAMES = {"", "liveness", "readiness", "startup", "rho", *SERVICES}
WITH_HTTP = pytest.mark.settings(http_listen="127.0.0.1:0")

# ---- grpc.health.v1 ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(NAMES))
async def test_every_name_can_be_checked_and_watched(server: Server, name: str) -> None:
    request = probe_pb2.HealthCheckRequest(service=name)
    assert (await server.probe.Check(request)).status == SERVING
    watch = server.probe.Watch(request)
    assert (await watch.read()).status == SERVING
    watch.cancel()


async def test_all_names_can_be_listed(server: Server) -> None:
    # The stubs of older releases lack this RPC, the protocol does not.
    call = server.channel.unary_unary("/grpc.health.v1.Health/List")
    listed = probe_pb2.HealthListResponse.FromString(await call(b""))
    assert {name: found.status for name, found in listed.statuses.items()} == dict.fromkeys(NAMES, SERVING)


async def test_an_unknown_name_is_not_found(server: Server) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await server.probe.Check(probe_pb2.HealthCheckRequest(service="nobody"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    watch = server.probe.Watch(probe_pb2.HealthCheckRequest(service="nobody"))
    assert (await watch.read()).status == probe_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()


# ---- HTTP --------------------------------------------------------------------------------------------------------------


@WITH_HTTP
async def test_healthz_without_any_rho_is_ok_at_version_0(server: Server) -> None:
    response = await server.http("/healthz")
    told = response.json()
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    assert (told["ok"], told["psd_ok"], told["trace_error"]) == (True, True, 0.0)
    assert told["rho"] == {"psd_ok": True, "trace_error": 0.0, "sample_version": 0}
    assert (told["ready"], told["degraded"], told["namespaces"], told["problems"]) == (True, False, 0, [])


@WITH_HTTP
async def test_healthz_tells_the_worst_in_both_shapes(server: Server) -> None:
    await server.rho.CommitRho(commit_of(Put("rho", density() * (1 + 5e-7)), namespace="a"))
    await server.rho.CommitRho(commit_of(Put("rho", density()), namespace="b"))
    told = (await server.http("/healthz")).json()
    assert (told["ok"], told["psd_ok"]) == (True, True)
    assert told["trace_error"] == pytest.approx(5e-7, rel=1e-6)
    assert told["rho"] == {"psd_ok": True, "trace_error": told["trace_error"], "sample_version": 1}
    assert set(told["latency"]) == {"read", "commit"}
    assert told["latency"]["commit"]["count"] == 2
    assert told["version"] == __version__


@WITH_HTTP
async def test_livez_readyz_and_the_page_answer(server: Server) -> None:
    assert [(await server.http(p)).text for p in ("/livez", "/readyz")] == ["ok\n", "ok\n"]
    await server.rho.CommitRho(commit_of(Put("rho", density()), namespace="<script>&"))
    page = await server.http("/")
    assert page.status_code == 200
    assert "&lt;script&gt;&amp;" in page.text
    assert "<script>" not in page.text
    assert server.app.address in page.text


@WITH_HTTP
async def test_other_paths_are_not_found_and_other_methods_not_allowed(server: Server) -> None:
    assert (await server.http("/secrets")).status_code == 404
    async with httpx.AsyncClient() as client:
        assert (await client.post(f"http://{server.app.http_address}/healthz")).status_code == 405


# ---- metrics -----------------------------------------------------------------------------------------------------------


@WITH_HTTP
async def test_metrics_have_the_given_names_and_the_edge_at_60_ms(server: Server) -> None:
    await seed(server.rho)
    await server.rho.GetRho(rho_store_pb2.GetRhoRequest(namespace="n"))
    found = await samples(server)
    bare = frozenset[tuple[str, str]]()
    assert found["somabrain_rho_psd_ok", bare] == 1.0
    assert 0 <= found["somabrain_rho_trace_norm_error", bare] < 1e-12
    assert found["somabrain_rho_degraded_mode", bare] == 0.0
    labels = {("grpc_service", "sfm.v1.RhoStore"), ("grpc_method", "GetRho")}
    assert found["grpc_server_started_total", frozenset(labels)] == 1.0
    assert found["grpc_server_handled_total", frozenset(labels | {("grpc_code", "OK")})] == 1.0
    assert found["grpc_server_handling_seconds_bucket", frozenset(labels | {("le", "0.06")})] == 1.0
    assert found["sfm_ready", bare] == 1.0


@WITH_HTTP
async def test_labels_do_not_grow_with_what_callers_name(server: Server) -> None:
    await seed(server.rho, "first")
    before = await samples(server)
    for place in range(5):
        await seed(server.rho, f"n{place}")
        await refused(server.rho.GetRho(rho_store_pb2.GetRhoRequest(namespace=f"absent-{place}")))
    after = await samples(server)
    assert not any("n3" in value or "absent" in value for _, labels in after for _, value in labels)
    # One method and one status that were not there before: started, handled, its buckets, the reason.
    assert len(after) - len(before) < 40


@WITH_HTTP
async def test_what_happens_is_counted(server: Server) -> None:
    await seed(server.rho)
    await server.rho.CommitRho(commit_of(Put("rho", with_eigenvalue(-5e-9)), expected=1))
    await refused(server.rho.CommitRho(commit_of(Put("rho", density()), expected=0)))
    await refused(server.rho.CommitRho(commit_of(Put("rho", with_eigenvalue(-0.1)), expected=2)))
    await server.rho.GetRho(rho_store_pb2.GetRhoRequest(namespace="n"))
    await server.rho.GetRho(rho_store_pb2.GetRhoRequest(namespace="n", freshness={"consistency": 2}))
    assert await sample(server, "sfm_rho_commits_total") == 2.0
    assert await sample(server, "sfm_rho_clamped_total") == 1.0
    assert await sample(server, "sfm_rho_namespaces") == 1.0
    assert await sample(server, "sfm_errors_total", reason="VERSION_CONFLICT") == 1.0
    assert await sample(server, "sfm_errors_total", reason="RHO_NOT_PSD") == 1.0
    assert await sample(server, "sfm_rho_reads_total", source="cache") == 1.0
    assert await sample(server, "sfm_rho_reads_total", source="canonical") == 1.0
    assert await sample(server, "sfm_rho_commit_bytes_count") == 2.0
    assert await sample(server, "sfm_rho_step_count") == 1.0


@WITH_HTTP
async def test_openmetrics_is_spoken_to_who_asks_for_it(server: Server) -> None:
    response = await server.http("/metrics", accept="application/openmetrics-text; version=1.0.0")
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert response.text.endswith("# EOF\n")


@WITH_HTTP
async def test_the_measured_p95_is_part_of_health(server: Server) -> None:
    await seed(server.rho)
    for _ in range(3):
        await server.rho.GetRho(rho_store_pb2.GetRhoRequest(namespace="n"))
    found = {r.operation: r for r in (await server.health.GetHealth(health_pb2.GetHealthRequest())).latencies}
    assert {name: (r.count, r.bound.ToMilliseconds()) for name, r in found.items()} == {"read": (3, 60), "commit": (1, 60)}
    assert found["read"].p95.ToMicroseconds() > 0
    assert found["read"].ok == (found["read"].p95.ToMilliseconds() <= 60)
    assert await sample(server, "sfm_latency_p95_seconds", operation="read") == pytest.approx(
        found["read"].p95.ToNanoseconds() / 1e9, abs=1e-9
    )


# ---- what the server says of itself ------------------------------------------------------------------------------------


@pytest.mark.settings(dimension_max=77, page_size_max=9, rho_epsilon=1e-7, node_id="node-7", rho_enforcement="observe")
async def test_server_info_publishes_the_limits_that_are_enforced(server: Server) -> None:
    info = await server.health.GetServerInfo(health_pb2.GetServerInfoRequest())
    limits = {limit.name: limit.value for limit in info.limits}
    assert limits == server.settings.limits
    assert (limits["dimension_max"], limits["page_size_max"]) == (77, 9)
    assert (info.version, info.store, info.index, info.node_id, info.rho_enforcement) == (
        __version__,
        server.app.store.name,
        "qdrant-edge",
        "node-7",
        "observe",
    )
    assert (info.epsilon, info.trace_tolerance) == (1e-7, 1e-6)
    assert set(info.services) == SERVICES
    refusal = await refused(server.rho.CommitRho(commit_of(Put("rho", density(78)))))
    assert "77" in refusal.message


async def test_reflection_lists_every_service_and_hands_out_the_contract(server: Server) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(server.channel)
    Request = reflection_pb2.ServerReflectionRequest
    stream = stub.ServerReflectionInfo()
    await stream.write(Request(list_services=""))
    listed = {s.name for s in (await stream.read()).list_services_response.service}
    assert listed == {
        *SERVICES,
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    for symbol in ("sfm.v1.RhoStore", "sfm.v1.RhoStore.GetRho", "sfm.v1.GetRhoRequest.namespace"):
        await stream.write(Request(file_containing_symbol=symbol))
        answer = (await stream.read()).file_descriptor_response
        assert "sfm/v1/rho_store.proto" in {FileDescriptorProto.FromString(f).name for f in answer.file_descriptor_proto}
    await stream.write(Request(file_containing_symbol="sfm.v1.Nothing.AtAll"))
    assert (await stream.read()).error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
    await stream.done_writing()


async def test_the_contract_lists_exactly_the_reasons_that_exist(server: Server) -> None:
    listed = {name.removeprefix("ERROR_REASON_") for name in errors_pb2.ErrorReason.DESCRIPTOR.values_by_name} - {"UNSPECIFIED"}
    assert listed == set(BY_REASON)


# ---- request ids -------------------------------------------------------------------------------------------------------


async def test_the_callers_request_id_is_echoed_with_an_error(server: Server) -> None:
    call = server.rho.GetRho(rho_store_pb2.GetRhoRequest(namespace="absent"), metadata=[("x-request-id", "trace-42")])
    assert (await refused(call)).request_id == "trace-42"


@pytest.mark.parametrize("given", ["", "x" * 129])
async def test_a_request_id_that_cannot_be_logged_is_replaced(server: Server, given: str) -> None:
    metadata = [("x-request-id", given)] if given else []
    ids = set()
    for _ in range(2):
        refusal = await refused(server.rho.GetRho(rho_store_pb2.GetRhoRequest(namespace="absent"), metadata=metadata))
        ids.add(refusal.request_id)
    assert len(ids) == 2
    assert all(len(i) == 16 for i in ids)


async def test_many_channels_are_served_at_once(server: Server) -> None:
    await seed(server.rho)

    async def ask() -> int:
        async with grpc.aio.insecure_channel(server.app.address) as channel:
            call = channel.unary_unary("/sfm.v1.RhoStore/GetRho", response_deserializer=rho_store_pb2.GetRhoResponse.FromString)
            return int((await call(rho_store_pb2.GetRhoRequest(namespace="n").SerializeToString())).version)

    assert await asyncio.gather(*(ask() for _ in range(20))) == [1] * 20
