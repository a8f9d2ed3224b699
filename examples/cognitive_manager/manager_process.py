"""A manager in a process of its own, watched from outside."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from examples.cognitive_manager.ledger import Share
from examples.cognitive_manager.tally import Acknowledged, Tally

_ROOT = Path(__file__).parents[2]
# The cores belong to the server and the two managers; BLAS's own threads would only take turns with them.
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class ManagerProcess:
    """Runs `python -m examples.cognitive_manager` and hears what it says."""

    def __init__(
        self,
        name: str,
        *,
        target: str,
        tenant: str,
        namespace: str,
        share: Share,
        batches: int,
        seed: int = 0,
        pause_s: float = 0.0,
    ) -> None:
        self.name = name
        self.acknowledged: list[Acknowledged] = []
        """As they come; complete once the process has ended."""
        self.tally: Tally | None = None
        """None until it has ended well."""
        said = {
            "target": target,
            "tenant": tenant,
            "namespace": namespace,
            "name": name,
            "share": share,
            "batches": batches,
            "seed": seed,
            "pause": pause_s,
        }
        command = [
            sys.executable,
            "-m",
            "examples.cognitive_manager",
            "--hold",
            *(f"--{key}={value}" for key, value in said.items()),
        ]
        path = os.pathsep.join(p for p in (str(_ROOT), os.environ.get("PYTHONPATH", "")) if p)
        self._last_words = ""
        self._ready = threading.Event()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed in `end`
        self._process = subprocess.Popen(
            command,
            env=os.environ | _ONE_THREAD | {"PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def wait_ready(self) -> None:
        """Returns when it stands at the start, or has ended."""
        self._ready.wait()

    def go(self) -> None:
        """Lets it begin."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._process.stdin as start:
            start.write("go\n")

    @property
    def running(self) -> bool:
        """It has not ended, or not all that it said was heard."""
        return self._process.poll() is None or self._listener.is_alive()

    def end(self) -> str:
        """Ends it, if it has not ended; what it complained of, '' when it did not. Idempotent."""
        if self._process.poll() is None:
            self._process.terminate()
        code = self._process.wait()
        self._listener.join()
        if not self._errors.closed:
            self._errors.seek(0)
            self._last_words = self._errors.read().decode(errors="replace").strip()
            self._errors.close()
        said = self._last_words
        return "" if code == 0 and self.tally is not None else f"{self.name} ended with {code}: {said or 'without a word'}"

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as said:
            for line in said:
                message = json.loads(line)
                if "acknowledged" in message:
                    self.acknowledged.append(Acknowledged(**message["acknowledged"]))
                elif "ready" in message:
                    self._ready.set()
                else:
                    self.tally = Tally.from_json(message["tally"])
        self._ready.set()
