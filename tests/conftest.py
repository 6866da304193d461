"""Options of the test-suite."""

import hypothesis
import pytest
import torch
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

# The device without hardware of test_device.py. Autograd counts the devices at the first backward
# of a process, so that it has to be there before any test runs.
if not torch.cuda.is_available():  # it would hide the real device from torch.accelerator
    _setup_privateuseone_for_python_backend("fakegpu")
    torch.get_device_module("fakegpu").synchronize = lambda: None  # tensordict calls it

# How long an example takes depends on what else the machine does, and on whether numba compiles.
hypothesis.settings.register_profile("suite", deadline=None)
hypothesis.settings.load_profile("suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=4, help="kills of each run in test_resume.py")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    # Tests run in several processes at once; more threads than cores only wait for each other.
    torch.set_num_threads(1)
