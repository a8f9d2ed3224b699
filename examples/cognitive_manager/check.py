"""The final check: what the store holds is what the managers were promised, recomputed from the vectors alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from examples.cognitive_manager import density_trail, frequent_directions, ledger
from examples.cognitive_manager.state import RHO, state_in
from examples.cognitive_manager.stream import FloatArray, Stream
from examples.cognitive_manager.tally import Acknowledged
from sfm_grpc.client import Certificate, Client, RhoVersion, distances

_MILESTONES = 4


@dataclass(frozen=True, slots=True)
class Milestone:
    """How ρ was after so many batches."""

    batches: int
    entropy_bits: float
    purity: float


@dataclass(slots=True)
class Verdict:
    """What was found. It is well when there are no problems."""

    version: int
    rho: FloatArray
    certificate: Certificate
    psd_ok: bool
    """The server says so, and the eigenvalues that were computed here agree."""
    eigenvalue_min: float
    sketch_error: float
    """‖AᵀA − BᵀB‖₂ for the sketch B of everything seen, A."""
    sketch_bound: float
    taken: list[int]
    """The batches that are in ρ, in the order of their commits."""
    kept: int
    """Versions whose metadata and digest could be compared."""
    milestones: list[Milestone] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def check(client: Client, namespace: str, stream: Stream, batches: int, acknowledged: Iterable[Acknowledged]) -> Verdict:
    """Reads the end and the history, replays the trail in the order in which it was committed, and compares bit for bit.

    Raises ForeignNamespaceError, and what reading raises (RhoCorrupt among it).
    """
    handle = client.namespace(namespace)
    snapshot = handle.read(consistency="canonical")
    snapshot.verify()
    state, certificate = state_in(snapshot, stream), snapshot.certificates[RHO]
    rho, trail = state.rho, ledger.trail(state.ledger)
    eigenvalue_min = float(np.linalg.eigvalsh(rho)[0])
    told = [r for r in client.health(namespace).rho if r.namespace == namespace]
    seen = np.concatenate([stream.batch(batch) for _, batch in trail])
    verdict = Verdict(
        version=snapshot.version,
        rho=rho,
        certificate=certificate,
        # eigvalsh itself is off by some d·u at most.
        psd_ok=bool(told)
        and all(r.psd_ok for r in told)
        and eigenvalue_min >= certificate.min_eigenvalue_bound - len(rho) * 2.0**-52,
        eigenvalue_min=eigenvalue_min,
        sketch_error=float(np.abs(np.linalg.eigvalsh(seen.T @ seen - state.sketch.T @ state.sketch)).max()),
        sketch_bound=frequent_directions.error_bound(state.sketch, len(seen)),
        taken=[batch for _, batch in trail],
        kept=0,
    )
    digests = _replay(verdict, trail, stream)
    _check_end(verdict, trail, batches)
    _check_acknowledged(verdict, trail, digests, acknowledged)
    _check_history(verdict, dict(trail), digests, handle.versions())
    return verdict


def check_each(targets: Sequence[str], tenant: str, namespace: str, verdict: Verdict) -> None:
    """Whichever of the servers is asked, the answer is the same: each one's own, of the newest version, bit for bit."""
    for target in targets:
        with Client(target, tenant=tenant, name="demo") as client:
            snapshot = client.namespace(namespace).read(RHO)
            snapshot.verify()
        if (snapshot.version, snapshot.certificates[RHO].digest) != (verdict.version, verdict.certificate.digest):
            verdict.problems.append(f"{target} answers version {snapshot.version}, not the ρ of version {verdict.version}")


def _replay(verdict: Verdict, trail: list[tuple[int, int]], stream: Stream) -> dict[int, str]:
    """ρ again from I/d and the vectors: the digest it must have had at each version; milestones on the way."""
    digests: dict[int, str] = {}
    rho = density_trail.start(stream.dimension)
    stops = {round(i * len(trail) / _MILESTONES) for i in range(_MILESTONES + 1)}
    for done in range(len(trail) + 1):
        if done:
            version, batch = trail[done - 1]
            rho = density_trail.follow(rho, stream.batch(batch))
            digests[version] = hashlib.sha256(rho.data).hexdigest()
        if done in stops:
            verdict.milestones.append(Milestone(done, distances.entropy(rho, "bits"), distances.purity(rho)))
    if not np.array_equal(rho, verdict.rho):
        verdict.problems.append(f"ρ is not what its batches make of it: off by {np.abs(rho - verdict.rho).max():.3g}")
    return digests


def _check_end(verdict: Verdict, trail: list[tuple[int, int]], batches: int) -> None:
    missing = sorted(set(range(batches)) - {batch for _, batch in trail})
    if missing:
        verdict.problems.append(f"{len(missing)} of {batches} batches were not taken: {missing[:10]}")
    if len({version for version, _ in trail}) < len(trail):
        verdict.problems.append("two batches claim the same version")
    if not verdict.psd_ok:
        verdict.problems.append(f"ρ is not positive semi-definite (λ_min {verdict.eigenvalue_min:.3g}), or the server says so")
    if not verdict.certificate.valid:
        verdict.problems.append("the certificate of ρ is not valid")
    if verdict.sketch_error > verdict.sketch_bound:
        verdict.problems.append(f"the sketch is off by {verdict.sketch_error:.4g}, its bound is {verdict.sketch_bound:.4g}")


def _check_acknowledged(
    verdict: Verdict, trail: list[tuple[int, int]], digests: Mapping[int, str], acknowledged: Iterable[Acknowledged]
) -> None:
    held = set(trail)
    for commit in acknowledged:
        if (commit.version, commit.batch) not in held:
            verdict.problems.append(f"acknowledged and lost: version {commit.version} with batch {commit.batch}")
        elif digests[commit.version] != commit.rho_digest:
            verdict.problems.append(f"version {commit.version} was acknowledged with another ρ than its batches make")


def _check_history(verdict: Verdict, trail: Mapping[int, int], digests: Mapping[int, str], history: Iterable[RhoVersion]) -> None:
    """Every version that is kept says the same as the ledger, and certifies the ρ that the replay found."""
    for record in history:
        verdict.kept += 1
        if record.metadata.get("batch") != str(trail.get(record.version)):
            verdict.problems.append(f"version {record.version} is not what the ledger says of it: {dict(record.metadata)}")
            continue
        certified = next((e.certificate.digest.hex() for e in record.entries if e.key == RHO), "none")
        if certified != digests[record.version]:
            verdict.problems.append(f"version {record.version} certifies another ρ than its batches make")
