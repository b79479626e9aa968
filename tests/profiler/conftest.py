from __future__ import annotations

import pytest
from nvml_processes import RunWithNvml, build_library, runner


@pytest.fixture(scope="session")
def with_nvml(tmp_path_factory: pytest.TempPathFactory) -> RunWithNvml:
    """Runs a script whose process finds the stand-in as libnvidia-ml.so.1, by the real pynvml."""
    return runner(build_library(tmp_path_factory.mktemp("nvml")))


@pytest.fixture(scope="session")
def with_old_nvml(tmp_path_factory: pytest.TempPathFactory) -> RunWithNvml:
    """As ``with_nvml``, but the library is that of a driver before 535."""
    return runner(build_library(tmp_path_factory.mktemp("old_nvml"), "-DOLD_DRIVER"))
