"""The numbers a client reads are the numbers that were committed, bit for bit, in whatever form they came."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from sfm_grpc.model import Dtype, Kind, Layout, PsdMethod
from tests.support.drivers import Driver, Put, put, restart
from tests.support.matrices import Array, density, sha256, sketch

TINY = 5e-324  # the smallest denormal


def awkward_density(dtype: str) -> np.ndarray:
    """Negative zeros, denormals, numbers that no short decimal is equal to; the two triangles differ in the sign of a zero."""
    tiny = TINY if dtype == "<f8" else 1e-45
    m = np.diag([0.1 + 0.2, 1 - (0.1 + 0.2), tiny, 0.0]).astype(dtype)
    m[0, 2] = m[2, 0] = -tiny
    m[0, 3] = -0.0
    m[1, 2], m[2, 1] = -0.0, 0.0
    return m


def awkward_sketch(dtype: str) -> np.ndarray:
    """Every kind of finite number."""
    info = np.finfo(dtype)
    values = [0.0, -0.0, info.max, info.min, info.tiny, -info.smallest_subnormal, 1 / 3, np.pi, 1e-30, 1 + info.eps, -1.5, 2.0]
    return np.array(values, dtype).reshape(3, 4)


async def test_every_form_comes_back_bit_for_bit(driver: Driver) -> None:
    cases = list(
        itertools.product(
            [(awkward_density, Kind.DENSITY), (awkward_sketch, Kind.GENERIC)],
            ["data", "doubles", "envelope", "zlib"],
            ["<f8", "<f4"],
        )
    )
    for i, ((make, kind), form, dtype) in enumerate(cases):
        sent = make(dtype)
        receipt = (await put(driver, f"n{i}", 0, Put("k", sent, form=form, kind=kind)))["k"]
        assert (receipt.clamped, receipt.digest) == (False, sha256(sent)), (make, form, dtype)
    for when in ("cached", "stored"):
        for i, ((make, _), form, dtype) in enumerate(cases):
            held = (await driver.get(f"n{i}"))["k"]
            assert held.numbers == make(dtype).tobytes(), (when, make, form, dtype)
            assert held.certificate.dtype is (Dtype.FLOAT64 if dtype == "<f8" else Dtype.FLOAT32)
            assert held.certificate.shape == make(dtype).shape
        await restart(driver)


async def test_a_factor_is_stored_unscaled_and_never_densified(driver: Driver) -> None:
    cases = list(itertools.product(["factor", "factor_envelope"], ["<f8", "<f4"]))

    def factor(dtype: str) -> Array:
        s = sketch(3, 40, dtype=dtype) * np.dtype(dtype).type(1e3)
        s[0, 0] = -0.0
        return s

    for i, (form, dtype) in enumerate(cases):
        receipt = (await put(driver, f"n{i}", 0, Put("rho", factor(dtype), form=form)))["rho"]
        assert receipt.digest == sha256(factor(dtype)), (form, dtype)
    await restart(driver)
    for i, (form, dtype) in enumerate(cases):
        held = (await driver.get(f"n{i}"))["rho"]
        assert held.numbers == factor(dtype).tobytes(), (form, dtype)
        certificate = held.certificate
        assert (certificate.layout, certificate.shape, certificate.psd_method) == (Layout.FACTOR, (3, 40), PsdMethod.FACTOR)
        assert (certificate.min_eigenvalue_bound, certificate.trace_error, certificate.valid) == (0.0, 0.0, True)


async def test_a_matching_digest_is_accepted_with_every_form(guest: Driver) -> None:
    for version, form in enumerate(["data", "doubles", "envelope", "zlib"]):
        await put(guest, "n", version, Put("rho", density(), form=form, digest=sha256(density())))
    await put(guest, "n", 4, Put("rho", sketch(), form="factor", digest=sha256(sketch())))
    assert (await guest.get("n")).version == 5


async def test_reading_and_committing_again_changes_no_bit(guest: Driver) -> None:
    sent = density(32)
    await put(guest, "n", 0, Put("rho", sent))
    for version in range(1, 4):
        read = np.frombuffer((await guest.get("n"))["rho"].numbers).reshape(32, 32)
        receipt = (await put(guest, "n", version, Put("rho", read)))["rho"]
        assert (receipt.digest, receipt.clamped, receipt.step) == (sha256(sent), False, 0.0)


async def test_a_trace_that_float32_vectors_leave_off_is_accepted_untouched(guest: Driver) -> None:
    vectors = np.random.default_rng(0).standard_normal((500, 48)).astype("<f4")
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    v = vectors.astype("<f8")
    rho = v.T @ v / len(v)
    rho = (rho + rho.T) / 2
    rho *= (1 + 6e-8) / np.trace(rho)
    receipt = (await put(guest, "n", 0, Put("rho", rho)))["rho"]
    assert (receipt.clamped, receipt.digest) == (False, sha256(rho))
    assert receipt.certificate.trace_error == pytest.approx(6e-8, rel=1e-3)
    assert (await guest.get("n"))["rho"].numbers == rho.tobytes()


async def test_an_asymmetry_of_round_off_is_accepted_untouched(guest: Driver) -> None:
    rng = np.random.default_rng(0)
    vectors, importance = rng.standard_normal((300, 24)), rng.random(300)
    rho = (vectors.T * importance) @ vectors
    rho /= np.trace(rho)
    assert 0 < np.abs(rho - rho.T).max() < 1e-16
    receipt = (await put(guest, "n", 0, Put("rho", rho)))["rho"]
    assert (receipt.clamped, receipt.digest) == (False, sha256(rho))
    assert 0 < receipt.certificate.asymmetry < 1e-16
    assert (await guest.get("n"))["rho"].numbers == rho.tobytes()


async def test_all_sizes_come_back(driver: Driver) -> None:
    sizes = [1, 2, 127, 128, 129, 384]
    for d in sizes:
        await put(driver, f"n{d}", 0, Put("rho", density(d)))
    await restart(driver)
    for d in sizes:
        assert (await driver.get(f"n{d}"))["rho"].numbers == density(d).tobytes(), d
