"""Make certificates with other threads, vector levels and product kernels, for the report to compare."""

import pytest

OTHER_KERNELS = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE"}
SETTINGS = {
    "default": {},
    "again": {},
    "one thread": {"num_threads": 1},
    "other kernels": {"variables": OTHER_KERNELS},
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("engine", ["eager", "compiled", "manual", "fused", "portable"])
def test_first_steps(certify, suite, engine, setting, device):
    if suite.preset_name == "quick" and engine not in ("eager", "portable"):
        pytest.skip("takes half a minute more; measured with --preset default")
    certify(**{"variables": {}, "engine": engine, "device": device} | SETTINGS[setting])
