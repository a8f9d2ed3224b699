"""SFM_RHO_ENFORCEMENT=observe: violations of trace and PSD are let in, never clamped, and told."""

from __future__ import annotations

import numpy as np
import pytest

from sfm_grpc.errors import MatrixMalformed, RhoNotFinite, RhoNotHermitian
from sfm_grpc.model import PsdMethod
from tests.support.drivers import Driver, Put, put, restart
from tests.support.matrices import density, sha256, with_eigenvalue

pytestmark = pytest.mark.settings(rho_enforcement="observe")


async def test_a_negative_matrix_is_let_in_untouched_and_its_certificate_tells(driver: Driver) -> None:
    sent = with_eigenvalue(-0.25)
    receipt = (await put(driver, "n", 0, Put("rho", sent)))["rho"]
    certificate = receipt.certificate
    assert (receipt.clamped, receipt.digest) == (False, sha256(sent))
    assert (certificate.valid, certificate.psd_ok, certificate.trace_ok) == (False, False, True)
    assert certificate.psd_method is PsdMethod.EIGENVALUES
    assert certificate.min_eigenvalue_bound == pytest.approx(-0.25, abs=1e-9)
    await restart(driver)
    held = (await driver.get("n"))["rho"]
    assert (held.numbers, held.certificate) == (sent.tobytes(), certificate)


async def test_a_wrong_trace_is_let_in_untouched_and_its_certificate_tells(driver: Driver) -> None:
    certificate = (await put(driver, "n", 0, Put("rho", density() * 1.5)))["rho"].certificate
    assert (certificate.valid, certificate.psd_ok, certificate.trace_ok) == (False, True, False)
    assert certificate.trace_error == pytest.approx(0.5)


async def test_what_enforce_would_clamp_is_not_clamped(driver: Driver) -> None:
    sent = with_eigenvalue(-5e-9)
    receipt = (await put(driver, "n", 0, Put("rho", sent)))["rho"]
    assert (receipt.clamped, receipt.digest, receipt.certificate.valid) == (False, sha256(sent), True)
    assert -1e-8 <= receipt.certificate.min_eigenvalue_bound <= -5e-9


async def test_a_version_with_an_invalid_matrix_is_not_valid(driver: Driver) -> None:
    await put(driver, "n", 0, Put("rho", with_eigenvalue(-0.25)))
    await put(driver, "n", 1, Put("rho", density()))
    assert [v.valid for v in (await driver.versions("n")).versions] == [True, False]


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (np.full((2, 2), np.nan), RhoNotFinite),
        (np.array([[0.5, 0.5], [0.0, 0.5]]), RhoNotHermitian),
        (np.eye(2, 3), MatrixMalformed),
    ],
    ids=["nan", "not Hermitian", "not square"],
)
async def test_everything_else_is_refused_as_ever(driver: Driver, wrong: np.ndarray, error: type[Exception]) -> None:
    with pytest.raises(error):
        await put(driver, "n", 0, Put("rho", wrong))
