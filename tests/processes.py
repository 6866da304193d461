"""Commands in processes of their own that need not import everything first."""

import os
import sys
import tempfile
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

from rlsuite.cli import main

CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        *("rlsuite.build", "rlsuite.cli", "rlsuite.buffers.compiled_rows", "torch._dynamo"),
        *("matplotlib.figure", "mujoco", "pytest"),
    ]
)


def command(*words: object) -> None:
    """The command ``rlsuite``."""
    sys.exit(main([*map(str, words), "--quiet"]))


class Process:
    """A function in a process of its own, forked from one that has only imported."""

    def __init__(self, function: Callable[..., None], *arguments: object) -> None:
        descriptor, self.errors = tempfile.mkstemp()
        os.close(descriptor)
        self._process = CONTEXT.Process(target=_alone, args=(self.errors, function, arguments))
        self._process.start()

    def running(self) -> bool:
        return self._process.is_alive()

    def signal(self, number: int) -> None:
        os.kill(self._process.pid, number)

    def finish(self, seconds: float = 300) -> tuple[int, str]:
        """Exit code and what was printed to stderr."""
        self._process.join(seconds)
        assert not self.running()
        errors = Path(self.errors)
        text = errors.read_text()
        errors.unlink()
        return self._process.exitcode, text

    def kill(self) -> bool:
        """Whether it was still running."""
        alive = self.running()
        self._process.kill()
        self.finish()
        return alive


def _alone(errors: str, function: Callable[..., None], arguments: tuple) -> None:
    os.setsid()
    for stream, path in ((1, os.devnull), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY), stream)
    function(*arguments)


def finish(process: Process, seconds: float = 300) -> None:
    code, errors = process.finish(seconds)
    assert code == 0, errors
