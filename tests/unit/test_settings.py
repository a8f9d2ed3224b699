"""Settings: read once, from the right place, refused in sentences."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from sfm_grpc import stores
from sfm_grpc.errors import StoreRefused
from sfm_grpc.model import Enforcement
from sfm_grpc.settings import ConfigError, Settings, is_loopback, load, split_address, variable


def refusal(**environment: str) -> str:
    """What is said of an environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        with pytest.raises(ConfigError) as caught:
            load()
    return str(caught.value)


def test_no_configuration_at_all_is_the_embedded_default() -> None:
    s = load()
    assert (s.listen, s.http_listen, s.data_dir) == ("127.0.0.1:50051", "127.0.0.1:9595", Path("var"))
    assert (s.tls_cert_file, s.insecure, s.decognitize, s.rho_enforcement) == (None, False, True, Enforcement.ENFORCE)
    assert (s.rho_epsilon, s.rho_trace_tolerance, s.latency_bound_ms) == (1e-8, 1e-6, 60)


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "sfm.env"
    file.write_text("SFM_DIMENSION_MAX=1\nSFM_PAGE_SIZE_MAX=1\nSFM_NODE_ID=file\n# a comment\n\n")
    monkeypatch.setenv("SFM_CONFIG_FILE", str(file))
    monkeypatch.setenv("SFM_PAGE_SIZE_MAX", "2")
    monkeypatch.setenv("SFM_NODE_ID", "environment")
    s = load({"node_id": "command line"})
    assert (s.dimension_max, s.page_size_max, s.node_id) == (1, 2, "command line")


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert refusal(SFM_CONFIG_FILE=str(tmp_path / "absent.env")) == f"SFM_CONFIG_FILE: {tmp_path / 'absent.env'} is not a file"


def test_a_name_in_the_file_that_is_no_setting_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "sfm.env"
    file.write_text("SFM_LISTN=127.0.0.1:1\n")
    assert "SFM_LISTN" in refusal(SFM_CONFIG_FILE=str(file))


@pytest.mark.parametrize(
    ("given", "meant"),
    [("SFM_LISTN", "SFM_LISTEN"), ("SFM_RHO_EPSILON_", "SFM_RHO_EPSILON"), ("SFM_MESSAGE_MAX_BYTES", "SFM_MESSAGE_BYTES_MAX")],
)
def test_an_unknown_variable_is_refused_with_the_one_it_may_have_meant(given: str, meant: str) -> None:
    assert refusal(**{given: "1"}) == f"{given} is not a setting; {meant} is"


def test_a_variable_like_no_other_is_refused_with_where_to_look() -> None:
    assert refusal(SFM_QQQQQQQQ="1") == "SFM_QQQQQQQQ is not a setting (sfm config lists them)"


def test_what_others_say_to_themselves_is_let_be(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SFM_TEST_REQUIRE_SERVICES", "SFM_TARGET", "SFM_TENANT", "SOMETHING_ELSE", "SFMX"):
        monkeypatch.setenv(name, "1")
    assert load() == Settings()


def test_cognition_is_refused_with_where_it_went() -> None:
    for said in ("0", "false", "no", "off"):
        sentence = refusal(SFM_DECOGNITIZE=said)
        assert sentence.startswith("SFM_DECOGNITIZE: ")
        assert "external cognitive manager" in sentence
        assert "examples/cognitive_manager" in sentence


def test_decognitize_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFM_DECOGNITIZE", "1")
    assert load().decognitize


def test_the_names_that_were_given_exist() -> None:
    given = {"SFM_RHO_READ_TIMEOUT_MS", "SFM_RHO_CACHE_TTL", "SFM_DECOGNITIZE", "SFM_RHO_ENFORCEMENT"}
    assert given <= {variable(name) for name in Settings.model_fields}


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("SFM_DIMENSION_MAX", "0", "greater than or equal to 1"),
        ("SFM_DIMENSION_MAX", "many", "valid integer"),
        ("SFM_DIMENSION_MAX", "65537", "less than or equal to 65536"),
        ("SFM_RHO_EPSILON", "1", "less than or equal to 0.01"),
        ("SFM_RHO_EPSILON", "nan", "less than or equal to 0.01"),
        ("SFM_RHO_EPSILON", "0", "greater than or equal"),
        ("SFM_RHO_TRACE_TOLERANCE", "-1", "greater than 0"),
        ("SFM_RHO_VERIFY_INTERVAL_S", "inf", "must be a finite number"),
        ("SFM_DRAIN_S", "inf", "must be a finite number"),
        ("SFM_RHO_MAX_STEP", "nan", "greater than 0"),
        ("SFM_RHO_ENFORCEMENT", "maybe", "'enforce' or 'observe'"),
        ("SFM_LOG_LEVEL", "loud", "'debug', 'info', 'warning' or 'error'"),
        ("SFM_REQUEST_AGE_S", "60", "greater than or equal to 86400"),
        ("SFM_INSECURE", "perhaps", "valid boolean"),
    ],
)
def test_a_value_out_of_range_is_told_with_its_variable(name: str, value: str, says: str) -> None:
    sentence = refusal(**{name: value})
    assert sentence.startswith(f"{name}: ")
    assert says in sentence


