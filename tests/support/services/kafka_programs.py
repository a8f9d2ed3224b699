"""Kafka's own server: its jars, which Maven brings, and the Java that runs them."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

VERSION = "4.1.0"
_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion><groupId>sfm.test</groupId><artifactId>kafka</artifactId><version>1</version>
  <dependencies><dependency>
    <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version>
  </dependency></dependencies>
</project>
"""
_MAVEN_S = 600


@dataclass(frozen=True)
class KafkaProgram:
    """What runs a broker."""

    java: str
    classpath: str

    def __str__(self) -> str:
        return f"Kafka {VERSION} (maven)"


@functools.cache
def search() -> KafkaProgram | str:
    """The program; or why there is none. The first time on a machine Maven fetches it, which may take a minute."""
    java, maven = shutil.which("java"), shutil.which("mvn")
    if not (java and maven):
        return "maven: java and mvn are not both here"
    kept = _cache() / f"kafka-{VERSION}.classpath"
    if not _is_whole(kept):
        problem = _asked_of(maven, kept)
        if problem:
            return f"maven: {problem}"
    return KafkaProgram(java, kept.read_text())


def _cache() -> Path:
    """Where the list of the jars is kept; they themselves lie where Maven keeps everything."""
    made = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sfm-grpc-tests"
    made.mkdir(parents=True, exist_ok=True)
    return made


def _is_whole(kept: Path) -> bool:
    return kept.is_file() and all(map(os.path.exists, kept.read_text().split(os.pathsep)))


def _asked_of(maven: str, kept: Path) -> str:
    """Has Maven fetch what is missing and write down where it is; what went wrong, or ''."""
    with tempfile.TemporaryDirectory(dir=kept.parent) as directory:
        (Path(directory) / "pom.xml").write_text(_POM)
        told = Path(directory) / "classpath"
        command = [maven, "-q", "-B", "dependency:build-classpath", f"-Dmdep.outputFile={told}"]
        ran = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False, timeout=_MAVEN_S)
        if ran.returncode != 0 or not told.is_file():
            said = (ran.stdout + ran.stderr).strip().splitlines()
            return said[0] if said else f"mvn ended with {ran.returncode}"
        told.rename(kept)  # several workers may do this: each has made the same
    return ""
