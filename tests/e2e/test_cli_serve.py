"""`sfm serve`, `config`, `--help`: what a new user types first."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sfm_grpc.cli import exits, root
from sfm_grpc.cli.config import _masked
from sfm_grpc.settings import Settings, variable
from tests.support.cli import SFM, Served, here, run


@pytest.fixture(scope="module")
def sfm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("sfm")) as served:
        yield served


# ---- serve


def test_serve_says_where_it_is_and_what_to_type_next(sfm: Served) -> None:
    grpc, http = sfm.addresses["grpc"], sfm.addresses["http"]
    lines = sfm.stdout.splitlines()
    assert lines[:3] == [f"gRPC {grpc}", f"HTTP {http}", f"data {sfm.data}"]
    assert f"  sfm status --target {grpc}" in lines
    assert any("grpcurl -plaintext -max-msg-sz" in line and grpc in line for line in lines)
    assert sfm.addresses["data"] == str(sfm.data)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_drains_and_exits_with_zero(tmp_path: Path, number: signal.Signals) -> None:
    with Served(tmp_path) as served:
        served.process.send_signal(number)
        assert served.process.wait(30) == 0
        assert "stopped" in served.stderr
        assert not (tmp_path / "ready.json").exists()


def test_json_logs_are_json_and_nothing_else(tmp_path: Path) -> None:
    with Served(tmp_path, SFM_LOG_FORMAT="json") as served:
        assert served.stop() == 0
        assert served.stdout == ""
        lines = [json.loads(line) for line in served.stderr.splitlines()]
    assert all(set(line) >= {"time", "level", "logger", "message"} for line in lines)
    serving = next(line for line in lines if line["message"] == "serving")
    assert serving["grpc"] == served.addresses["grpc"]


def test_log_lines_carry_what_the_call_is_known_by() -> None:
    code = """
import logging, structlog
from sfm_grpc import logs
logs.configure("info", "json")
structlog.contextvars.bind_contextvars(request_id="r1")
logging.getLogger("sfm_grpc.x").warning("slow: %d ms", 7, extra={"method": "GetRho"})
logging.getLogger("uvicorn.error").info("noise")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("sfm_grpc.x").exception("failed")
logs.configure("warning", "console")
logging.getLogger("sfm_grpc.x").warning("slow")
logging.getLogger("sfm_grpc.x").info("unheard")
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second, third = ran.stderr.splitlines()
    told = json.loads(first)
    assert list(told)[:4] == ["time", "level", "logger", "message"]
    assert (told["message"], told["request_id"], told["method"]) == ("slow: 7 ms", "r1", "GetRho")
    assert "ZeroDivisionError" in json.loads(second)["exception"]
    assert third.endswith("[warning  ] slow [sfm_grpc.x] request_id=r1")