def test_everything_that_is_wrong_is_told_a_line_each() -> None:
    lines = refusal(SFM_DIMENSION_MAX="0", SFM_PAGE_SIZE_MAX="-1", SFM_DECOGNITIZE="0").splitlines()
    assert [line.partition(":")[0] for line in lines] == ["SFM_DECOGNITIZE", "SFM_DIMENSION_MAX", "SFM_PAGE_SIZE_MAX"]


def test_settings_are_checked_against_each_other(tmp_path: Path) -> None:
    pem = tmp_path / "x.pem"
    pem.touch()
    assert refusal(SFM_TLS_CERT_FILE=str(pem)) == "SFM_TLS_CERT_FILE and SFM_TLS_KEY_FILE go together"
    assert refusal(SFM_TLS_KEY_FILE=str(pem)) == "SFM_TLS_CERT_FILE and SFM_TLS_KEY_FILE go together"
    assert "needs SFM_TLS_CERT_FILE" in refusal(SFM_TLS_CLIENT_CA_FILE=str(pem))
    assert refusal(SFM_QDRANT_API_KEY="k") == "SFM_QDRANT_API_KEY needs SFM_QDRANT_URL"
    assert refusal(SFM_DEADLINE_MAX_MS="10") == "SFM_DEADLINE_DEFAULT_MS is over SFM_DEADLINE_MAX_MS"
    assert "could never be accepted" in refusal(SFM_INFLIGHT_BYTES_MAX="65536")


@pytest.mark.parametrize("url", ["http://qdrant.internal:6334", "http://10.0.0.1:6334", "http://[2001:db8::1]"])
def test_an_api_key_is_not_sent_for_anyone_to_read(url: str) -> None:
    said = refusal(SFM_QDRANT_URL=url, SFM_QDRANT_API_KEY="secret")
    assert "SFM_QDRANT_API_KEY would be read on the way: write https://" in said
    assert "secret" not in said
    assert load({"qdrant_url": url, "qdrant_api_key": "secret", "insecure": True}).qdrant_api_key
    assert load({"qdrant_url": url}).qdrant_url, "without a key there is none to be read"


@pytest.mark.parametrize(
    "url", ["https://qdrant.internal:6334", "http://localhost:6334", "http://[::1]:6334", "http://127.0.0.1"]
)
def test_an_api_key_may_go_where_nobody_reads_it(url: str) -> None:
    settings = load({"qdrant_url": url, "qdrant_api_key": "secret"})
    assert settings.qdrant_api_key
    assert settings.qdrant_api_key.get_secret_value() == "secret"
    assert "secret" not in repr(settings)


def test_an_empty_secret_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SFM_QDRANT_URL", "SFM_QDRANT_API_KEY"):
        monkeypatch.setenv(name, " ")
    assert (load().qdrant_url, load().qdrant_api_key) == (None, None)


@pytest.mark.parametrize("url", ["localhost:6334", "http://", "http://:x@h", "http://h:x", "http://[::1"])
def test_an_address_of_qdrant_that_is_none_does_not_serve(url: str) -> None:
    with pytest.raises(StoreRefused, match="SFM_QDRANT_URL is not an address: "):
        stores.build_index(load({"qdrant_url": url}))


def test_a_prefix_is_part_of_a_name() -> None:
    for prefix in ("a/b", "", "a b", "ä", "x" * 65):
        assert refusal(SFM_QDRANT_PREFIX=prefix).startswith("SFM_QDRANT_PREFIX: ")


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    absent = tmp_path / "absent.pem"
    assert refusal(SFM_TLS_CERT_FILE=str(absent)) == f"SFM_TLS_CERT_FILE: {absent} cannot be read"


@pytest.mark.parametrize("address", ["", "50051", ":50051", "localhost", "localhost:", "localhost:x", "127.0.0.1:65536", "h:-1"])
def test_an_address_that_is_none_is_told_with_an_example(address: str) -> None:
    with pytest.raises(ValueError, match="write host:port, for example"):
        split_address(address)
    assert "is not an address" in refusal(SFM_LISTEN=address)


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("localhost:0", ("localhost", 0)),
        ("127.0.0.1:50051", ("127.0.0.1", 50051)),
        ("[::1]:50051", ("::1", 50051)),
        ("db.example.com:65535", ("db.example.com", 65535)),
    ],
)
def test_an_address_is_a_host_and_a_port(address: str, parts: tuple[str, int]) -> None:
    assert split_address(address) == parts


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("example.com", False),
        ("localhost.example.com", False),
        ("unix.example.com", False),
        ("127.0.0.1.example.com", False),
    ],
)
def test_loopback_is_what_only_this_machine_reaches(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load().dimension_max = 3  # type: ignore[misc]


def test_limits_are_settings_that_bound_what_callers_send() -> None:
    s = load({"dimension_max": 77})
    assert s.limits["dimension_max"] == 77
    assert all(getattr(s, name) == value for name, value in s.limits.items())
    published = {"message_bytes_max", "inflight_bytes_max", "concurrent_rpcs_max", "dimension_max", "keys_per_commit_max"}
    assert published | {"keys_per_namespace_max", "metadata_bytes_max", "page_size_max"} <= set(s.limits)


def test_every_process_has_a_name() -> None:
    assert load({"node_id": "n7"}).node == "n7"
    assert load().node == load().node != ""
