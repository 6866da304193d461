"""Checkpoints: what is read is what was written, whatever happens while writing."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlsuite.checkpoint import CheckpointStore, find_nonfinite, read
from rlsuite.errors import UserError
from rlsuite.types import Chunk

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**130), 2**130), st.floats(allow_nan=False), st.text()
)
tensors = st.sampled_from(
    [
        torch.arange(6.0).view(2, 3),
        torch.tensor(3.5, dtype=torch.float64),
        torch.tensor([True, False]),
        torch.empty(0, 4),
        torch.arange(12).view(3, 4)[:, 1:3],
        torch.randint(256, (5056,), dtype=torch.uint8),
    ]
)
keys = st.text(min_size=1).filter(lambda key: not key.startswith("$"))
states = st.dictionaries(
    keys,
    st.recursive(
        scalars | tensors,
        lambda node: st.lists(node, max_size=3) | st.dictionaries(keys, node, max_size=3),
        max_leaves=10,
    ),
    max_size=4,
)


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@settings(max_examples=60)
@given(state=states)
def test_round_trip(state: dict, tmp_path_factory: pytest.TempPathFactory) -> None:
    store = CheckpointStore(tmp_path_factory.mktemp("round"))
    store.save(1, state)
    assert same(store.load(), state)


def state_at(n: int) -> dict:
    return {"agent": {"w": torch.full((100,), float(n))}, "n": n}


def test_the_two_newest_are_kept_and_the_newest_is_read(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    assert store.load() is None
    for n in (10, 20, 30):
        store.save(n, state_at(n))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000000000020", "000000000030", "latest"]
    assert store.load()["n"] == 30


def test_whoever_may_read_one_file_may_read_them_all(tmp_path: Path) -> None:
    chunk = Chunk("c-1", {"x": torch.zeros(3)})
    folder = CheckpointStore(tmp_path).save(1, {"w": torch.zeros(3), "chunk": chunk})
    modes = {path.name: path.stat().st_mode for path in folder.iterdir()}
    assert len(modes) == 4 and len(set(modes.values())) == 1, modes


@pytest.mark.parametrize("file", ["state.json", "tensors.safetensors", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_broken_checkpoint_gives_way_to_the_one_before(
    tmp_path: Path, file: str, damage: str
) -> None:
    store = CheckpointStore(tmp_path)
    store.save(10, state_at(10))
    path = store.save(20, state_at(20)) / file
    content = path.read_bytes()
    if damage == "remove":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    for read_it in (store.load, store.recover):
        with pytest.warns(UserWarning, match=r"broken checkpoint.*taking 000000000010"):
            assert read_it()["n"] == 10
    assert store.recover()["n"] == 10  # it is gone: no further warning
    store.save(20, state_at(20))
    assert store.load()["n"] == 20


def test_looking_at_a_run_changes_nothing(tmp_path: Path) -> None:
    """Another process may be in the middle of a write."""
    store = CheckpointStore(tmp_path / "checkpoints")
    assert store.load() is None and not store.folder.exists()
    store.save(10, state_at(10))
    staging = store.folder / ".staging-000000000020"
    staging.mkdir()
    assert CheckpointStore(store.folder).load()["n"] == 10
    assert staging.exists()
    assert CheckpointStore(store.folder).recover()["n"] == 10
    assert not staging.exists()


def test_only_broken_ones_is_an_error(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    (store.save(10, state_at(10)) / "state.json").write_text("{}")
    with pytest.raises(UserError, match="is not what was written; no other checkpoint is left"):
        store.load()


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    """A pickle that runs code, in place of the tensors, with a manifest made to fit."""
    store = CheckpointStore(tmp_path / "store")
    folder = store.save(10, state_at(10))
    mark = tmp_path / "executed"

    class Attack:
        def __reduce__(self) -> tuple:
            return (os.mkdir, (str(mark),))

    content = pickle.dumps(Attack())
    (folder / "tensors.safetensors").write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    import hashlib

    manifest["files"]["tensors.safetensors"] = hashlib.sha256(content).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="broken checkpoint"):
        store.load()
    assert not mark.exists()


def test_a_manifest_cannot_lead_outside(tmp_path: Path) -> None:
    folder = CheckpointStore(tmp_path).save(10, state_at(10))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["../latest"] = "0"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="outside its folder"):
        read(folder)


def test_full_disk_keeps_the_previous(tmp_path: Path) -> None:
    """A real full file system: a 1 MiB limit on the size of files that the process may write."""
    code = f"""
import resource, signal, torch
from pathlib import Path
from rlsuite.checkpoint import CheckpointStore
from rlsuite.errors import UserError
store = CheckpointStore(Path({str(tmp_path)!r}))
store.save(10, {{"n": 10}})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
try:
    store.save(20, {{"w": torch.zeros(2**20)}})
except UserError as error:
    print(error)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "cannot write the checkpoint" in out.stdout and "previous one is kept" in out.stdout
    store = CheckpointStore(tmp_path)
    assert store.load() == {"n": 10}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000000000010", "latest"]


WRITER = """
import sys, torch
from pathlib import Path
from rlsuite.checkpoint import CheckpointStore
from rlsuite.types import Chunk
store = CheckpointStore(Path(sys.argv[1]))
state = store.recover()
n = state["n"] if state else 0
print("ready", flush=True)
while True:
    n += 1
    chunks = {str(i): Chunk(f"c-{i}-{n if i == n % 8 else 0}", {"x": torch.full((20_000,), i)})
              for i in range(8)}
    store.save(n, {"n": n, "w": torch.full((50_000,), float(n)), "chunks": chunks})
    print(n, flush=True)
"""


def test_killed_at_random_moments_of_writing(tmp_path: Path) -> None:
    """SIGKILL while saving without pause: always loadable, whole, and nothing saved is lost."""
    generator = torch.Generator().manual_seed(0)
    last = 0
    for _ in range(6):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout.readline() == "ready\n"
            saved = int(process.stdout.readline())
            time.sleep(0.3 * float(torch.rand((), generator=generator)))
            process.send_signal(signal.SIGKILL)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            state = CheckpointStore(tmp_path).load()
        assert state is not None and state["n"] >= saved > last
        assert (state["w"] == state["n"]).all()
        assert all((chunk.tensors["x"] == int(i)).all() for i, chunk in state["chunks"].items())
        last = state["n"]


def test_equal_chunks_are_linked(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    old = {"a": Chunk("a-1", {"x": torch.ones(3)}), "b": Chunk("b-1", {"x": torch.ones(3)})}
    new = {"a": Chunk("a-1", {"x": torch.ones(3)}), "b": Chunk("b-2", {"x": torch.zeros(3)})}
    first, second = store.save(1, old), store.save(2, new)
    name = "a-1.safetensors"
    assert (first / name).stat().st_ino == (second / name).stat().st_ino
    assert store.load()["b"].tensors["x"].tolist() == [0, 0, 0]


def test_find_nonfinite() -> None:
    state = {"a": torch.ones(2), "b": {"c": torch.tensor([1.0, float("nan")])}, "d": torch.ones(1)}
    assert find_nonfinite(state, "agent") == "agent/b/c"
    assert find_nonfinite({"a": torch.ones(2), "n": torch.tensor([1])}) is None
