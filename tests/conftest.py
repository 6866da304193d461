"""Options of the test-suite."""

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=4, help="kills of each run in test_resume.py")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    # Tests run in several processes at once; more threads than cores only wait for each other.
    torch.set_num_threads(1)
