"""Two versions side by side, key by key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sfm_grpc.cli import output
from sfm_grpc.client import Factor, Kind, Snapshot, distances


@dataclass(frozen=True, slots=True)
class Difference:
    """One key of two versions. None: there is no such number."""

    key: str
    change: str
    """`same`, `changed`, `added`, `removed` or `resized`."""
    trace_distance: float | None = None
    fidelity: float | None = None
    frobenius: float | None = None
    purity: tuple[float | None, float | None] | None = None
    """Before and after."""
    entropy: tuple[float | None, float | None] | None = None
    """Before and after, in nats."""


def snapshots(before: Snapshot, after: Snapshot) -> list[Difference]:
    """Every key that either version holds, by name."""
    keys = sorted({*before, *after})
    # What `observe` let in may overflow; infinities are answer enough.
    with output.progress("keys", len(keys)) as advance, np.errstate(all="ignore"):
        return [_counted(_difference(key, before, after), advance) for key in keys]


def _counted(difference: Difference, advance: Callable[[], object]) -> Difference:
    advance()
    return difference


def _difference(key: str, before: Snapshot, after: Snapshot) -> Difference:
    a, b = before.value(key), after.value(key)
    change = _change(key, before, after)
    if _is_generic(key, before, after):
        return Difference(key, change, frobenius=_generic_step(a, b) if change in ("same", "changed") else None)
    found = Difference(key, change, purity=(_purity(a), _purity(b)), entropy=(_entropy(a), _entropy(b)))
    if change == "same":
        return replace(found, trace_distance=0.0, fidelity=1.0, frobenius=0.0)
    if change != "changed" or a is None or b is None:
        return found
    return replace(
        found,
        trace_distance=distances.trace_distance(a, b),
        fidelity=distances.fidelity(a, b),
        frobenius=distances.frobenius(a, b),
    )


def _purity(state: Any) -> float | None:
    return None if state is None else distances.purity(state)


def _entropy(state: Any) -> float | None:
    return None if state is None else distances.entropy(state)


def _change(key: str, before: Snapshot, after: Snapshot) -> str:
    if key not in before:
        return "added"
    if key not in after:
        return "removed"
    a, b = before.certificates[key], after.certificates[key]
    if (a.digest, a.layout, a.dtype, a.shape) == (b.digest, b.layout, b.dtype, b.shape):
        return "same"
    if a.shape[1] != b.shape[1] or (a.kind is Kind.GENERIC and a.shape != b.shape):
        return "resized"
    return "changed"


def _is_generic(key: str, before: Snapshot, after: Snapshot) -> bool:
    return (after if key in after else before).certificates[key].kind is Kind.GENERIC


def _generic_step(a: Any, b: Any) -> float:
    assert not isinstance(a, Factor), "a factor is always a density matrix"
    return float(np.linalg.norm(np.subtract(b, a, dtype=np.float64)))


def row(d: Difference) -> tuple[str, ...]:
    """A table row."""
    return (
        d.key,
        d.change,
        _digits(d.trace_distance),
        _digits(d.fidelity),
        _digits(d.frobenius),
        _arrow(d.purity),
        _arrow(d.entropy),
    )


def _arrow(pair: tuple[float | None, float | None] | None) -> str:
    return "" if pair is None else " → ".join(_digits(x) or "–" for x in pair)


def _digits(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