def test_serve_refuses_what_it_cannot_have(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    free = ("serve", "--listen", "127.0.0.1:0", "--http-listen", "")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        refused = {
            f"{address} cannot be listened on": ("serve", "--listen", address, "--http-listen", ""),
            f"SFM_HTTP_LISTEN: {address} cannot": ("serve", "--listen", "127.0.0.1:0", "--http-listen", address),
            "file/x cannot be created": (*free, "--data-dir", "file/x"),
            "none/ready": (*free, "--ready-file", "none/ready"),
        }
        with ThreadPoolExecutor() as threads:
            said = list(threads.map(lambda arguments: run(*arguments, code=2, cwd=tmp_path).stderr, refused.values()))
    for sentence, lines in zip(refused, said, strict=True):
        assert sentence in lines
        assert lines.startswith("sfm: cannot serve: ")
        assert len(lines.splitlines()) == 1


def test_serve_refuses_a_bad_configuration() -> None:
    assert "--insecure" in here("serve", "--listen", "0.0.0.0:0", code=2).stderr
    assert "host:port" in here("serve", "--listen", "nonsense", code=2).stderr
    said = here("serve", code=2, env={"SFM_DRAIN_S": "-1", "SFM_PAGE_SIZE_MAX": "x"}).stderr.splitlines()
    assert len(said) == 2
    assert all(line.startswith("sfm: SFM_") for line in said)
    assert "SFM_LISTEN is" in here("serve", code=2, env={"SFM_LISTN": "x"}).stderr
    assert "cognitive manager" in here("serve", code=2, env={"SFM_DECOGNITIZE": "0"}).stderr


# ---- config


def test_config_lists_every_setting_and_where_it_came_from(tmp_path: Path) -> None:
    (tmp_path / "sfm.env").write_text("SFM_DRAIN_S=3\nSFM_NODE_ID=file\n")
    env = {"SFM_CONFIG_FILE": str(tmp_path / "sfm.env"), "SFM_NODE_ID": "environment"}
    found = json.loads(here("config", "--json", env=env).stdout)["settings"]
    assert [s["variable"] for s in found] == [variable(name) for name in Settings.model_fields]
    by_name = {s["variable"]: s for s in found}
    assert (by_name["SFM_DRAIN_S"]["value"], by_name["SFM_DRAIN_S"]["source"]) == (3.0, "file")
    assert (by_name["SFM_NODE_ID"]["value"], by_name["SFM_NODE_ID"]["source"]) == ("environment", "environment")
    assert by_name["SFM_LISTEN"]["source"] == "default"
    assert all(set(s) == {"variable", "value", "source", "default", "description"} and s["description"] for s in found)


def test_config_table_and_errors(tmp_path: Path) -> None:
    lines = run("config", cwd=tmp_path).stdout.splitlines()
    assert lines[0].split() == ["Variable", "Value", "From", "Meaning"]
    assert len(lines) == 1 + len(Settings.model_fields)
    assert "is not a file" in here("config", code=2, env={"SFM_CONFIG_FILE": "none"}).stderr


def test_passwords_in_addresses_are_masked() -> None:
    assert _masked("postgresql://sfm:s3cret@db:5432/sfm") == "postgresql://sfm:********@db:5432/sfm"
    assert _masked("127.0.0.1:50051") == "127.0.0.1:50051"


# ---- help


def test_help_names_commands_and_exit_codes(tmp_path: Path) -> None:
    said = run("--help", cwd=tmp_path).stdout
    assert all(f"  {name}" in said for name in ("serve", "migrate", "config", "status", "healthcheck", "verify-export", "rho"))
    assert all(f"    {code.value}  " in said for code in exits.Exit)
    assert here("--version").stdout.startswith("sfm 3.")


COMMANDS = [
    *(["serve"], ["migrate"], ["config"], ["status"], ["healthcheck"], ["verify-export"]),
    *(["rho", name] for name in ("log", "show", "get", "commit", "diff", "restore", "verify", "export")),
    *(["memory", name] for name in ("put", "get", "list", "delete", "undelete", "purge")),
    *(["namespace", name] for name in ("create", "list", "describe")),
    *(["prune", name] for name in ("plan", "show", "plans", "apply", "undo", "audit", "limit")),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself_with_examples(command: list[str]) -> None:
    said = CliRunner().invoke(root.app, [*command, "--help"], prog_name="sfm")
    assert said.exit_code == 0
    assert "\n  Examples:\n    " in said.output
    assert f"sfm {' '.join(command)}" in said.output.split("Examples:")[1]


def test_help_imports_nothing_that_is_slow() -> None:
    slow = "'numpy', 'grpc', 'google.protobuf', 'rich.table', 'pydantic', 'structlog', 'scipy', 'sqlite3', 'psycopg'"
    code = f"import sys; import sfm_grpc.cli.root; print([m for m in ({slow}) if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_with_the_client_alone_sfm_says_what_to_install() -> None:
    code = "import sys; sys.modules['typer'] = None; from sfm_grpc.cli import main; main()"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "pip install 'sfm-grpc[server]'" in ran.stderr


def test_bad_usage() -> None:
    assert "No such command" in here("bogus", code=2).stderr
    assert "--limit" in here("rho", "log", "a", "--limit", "-1", code=2).stderr
    assert "--tls-cert and --tls-key go together" in here("status", "--tls-cert", "x", code=2).stderr
    assert "cannot be read" in here("status", "--tls-ca", "none", code=2).stderr
    assert "--tenant" in here("status", "--tenant", "é", code=2).stderr
    assert "Usage: sfm" in here(code=2).stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_answer_that_cannot_be_written_is_a_sentence() -> None:
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run([*SFM, "config"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ran.returncode == 2
    assert ran.stderr == "sfm: the answer cannot be written: No space left on device\n"


# ---- status, healthcheck


def test_status(sfm: Served) -> None:
    lines = sfm.run("status", "--limits").stdout.splitlines()
    assert lines[0].endswith(f"at {sfm.addresses['grpc']}")
    assert any(line.split() == ["ok", "yes"] for line in lines)
    assert any(line.startswith("message_bytes_max") for line in lines)
    found = sfm.json("status")
    assert set(found) == {"target", "ok", "health", "server"}
    assert found["ok"] is True
    assert found["server"]["store"] == "sqlite"
    assert found["server"]["limits"]["dimension_max"] == 8192
    assert "\x1b" not in "".join(lines)


def test_healthcheck_says_it_all_with_its_exit_code(sfm: Served) -> None:
    ran = sfm.run("healthcheck")
    assert (ran.stdout, ran.stderr) == ("", "")
    assert "rho: SERVING" in sfm.here("healthcheck", "--service", "rho", "--verbose").stderr
    sfm.here("healthcheck", "--service", "sfm.v1.RhoStore")
    sfm.here("healthcheck", "--service", "no.such.Service", code=4)


def test_nobody_answers(tmp_path: Path) -> None:
    nobody = ("--target", "127.0.0.1:1")
    said = run("status", *nobody, code=3, cwd=tmp_path).stderr
    assert said.startswith("sfm: no answer from 127.0.0.1:1")
    assert len(said.splitlines()) == 1
    assert here("rho", "log", "a", "--json", *nobody, code=3).stdout == ""
    assert here("healthcheck", *nobody, code=3).stderr == ""
