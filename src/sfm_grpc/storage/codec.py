"""How records lie in a database's text columns: JSON that reads back to the same record, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from sfm_grpc.model import Certificate, Dtype, Kind, Layout, PsdMethod


def certificate_to_json(certificate: Certificate) -> str:
    """A certificate as JSON; floats keep every bit (shortest round-trip digits)."""
    c = certificate
    return orjson.dumps(
        {
            "kind": c.kind.name,
            "layout": c.layout.name,
            "dtype": c.dtype.name,
            "shape": c.shape,
            "sha256": c.digest.hex(),
            "valid": c.valid,
            "min_eigenvalue_bound": c.min_eigenvalue_bound,
            "psd_method": c.psd_method.name,
            "trace_error": c.trace_error,
            "asymmetry": c.asymmetry,
            "epsilon": c.epsilon,
            "trace_tolerance": c.trace_tolerance,
            "hermitian_tolerance": c.hermitian_tolerance,
            "clamped_mass": c.clamped_mass,
            "psd_ok": c.psd_ok,
            "trace_ok": c.trace_ok,
            "certify_time_us": c.certify_time_us,
        }
    ).decode()


def certificate_from_json(text: str) -> Certificate:
    """The certificate again. Raises ValueError or KeyError when the text is not one."""
    d = orjson.loads(text)
    rows, columns = d["shape"]
    return Certificate(
        kind=Kind[d["kind"]],
        layout=Layout[d["layout"]],
        dtype=Dtype[d["dtype"]],
        shape=(rows, columns),
        digest=bytes.fromhex(d["sha256"]),
        valid=d["valid"],
        min_eigenvalue_bound=d["min_eigenvalue_bound"],
        psd_method=PsdMethod[d["psd_method"]],
        trace_error=d["trace_error"],
        asymmetry=d["asymmetry"],
        epsilon=d["epsilon"],
        trace_tolerance=d["trace_tolerance"],
        hermitian_tolerance=d["hermitian_tolerance"],
        clamped_mass=d["clamped_mass"],
        psd_ok=d["psd_ok"],
        trace_ok=d["trace_ok"],
        certify_time_us=d["certify_time_us"],
    )


def to_json(value: object) -> str:
    """Any JSON value, as short text."""
    return orjson.dumps(value).decode()


def mapping_from_json(text: str) -> Mapping[str, str]:
    """A commit's metadata again."""
    value = orjson.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"not a JSON object: {text[:40]}")
    return value


def strings_from_json(text: str) -> tuple[str, ...]:
    """A list of keys again."""
    return tuple(orjson.loads(text))


def payload_from_json(text: str) -> Mapping[str, object]:
    """An event's payload again."""
    return mapping_from_json(text)
