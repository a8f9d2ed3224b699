"""Kafka processes of our own: librdkafka's mock cluster, and a real broker (KRaft, broker and controller in one)."""

from __future__ import annotations

import signal
import sys
import uuid
from types import TracebackType
from typing import Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.support.services import kafka_mock, ports
from tests.support.services.kafka_programs import KafkaProgram
from tests.support.services.kept import WAIT_S, Account, Kept
from tests.support.services.places import remove, temporary
from tests.support.services.waiting import until

_ME = Account("", -1, -1)
USER, PASSWORD = "sfm", "secret"
_LOGIN = "org.apache.kafka.common.security.plain.PlainLoginModule"
_JVM = ("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")


class _Process:
    """A process in a temporary directory."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._root = temporary(_ME, "kafka")
        self._log = self._root / "log"
        self._kept: Kept | None = None

    def _run(self, *command: object) -> None:
        self._kept = Kept(command, account=_ME, log=self._log, farewell=signal.SIGKILL, remove=self._root)

    @property
    def log(self) -> str:
        """What it has said so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        if self._kept is not None:
            self._kept.send_all(signal.SIGKILL)
            self._kept.wait()

    def freeze(self) -> None:
        """SIGSTOP: connections stay, nobody answers."""
        assert self._kept is not None
        self._kept.send_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on as if nothing had been."""
        assert self._kept is not None
        self._kept.send_all(signal.SIGCONT)

    def close(self) -> None:
        """The end, whatever state it is in; its directory is gone."""
        if self._kept is not None:
            self._kept.close()
        remove(self._root)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class MockKafka(_Process):
    """A mock cluster. It makes every topic that is asked for; what it has is gone when it is killed."""

    def __init__(self, brokers: int = 1) -> None:
        super().__init__("librdkafka's mock cluster")
        self._brokers = brokers
        self.bootstrap = ""

    def __enter__(self) -> Self:
        told = self._root / "address"
        self._run(sys.executable, kafka_mock.__file__, self._brokers, told)
        until(told.exists, f"the mock cluster serves: {self.log}")
        self.bootstrap = told.read_text()
        return self


class KafkaBroker(_Process):
    """A real broker, whose log outlives it. It makes every topic that is asked for, with three partitions."""

    def __init__(self, program: KafkaProgram) -> None:
        super().__init__(str(program))
        self._program = program
        plain, sasl, controller = ports.free(), ports.free(), ports.free()
        self.bootstrap, self.sasl_bootstrap = f"127.0.0.1:{plain}", f"127.0.0.1:{sasl}"
        """The second asks for `USER` and `PASSWORD`, by SASL PLAIN."""
        self._conf = self._root / "server.properties"
        self._conf.write_text(
            f"""process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:{plain},SASL_PLAINTEXT://127.0.0.1:{sasl},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{plain},SASL_PLAINTEXT://127.0.0.1:{sasl}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_plaintext.plain.sasl.jaas.config={_LOGIN} required user_{USER}="{PASSWORD}";
log.dirs={self._root / "data"}
num.partitions=3
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=1500
broker.heartbeat.interval.ms=300
auto.create.topics.enable=true
"""
        )
        self._formatted = False

    def start(self) -> Self:
        """Returns when it answers; on the same ports as before, with what it had."""
        if not self._formatted:
            cluster_id = uuid.uuid4().hex[:22]
            self._run(*self._java("kafka.tools.StorageTool"), "format", "-t", cluster_id, "-c", self._conf)
            assert self._kept is not None
            assert self._kept.wait(WAIT_S) == 0, self.log
            self._formatted = True
        self._run(*self._java("kafka.Kafka"), self._conf)
        until(self._answers, f"{self.name} answers: {self.log}")
        return self

    def _java(self, name: str) -> list[object]:
        return [self._program.java, *_JVM, "-cp", self._program.classpath, name]

    def _answers(self) -> bool:
        assert self._kept is not None
        assert self._kept.running, f"{self.name} ended: {self.log}"
        try:
            return bool(AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0}).list_topics(timeout=1).brokers)
        except KafkaException:
            return False

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise
