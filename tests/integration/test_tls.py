"""TLS on the gRPC port, with certificates made for these tests."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from sfm.v1 import rho_store_pb2, rho_store_pb2_grpc

from sfm_grpc.settings import ConfigError
from tests.support.drivers import Put
from tests.support.matrices import density
from tests.support.messages import commit_of
from tests.support.servers import Server, settings_for

TLS = Path(__file__).parents[1] / "support" / "tls"
PAIR = {"tls_cert_file": TLS / "server.pem", "tls_key_file": TLS / "server.key"}
AUTHORITY = (TLS / "ca.pem").read_bytes()


async def commit_over(server: Server, credentials: grpc.ChannelCredentials) -> int:
    async with grpc.aio.secure_channel(server.app.address, credentials) as channel:
        stub = rho_store_pb2_grpc.RhoStoreStub(channel)
        return int((await stub.CommitRho(commit_of(Put("rho", density())), timeout=10)).version)


@pytest.mark.settings(**PAIR)
async def test_a_client_that_knows_the_authority_is_served(server: Server) -> None:
    assert await commit_over(server, grpc.ssl_channel_credentials(AUTHORITY)) == 1


@pytest.mark.settings(**PAIR)
async def test_a_client_without_tls_or_with_another_authority_is_not(server: Server) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await server.rho.GetRho(rho_store_pb2.GetRhoRequest(namespace="n"), timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await commit_over(server, grpc.ssl_channel_credentials((TLS / "client.pem").read_bytes()))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.settings(**PAIR, tls_client_ca_file=TLS / "ca.pem")
async def test_where_clients_must_show_a_certificate_only_those_that_do_are_served(server: Server) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await commit_over(server, grpc.ssl_channel_credentials(AUTHORITY))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    shown = grpc.ssl_channel_credentials(AUTHORITY, (TLS / "client.key").read_bytes(), (TLS / "client.pem").read_bytes())
    assert await commit_over(server, shown) == 1


def test_beyond_loopback_tls_is_required_unless_insecure_is_said() -> None:
    for listen in ("0.0.0.0:50051", "[::]:50051", "10.1.2.3:1", "db.example.com:443"):
        with pytest.raises(ConfigError, match="beyond loopback, without TLS: set SFM_TLS_CERT_FILE"):
            settings_for(listen=listen)
        assert settings_for(listen=listen, **PAIR).listen == listen
        assert settings_for(listen=listen, insecure=True).listen == listen
