"""rlsuite: reinforcement-learning algorithms, correct to the decimal and small enough to read.

Importing it loads neither torch nor an environment; ``load`` does when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlsuite.build import load as load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    if name == "load":
        return import_module("rlsuite.build").load
    raise AttributeError(f"module 'rlsuite' has no attribute {name!r}")
