"""A stand-in for a Qdrant server; `qdrant_process` is its process.

It speaks Qdrant's own gRPC interface, by the stubs that come with qdrant-client, and knows of it what our index says. What it is
told is done by Qdrant's own engine, a shard for each collection: filters, scores and refusals are real. It is no cluster.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import qdrant_client.grpc as wire
import qdrant_edge as engine
from qdrant_client.grpc.collections_service_pb2_grpc import CollectionsServicer, add_CollectionsServicer_to_server
from qdrant_client.grpc.points_service_pb2_grpc import PointsServicer, add_PointsServicer_to_server
from qdrant_client.grpc.qdrant_pb2_grpc import QdrantServicer, add_QdrantServicer_to_server

from tests.support.services import qdrant_translation as translation

_OK = wire.CollectionOperationResponse(result=True)
_COMPLETED = wire.PointsOperationResponse(result=wire.UpdateResult(status=wire.Completed))


def serve(directory: str, port: str, version: str, *key: str) -> None:
    """Until it is killed, on loopback."""
    server = grpc.server(ThreadPoolExecutor(8), interceptors=[_Guard(*key)], options=[("grpc.max_receive_message_length", -1)])
    shards = Shards(Path(directory))
    add_QdrantServicer_to_server(_Qdrant(version), server)
    add_CollectionsServicer_to_server(_Collections(shards), server)
    add_PointsServicer_to_server(_Points(shards), server)
    assert server.add_insecure_port(f"127.0.0.1:{port}"), f"port {port} is taken"
    server.start()
    server.wait_for_termination()


class _Guard(grpc.ServerInterceptor):
    """Asks for the API key, if there is one."""

    def __init__(self, key: str = "") -> None:
        self._key = key

    def intercept_service(self, go_on: Callable[..., Any], call: grpc.HandlerCallDetails) -> Any:
        if not self._key or dict(call.invocation_metadata).get("api-key") == self._key:
            return go_on(call)
        said = "Invalid API key or JWT" if "api-key" in dict(call.invocation_metadata) else "Must provide an API key"
        return grpc.unary_unary_rpc_method_handler(lambda _, c: c.abort(grpc.StatusCode.UNAUTHENTICATED, said))


class Shards:
    """Open shards by the names of their collections; those that are there are opened at once."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._changing = threading.Lock()
        self.open = {path.name: engine.EdgeShard.load(str(path)) for path in directory.iterdir()}

    def named(self, request: Any, context: grpc.ServicerContext) -> engine.EdgeShard:
        name = request.collection_name
        if name not in self.open:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Not found: Collection `{name}` doesn't exist!")
        return self.open[name]

    def create(self, name: str, config: engine.EdgeConfig) -> bool:
        """False: it is there."""
        with self._changing:
            if name in self.open:
                return False
            (self._directory / name).mkdir()
            self.open[name] = engine.EdgeShard.create(str(self._directory / name), config)
            return True

    def delete(self, name: str) -> bool:
        with self._changing:
            if name not in self.open:
                return False
            self.open.pop(name).close()
            shutil.rmtree(self._directory / name)
            return True


class _Qdrant(QdrantServicer):
    def __init__(self, version: str) -> None:
        self._version = version

    def HealthCheck(self, request: wire.HealthCheckRequest, context: grpc.ServicerContext) -> wire.HealthCheckReply:
        return wire.HealthCheckReply(title="qdrant - vector search engine", version=self._version)


class _Collections(CollectionsServicer):
    def __init__(self, shards: Shards) -> None:
        self._shards = shards

    def List(self, request: wire.ListCollectionsRequest, context: grpc.ServicerContext) -> wire.ListCollectionsResponse:
        return wire.ListCollectionsResponse(collections=[wire.CollectionDescription(name=name) for name in self._shards.open])

    def Get(self, request: wire.GetCollectionInfoRequest, context: grpc.ServicerContext) -> wire.GetCollectionInfoResponse:
        info = self._shards.named(request, context).info()
        schema = {name: wire.PayloadSchemaInfo() for name in info.payload_schema}
        return wire.GetCollectionInfoResponse(result=wire.CollectionInfo(points_count=info.points_count, payload_schema=schema))

    def Create(self, request: wire.CreateCollection, context: grpc.ServicerContext) -> wire.CollectionOperationResponse:
        if not self._shards.create(request.collection_name, translation.config(request)):
            context.abort(grpc.StatusCode.ALREADY_EXISTS, f"Collection `{request.collection_name}` already exists!")
        return _OK

    def Delete(self, request: wire.DeleteCollection, context: grpc.ServicerContext) -> wire.CollectionOperationResponse:
        if not self._shards.delete(request.collection_name):
            context.abort(grpc.StatusCode.NOT_FOUND, f"Not found: Collection `{request.collection_name}` doesn't exist!")
        return _OK


class _Points(PointsServicer):
    def __init__(self, shards: Shards) -> None:
        self._shards = shards

    def CreateFieldIndex(
        self, request: wire.CreateFieldIndexCollection, context: grpc.ServicerContext
    ) -> wire.PointsOperationResponse:
        shard = self._shards.named(request, context)
        index = translation.index(request.field_index_params)
        return self._done(shard, context, lambda: engine.UpdateOperation.create_field_index(request.field_name, index))

    def Upsert(self, request: wire.UpsertPoints, context: grpc.ServicerContext) -> wire.PointsOperationResponse:
        shard = self._shards.named(request, context)
        return self._done(
            shard, context, lambda: engine.UpdateOperation.upsert_points([translation.point(p) for p in request.points])
        )

    def Delete(self, request: wire.DeletePoints, context: grpc.ServicerContext) -> wire.PointsOperationResponse:
        shard, which = self._shards.named(request, context), request.points
        if which.HasField("points"):
            ids: list[Any] = [point.uuid for point in which.points.ids]
            return self._done(shard, context, lambda: engine.UpdateOperation.delete_points(ids))
        return self._done(
            shard, context, lambda: engine.UpdateOperation.delete_points_by_filter(translation.filter_(which.filter))
        )

    def _done(
        self, shard: engine.EdgeShard, context: grpc.ServicerContext, operation: Callable[[], engine.UpdateOperation]
    ) -> wire.PointsOperationResponse:
        """All of it, or nothing, and why."""
        try:
            shard.update(operation())
        except Exception as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        return _COMPLETED

    def Query(self, request: wire.QueryPoints, context: grpc.ServicerContext) -> wire.QueryResponse:
        hits = self._shards.named(request, context).query(translation.query(request))
        return wire.QueryResponse(
            result=[
                wire.ScoredPoint(id=translation.id_(hit), score=hit.score, payload=translation.told(hit.payload)) for hit in hits
            ]
        )

    def Count(self, request: wire.CountPoints, context: grpc.ServicerContext) -> wire.CountResponse:
        asked = engine.CountRequest(exact=request.exact, filter=translation.filter_(request.filter))
        return wire.CountResponse(result=wire.CountResult(count=self._shards.named(request, context).count(asked)))

    def Scroll(self, request: wire.ScrollPoints, context: grpc.ServicerContext) -> wire.ScrollResponse:
        found, following = self._shards.named(request, context).scroll(translation.scroll(request))
        return wire.ScrollResponse(
            result=[
                wire.RetrievedPoint(id=translation.id_(record), payload=translation.told(record.payload)) for record in found
            ],
            next_page_offset=wire.PointId(uuid=str(following)) if following else None,
        )
