"""Every setting, read once from `SFM_*` (or the file `SFM_CONFIG_FILE` names) and checked across fields.

docs/CONFIGURATION.md is the same list for people; a test compares the two. No setting at all is the embedded default.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import math
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from sfm_grpc.model import Enforcement

PREFIX = "SFM_"
FILE_VARIABLE = "SFM_CONFIG_FILE"
# Not settings: the configuration file's own name, and what tests and benchmarks say to themselves.
_NOT_SETTINGS = (FILE_VARIABLE, "SFM_TEST_", "SFM_TARGET", "SFM_TENANT")

MIB = 1 << 20


class ConfigError(Exception):
    """The configuration cannot be served with; `str()` has a line for each thing that is wrong."""


class Settings(BaseSettings):
    """What a server is told. Units are the last word of a name."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True, validate_default=True)

    # ---- doors
    listen: str = Field(
        "127.0.0.1:50051", description="gRPC address, `host:port`; `[::1]:50051` for IPv6; port 0 takes a free one."
    )
    http_listen: str = Field(
        "127.0.0.1:9595", description="HTTP address for /healthz, /livez, /readyz, /metrics and the status page; empty: none."
    )
    insecure: bool = Field(
        False, description="Allow plain text beyond loopback: gRPC without TLS, the HTTP port, Qdrant's API key."
    )
    tls_cert_file: Path | None = Field(None, description="PEM certificate chain of the gRPC port; with `SFM_TLS_KEY_FILE`.")
    tls_key_file: Path | None = Field(None, description="PEM private key of the gRPC port.")
    tls_client_ca_file: Path | None = Field(
        None, description="PEM authorities; when set, callers must present a certificate of theirs."
    )
    node_id: str = Field("", description="This process's name in events and logs; empty: host name and process id.")

    # ---- store
    data_dir: Path = Field(
        Path("var"),
        description="Directory of the embedded store (`sfm.db`); created when missing. Servers on one machine may share it.",
    )
    postgres_url: SecretStr | None = Field(
        None,
        description="Postgres as the store, `postgresql://user:password@host:5432/database`; unset: the embedded file.",
    )
    postgres_migrate: bool = Field(False, description="Bring the schema up to date when starting; else `sfm migrate` does.")
    allow_unsafe_durability: bool = Field(
        False,
        description="Serve from a Postgres that may lose what it acknowledges (fsync, full_page_writes, synchronous_commit).",
    )
    postgres_pool_min: int = Field(2, ge=1, le=1_000, description="Connections that each server keeps open.")
    postgres_pool_max: int = Field(
        16, ge=1, le=1_000, description="Connections of each server at most, besides one that only checks."
    )
    postgres_pool_wait_ms: int = Field(
        1_000, ge=1, description="How long a call waits for a connection: then RESOURCE_EXHAUSTED."
    )
    postgres_pool_waiting_max: int = Field(256, ge=1, description="Calls that may wait for a connection at once.")
    postgres_connect_timeout_s: float = Field(5, ge=2, description="How long connecting may take.")
    postgres_statement_timeout_ms: int = Field(
        10_000, ge=10, description="How long one statement may take: then it is undone, and the caller told UNAVAILABLE."
    )
    postgres_lock_timeout_ms: int = Field(
        5_000, ge=10, description="How long a commit waits for another of the same namespace: then UNAVAILABLE."
    )
    redis_url: SecretStr | None = Field(
        None,
        description="Redis or Valkey before Postgres, `redis://user:password@host:6379/0` (`rediss://` TLS, `redis+cluster://`, "
        "`redis+sentinel://host:26379,host:26379/service`); unset: reads ask Postgres.",
    )
    redis_prefix: str = Field("sfm", min_length=1, max_length=64, description="What every key in Redis begins with.")
    redis_settle_s: float = Field(
        5,
        ge=0,
        description="How long Redis must have answered before it is used for a namespace; longer where it comes and goes.",
    )
    redis_content_timeout_ms: int = Field(2_000, ge=1, description="How long moving numbers to or from Redis may take.")
    fence_timeout_ms: int = Field(
        400, ge=1, description="How long a commit tries to fence what it tells in Redis before it has the cache drained."
    )
    qdrant_url: SecretStr | None = Field(
        None,
        description="A Qdrant server (1.19 or newer) as the vector index, `http://host:6334` (`https://` TLS), the port of its "
        "gRPC; unset: an embedded engine in `SFM_DATA_DIR/vectors`.",
    )
    qdrant_api_key: SecretStr | None = Field(None, description="What the Qdrant server asks of its callers; unset: nothing.")
    qdrant_prefix: str = Field(
        "sfm",
        min_length=1,
        max_length=64,
        pattern=r"^[A-Za-z0-9._-]+$",
        description="What every collection in Qdrant begins with: the same for all servers of a store, another for each store.",
    )
    qdrant_timeout_ms: int = Field(5_000, ge=1, description="How long one call of Qdrant may take, making collections excepted.")
    rho_history_versions: int = Field(
        100, ge=1, description="Versions kept for each namespace; the head and LAST_VALID always stay."
    )
    rho_history_age_s: int = Field(
        86_400, ge=0, description="Older versions go too, the head and LAST_VALID excepted; 0: age does not matter."
    )
    request_age_s: int = Field(86_400, ge=86_400, description="How long request ids are remembered, at least a day.")
    events_kept: int = Field(10_000, ge=1, description="Events kept in the outbox: `sfm events tail` shows them.")
    events_unsent_max: int = Field(
        1_000_000, ge=1, description="Events kept for Kafka while it has not got them; the oldest beyond it are lost to it."
    )

    search_limit_max: int = Field(1_000, ge=1, le=10_000, description="Neighbours in one answer of a search.")
    undelete_s: int = Field(86_400, ge=0, description="How long a deleted memory can be undeleted, and a prune undone.")

    # ---- pruning
    prune_keys_max: int = Field(1_000, ge=0, description="Memories that one prune may take without a confirmation.")
    prune_percent_max: int = Field(
        20, ge=0, le=100, description="The part of a namespace's memories that one prune may take without a confirmation."
    )
    prune_remaining_min: int = Field(1, ge=0, description="Memories that stay, unless the prune is confirmed.")
    prune_order_max: int = Field(100_000, ge=1, le=1_000_000, description="Keys in one order.")
    prune_plan_s: int = Field(86_400, ge=1, description="How long a plan can be applied.")

    # ---- events
    kafka_bootstrap: str = Field(
        "", description="Kafka's brokers, `host:9092,host:9092`: events are sent there; empty: they stay in the outbox."
    )
    kafka_security_protocol: Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] = Field(
        "plaintext", description="How Kafka is spoken to; what it needs besides goes into `SFM_KAFKA_OPTIONS`."
    )
    kafka_sasl_mechanism: str = Field("SCRAM-SHA-512", description="How we say who we are, where the protocol is `sasl_…`.")
    kafka_sasl_username: str = Field("", description="Who we are there.")
    kafka_sasl_password: SecretStr | None = Field(None, description="The password of that user.")
    kafka_options: SecretStr | None = Field(
        None,
        description='Further properties of librdkafka, a JSON object: `{"ssl.ca.location": "/etc/kafka/ca.pem"}`. They win over '
        "what is said above, but not over what order and completeness rest on.",
    )
    kafka_topic_rho_status: str = Field("rho.status", min_length=1, description="The topic of `rho.status`.")
    kafka_topic_memory_event: str = Field("memory.event", min_length=1, description="The topic of `memory.event`.")
    kafka_topic_prune_result: str = Field("prune.result", min_length=1, description="The topic of `prune.result`.")
    kafka_orders: bool = Field(True, description="Whether orders to prune are taken from Kafka, where there is one.")
    kafka_group: str = Field(
        "sfm", min_length=1, description="The group in which the servers of a store share these orders: another for each store."
    )
    kafka_topic_prune_order: str = Field("prune.order", min_length=1, description="The topic of orders to prune.")
    kafka_topic_prune_order_dlq: str = Field(
        "prune.order.dlq", min_length=1, description="The topic where orders go that cannot be carried out, with the reason."
    )
    events_source: str = Field(
        "/sfm", min_length=1, description="What events say where they come from (`ce_source`): another for each store."
    )

    # ---- ρ
    rho_enforcement: Enforcement = Field(
        Enforcement.ENFORCE,
        description="`enforce` refuses trace and PSD violations; `observe` lets them in, flagged (the dark launch).",
    )
    rho_epsilon: float = Field(
        1e-8, ge=1e-10, le=1e-2, description="PSD bound: λ_min ≥ −max(this, 2u‖ρ‖_F); the Hermitian bound likewise."
    )
    rho_trace_tolerance: float = Field(1e-6, gt=0, le=1e-2, description="Trace bound: |tr ρ − 1| ≤ this.")
    rho_max_step: float | None = Field(
        None, gt=0, description="Bound on ‖Δρ‖_F of one commit where the caller names none; unset: none."
    )
    rho_cache_bytes_max: int = Field(256 * MIB, ge=0, description="Memory for matrices that are ready to be read.")
    rho_cache_ttl: float = Field(
        3_600, gt=0, description="Seconds after which an unread matrix leaves memory, and Redis: hygiene, never correctness."
    )
    rho_read_timeout_ms: float = Field(
        20,
        gt=0,
        description="How long a read waits for Redis before it asks Postgres; the embedded store answers at once.",
    )
    rho_verify_interval_s: float = Field(30, gt=0, description="Pause between background re-verifications of all stored heads.")
    watch_poll_ms: int = Field(
        100, ge=1, le=60_000, description="How often the store is asked for what other servers committed, while anyone watches."
    )
    decognitize: bool = Field(True, description="Accepted for the predecessor's sake; there is no cognitive code to turn on.")

    # ---- limits, published by GetServerInfo
    message_bytes_max: int = Field(64 * MIB, ge=64 * 1024, le=1024 * MIB, description="Bytes of one message, both ways.")
    inflight_bytes_max: int = Field(512 * MIB, ge=64 * 1024, description="Bytes of requests being worked on at once.")
    inflight_answer_bytes_max: int = Field(
        512 * MIB,
        ge=64 * 1024,
        description="Bytes of answers that callers have not taken yet, at once; those below 64 KiB are not counted.",
    )
    concurrent_rpcs_max: int = Field(256, ge=1, description="Calls being worked on at once; health checks are not counted.")
    shed_wait_ms: int = Field(
        30, ge=1, description="While calls wait longer than this for their turn, others are refused; health checks never are."
    )
    fields_bytes_max: int = Field(256 * 1024, ge=16 * 1024, le=16 * MIB, description="Bytes of one request besides its numbers.")
    slow_admissions_max: int = Field(
        4,
        ge=1,
        description="Large matrices waiting for their eigenvalues (clamped or refused), or for a large factor's step.",
    )
    dimension_max: int = Field(8_192, ge=1, le=65_536, description="Rows or columns of one matrix.")
    keys_per_commit_max: int = Field(64, ge=1, le=10_000, description="Changes in one commit.")
    keys_per_namespace_max: int = Field(256, ge=1, le=10_000, description="Matrices in one namespace.")
    metadata_bytes_max: int = Field(16_384, ge=0, le=MIB, description="Bytes of one commit's metadata, keys and values together.")
    page_size_max: int = Field(1_000, ge=1, le=10_000, description="Versions, memories or namespaces on one page.")
    batch_max: int = Field(1_000, ge=1, le=10_000, description="Memories in one call.")
    batch_bytes_max: int = Field(16 * MIB, ge=64 * 1024, le=1 << 30, description="Bytes of one call that puts memories.")
    payload_bytes_max: int = Field(MIB, ge=1, le=64 * MIB, description="Bytes of one memory's JSON.")
    json_depth_max: int = Field(64, ge=1, le=500, description="How deep a memory's JSON may be nested.")
    vector_dimension_max: int = Field(4_096, ge=1, le=65_536, description="Numbers of one memory's vector.")
    watch_streams_max: int = Field(
        1_000, ge=1, le=100_000, description="Streams of WatchRho open at once; each holds one message at most."
    )
    events_streams_max: int = Field(100, ge=1, le=10_000, description="Streams of TailEvents open at once.")
    bulk_streams_max: int = Field(
        16,
        ge=1,
        le=10_000,
        description="Streams of ImportMemories and ExportMemories open at once; each holds a few requests, or a few MiB.",
    )
    deadline_default_ms: int = Field(10_000, ge=1, description="Deadline of a call that names none.")
    deadline_max_ms: int = Field(120_000, ge=1, description="Longest deadline that is honoured; a longer one is cut to this.")

    # ---- process
    drain_s: float = Field(10, ge=0, description="On SIGTERM: how long calls in flight may take to finish.")
    drain_notice_s: float = Field(
        0, ge=0, description="On SIGTERM: how long to answer as not ready before new calls are refused."
    )
    latency_bound_ms: float = Field(60, gt=0, description="The latency guard's bound on the p95 of reads and commits.")
    latency_window_s: float = Field(60, gt=0, description="The sliding window over which the p95 is taken.")
    slow_call_ms: float = Field(250, gt=0, description="A call slower than this is logged.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="What is logged at least.")
    log_format: Literal["console", "json"] = Field("console", description="One readable line each, or one JSON object each.")

    @field_validator("*")
    @classmethod
    def _finite(cls, value: object) -> object:
        # uvloop cannot wait for ever.
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError("must be a finite number")
        return value

    @field_validator("decognitize")
    @classmethod
    def _no_cognition(cls, value: bool) -> bool:
        if not value:
            raise ValueError(
                "0 asks for the predecessor's cognitive code, which is not in the data plane: it lives in the external cognitive "
                "manager (a runnable one is in examples/cognitive_manager)"
            )
        return value

    @field_validator("postgres_url", "redis_url", "qdrant_url", "qdrant_api_key", "kafka_sasl_password", "kafka_options")
    @classmethod
    def _none(cls, value: SecretStr | None) -> SecretStr | None:
        """Empty is unset: libpq would take it for a server of its own choice."""
        return value if value and value.get_secret_value().strip() else None

    @field_validator("tls_cert_file", "tls_key_file", "tls_client_ca_file")
    @classmethod
    def _readable(cls, path: Path | None) -> Path | None:
        if path is not None and not os.access(path, os.R_OK):
            raise ValueError(f"{path} cannot be read")
        return path

    @model_validator(mode="after")
    def _together(self) -> Settings:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("SFM_TLS_CERT_FILE and SFM_TLS_KEY_FILE go together")
        if self.tls_client_ca_file and not self.tls_cert_file:
            raise ValueError("SFM_TLS_CLIENT_CA_FILE needs SFM_TLS_CERT_FILE and SFM_TLS_KEY_FILE")
        if self.redis_url and not self.postgres_url:
            raise ValueError("SFM_REDIS_URL needs SFM_POSTGRES_URL: the embedded store answers as fast from its own memory")
        if self.qdrant_api_key and not self.qdrant_url:
            raise ValueError("SFM_QDRANT_API_KEY needs SFM_QDRANT_URL")
        if self.qdrant_api_key and not (self.insecure or _keeps_secrets(self.qdrant_url)):
            raise ValueError(
                "SFM_QDRANT_URL leads beyond loopback without TLS, and SFM_QDRANT_API_KEY would be read on the way: write "
                "https://, or say --insecure (SFM_INSECURE=1) where the network is trusted"
            )
        if self.postgres_pool_min > self.postgres_pool_max:
            raise ValueError("SFM_POSTGRES_POOL_MIN is over SFM_POSTGRES_POOL_MAX")
        if self.deadline_default_ms > self.deadline_max_ms:
            raise ValueError("SFM_DEADLINE_DEFAULT_MS is over SFM_DEADLINE_MAX_MS")
        if self.inflight_bytes_max < self.message_bytes_max:
            raise ValueError("SFM_INFLIGHT_BYTES_MAX is below SFM_MESSAGE_BYTES_MAX: the largest message could never be accepted")
        host, _ = split_address(self.listen)
        if not (is_loopback(host) or self.tls_cert_file or self.insecure):
            raise ValueError(
                f"SFM_LISTEN is {self.listen}, beyond loopback, without TLS: set SFM_TLS_CERT_FILE and SFM_TLS_KEY_FILE, or say "
                "--insecure (SFM_INSECURE=1) where the network is trusted"
            )
        if self.http_listen and not (is_loopback(split_address(self.http_listen)[0]) or self.insecure):
            raise ValueError(
                f"SFM_HTTP_LISTEN is {self.http_listen}, beyond loopback, and plain HTTP that names namespaces: say --insecure "
                "(SFM_INSECURE=1) where the network is trusted"
            )
        return self

    @model_validator(mode="after")
    def _kafka_together(self) -> Settings:
        if self.kafka_properties.get("sasl.mechanism") == "PLAIN" and not (self.insecure or self._kafka_keeps_secrets):
            raise ValueError(
                "SFM_KAFKA_BOOTSTRAP leads beyond loopback without TLS, and SFM_KAFKA_SASL_PASSWORD would be read on the way: "
                "use sasl_ssl or a SCRAM mechanism, or say --insecure (SFM_INSECURE=1) where the network is trusted"
            )
        if self.kafka_topic_prune_order == self.kafka_topic_prune_order_dlq:
            raise ValueError("SFM_KAFKA_TOPIC_PRUNE_ORDER_DLQ is SFM_KAFKA_TOPIC_PRUNE_ORDER: a refused order would come again")
        return self

    @property
    def node(self) -> str:
        """`node_id`, or a name of this process."""
        return self.node_id or f"{socket.gethostname()}-{os.getpid()}"

    @property
    def kafka_properties(self) -> dict[str, str | int | float | bool]:
        """What librdkafka is told of how to come in; `kafka_options` has the last word. Raises ValueError."""
        told: dict[str, str | int | float | bool] = {"security.protocol": self.kafka_security_protocol}
        if self.kafka_security_protocol.startswith("sasl"):
            told |= {"sasl.mechanism": self.kafka_sasl_mechanism, "sasl.username": self.kafka_sasl_username}
            if self.kafka_sasl_password:
                told["sasl.password"] = self.kafka_sasl_password.get_secret_value()
        if self.kafka_options:
            try:
                given = json.loads(self.kafka_options.get_secret_value())
            except ValueError:
                given = None
            if not isinstance(given, dict) or not all(isinstance(v, str | int | float) for v in given.values()):
                raise ValueError("SFM_KAFKA_OPTIONS is no JSON object of texts, numbers, true and false")
            told |= given
        return told

    @property
    def _kafka_keeps_secrets(self) -> bool:
        """Whether nobody on the way reads what is said."""
        hosts = [broker.rpartition(":")[0].strip("[] ") for broker in self.kafka_bootstrap.split(",") if broker.strip()]
        return self.kafka_properties["security.protocol"] != "sasl_plaintext" or all(map(is_loopback, hosts))

    @property
    def kafka_topics(self) -> dict[str, str]:
        """Under which name each kind of event goes."""
        return {
            "rho.status": self.kafka_topic_rho_status,
            "memory.event": self.kafka_topic_memory_event,
            "prune.result": self.kafka_topic_prune_result,
        }

    @property
    def limits(self) -> dict[str, int]:
        """What GetServerInfo publishes."""
        names = (
            "message_bytes_max",
            "inflight_bytes_max",
            "inflight_answer_bytes_max",
            "concurrent_rpcs_max",
            "shed_wait_ms",
            "fields_bytes_max",
            "slow_admissions_max",
            "dimension_max",
            "keys_per_commit_max",
            "keys_per_namespace_max",
            "metadata_bytes_max",
            "page_size_max",
            "batch_max",
            "batch_bytes_max",
            "payload_bytes_max",
            "json_depth_max",
            "vector_dimension_max",
            "search_limit_max",
            "undelete_s",
            "prune_keys_max",
            "prune_percent_max",
            "prune_remaining_min",
            "prune_order_max",
            "prune_plan_s",
            "watch_streams_max",
            "events_streams_max",
            "bulk_streams_max",
            "deadline_max_ms",
            "rho_history_versions",
        )
        return {name: getattr(self, name) for name in names}


def split_address(address: str) -> tuple[str, int]:
    """Splits `host:port`. Raises ValueError with the sentence a user needs."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65_535:
        raise ValueError(f"{address!r} is not an address: write host:port, for example 127.0.0.1:50051")
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _keeps_secrets(url: SecretStr | None) -> bool:
    """Whether nobody on the way reads what is said; an address that is none is told where it is used."""
    try:
        parts = urlsplit(url.get_secret_value() if url else "")
        return parts.scheme != "http" or is_loopback(parts.hostname or "")
    except ValueError:
        return True


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + name.upper()


def load(overrides: Mapping[str, object] | None = None) -> Settings:
    """Reads the settings. `overrides` (the command line's) win over the environment, which wins over the file.

    Raises ConfigError naming each variable that is unknown or out of range.
    """
    _refuse_unknown()
    path = os.environ.get(FILE_VARIABLE)
    if path and not Path(path).is_file():
        raise ConfigError(f"{FILE_VARIABLE}: {path} is not a file")
    try:
        return Settings(_env_file=path or None, **dict(overrides or {}))  # type: ignore[call-arg,arg-type]
    except ValidationError as error:
        lines = (f"{_place(e['loc'])}{e['msg'].removeprefix('Value error, ')}" for e in error.errors())
        raise ConfigError("\n".join(lines)) from error


def _place(location: tuple[int | str, ...]) -> str:
    if not location:
        return ""
    name = str(location[0])
    return f"{name.upper() if name.lower().startswith(PREFIX.lower()) else variable(name)}: "


def _refuse_unknown() -> None:
    known = {variable(name) for name in Settings.model_fields}
    for name in os.environ:
        if not name.startswith(PREFIX) or name in known or name.startswith(_NOT_SETTINGS):
            continue
        close = difflib.get_close_matches(name, known, n=1)
        raise ConfigError(f"{name} is not a setting" + (f"; {close[0]} is" if close else " (sfm config lists them)"))
