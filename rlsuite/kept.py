"""What took long to measure, kept on disk, so that whoever was interrupted goes on from there."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import rlsuite


def keep(folder: Path, name: str, seed: int, measure: Callable[[], Any]) -> Any:
    """What is kept under ``name``, or what ``measure`` returns, which is then kept.

    Only what was measured with the same seed by the same code counts: whatever changes in this
    package, in torch or in NumPy may change what is measured. The value goes through JSON, when it
    is measured too: tuples come back as lists. Whoever is killed leaves the file whole or none.
    """
    path = folder / f"{re.sub(r'[^0-9A-Za-z.]+', '-', name)}.json"
    origin = {"name": name, "seed": seed, **_versions()}
    if path.exists():
        found = json.loads(path.read_text("utf-8"))
        if found["origin"] == origin:
            return found["value"]
    text = json.dumps({"origin": origin, "value": measure()})
    folder.mkdir(parents=True, exist_ok=True)
    staging = path.with_suffix(".partial")
    staging.write_text(text, "utf-8")
    staging.replace(path)
    return json.loads(text)["value"]


@functools.cache
def _versions() -> dict[str, str]:
    """Of all that measures; of this package the SHA-256 of its source, which has a version a
    release only.
    """
    digest = hashlib.sha256()
    root = Path(rlsuite.__file__).parent
    # a checkout has links to its folders, which Path.rglob does not follow
    walked = os.walk(root, followlinks=True)
    for path in sorted(Path(at, name) for at, _, names in walked for name in names):
        if path.suffix == ".py":
            digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return {"source": digest.hexdigest(), **{name: version(name) for name in ("torch", "numpy")}}
