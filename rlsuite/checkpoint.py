"""Atomic, verified checkpoints without pickle: safetensors for tensors, JSON for the rest.

A checkpoint is a folder. It is staged under another name, every file is synced to the disk, a
manifest with the SHA-256 of each file is written last, and one rename makes it visible. Whoever is
killed at any moment leaves the previous checkpoint whole.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from rlsuite.errors import UserError
from rlsuite.types import Chunk, State

MANIFEST = "manifest.json"
FORMAT = 1
STAGING = ".staging-"


class CheckpointStore:
    """The checkpoints of one run; the two newest are kept."""

    def __init__(self, folder: Path) -> None:
        """Nothing is read or made yet."""
        self.folder = folder

    def save(self, transitions: int, state: State) -> Path:
        """Write ``state`` so that it survives a crash right after; returns its folder.

        Chunks that the previous checkpoint holds are linked, not written. Raises UserError if the
        disk is full or cannot be written; the previous checkpoint is then untouched.
        """
        staging = self.folder / f"{STAGING}{transitions:012d}"
        final = self.folder / f"{transitions:012d}"
        try:
            staging.mkdir(parents=True)
            _write(staging, state, previous=self._latest())
            if final.exists():
                shutil.rmtree(final)
            staging.rename(final)
            _sync(self.folder)
            self._point_to(final)
        except OSError as error:
            shutil.rmtree(staging, ignore_errors=True)
            what = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or error
            raise UserError(
                f"cannot write the checkpoint {final}: {what}; the previous one is kept: "
                "make room, then resume the run"
            ) from error
        for old in self._folders()[2:]:
            shutil.rmtree(old, ignore_errors=True)
        return final

    def load(self) -> State | None:
        """The newest state that passes its check, or None if nothing was ever saved.

        Changes nothing, so that a run can be looked at while it trains. A broken checkpoint is
        named in a warning and the one before is taken. Raises UserError if there are only broken
        ones.
        """
        state, _ = self._load()
        return state

    def recover(self) -> State | None:
        """``load`` for whoever goes on writing.

        Also removes what is left of a write that was killed, and checkpoints that are broken.
        """
        for stale in self.folder.glob(f"{STAGING}*"):
            shutil.rmtree(stale, ignore_errors=True)
        state, found = self._load()
        for other in self._folders():
            if found and other > found:
                shutil.rmtree(other)
        if found:
            self._point_to(found)
        return state

    def newest(self) -> Path | None:
        """The folder that ``load`` reads first, or None if nothing was ever saved."""
        return self._latest() or next(iter(self._folders()), None)

    def _load(self) -> tuple[State | None, Path | None]:
        latest = self._latest()
        folders = [f for f in [latest] if f] + [f for f in self._folders() if f != latest]
        problems = []
        for folder in folders:
            try:
                state = read(folder)
            except UserError as error:
                problems.append(str(error))
                continue
            for problem in problems:
                warnings.warn(f"{problem}; taking {folder.name} instead", stacklevel=2)
            return state, folder
        if problems:
            raise UserError(f"{problems[0]}; no other checkpoint is left: train anew")
        return None, None

    def _folders(self) -> list[Path]:
        """Newest first."""
        return sorted((p for p in self.folder.glob("*") if p.name.isdigit()), reverse=True)

    def _latest(self) -> Path | None:
        pointer = self.folder / "latest"
        if not pointer.exists():
            return None
        target = self.folder / pointer.read_text().strip()
        return target if target.is_dir() else None

    def _point_to(self, target: Path) -> None:
        staging = self.folder / "latest.new"
        _write_file(staging, target.name.encode())
        staging.replace(self.folder / "latest")
        _sync(self.folder)


def read(folder: Path) -> State:
    """The state in a checkpoint folder. Raises UserError naming the file that is missing or bad."""
    manifest = _read_manifest(folder)
    for name, digest in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"broken checkpoint: {path} is missing")
        if _hash_file(path) != digest:
            raise UserError(f"broken checkpoint: {path} is not what was written")
    try:
        tensors = safetensors.torch.load_file(folder / "tensors.safetensors")
        state = json.loads((folder / "state.json").read_text())
        return _restore(state, tensors, folder)  # type: ignore[no-any-return]
    except (KeyError, ValueError, OSError, SafetensorError) as error:
        raise UserError(f"broken checkpoint: {folder}: {error}") from error


def is_checkpoint(folder: Path) -> bool:
    """Whether it is the folder of one checkpoint: ``read`` may find it broken."""
    return (folder / MANIFEST).is_file()


def fingerprint(folder: Path) -> str:
    """The SHA-256 of a checkpoint, by its manifest. Raises UserError if that cannot be read."""
    _read_manifest(folder)
    return _hash_file(folder / MANIFEST)


def find_nonfinite(state: Any, path: str = "") -> str | None:
    """The name of the first float tensor with a NaN or infinity in it, else None."""
    if isinstance(state, Tensor):
        bad = state.is_floating_point() and not bool(torch.isfinite(state).all())
        return path if bad else None
    if isinstance(state, dict):
        for key, child in state.items():
            found = find_nonfinite(child, f"{path}/{key}" if path else str(key))
            if found:
                return found
    return None


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
        if manifest["format"] != FORMAT:
            raise UserError(
                f"{folder} has checkpoint format {manifest['format']}, this version reads {FORMAT}"
            )
        names = manifest["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"broken checkpoint: {path}: {error}") from error
    if any(Path(name).name != name for name in names):
        raise UserError(f"broken checkpoint: {path} names a file outside its folder")
    return manifest  # type: ignore[no-any-return]


def _write(folder: Path, state: State, previous: Path | None) -> None:
    known = _read_manifest(previous)["files"] if previous else {}
    tensors: dict[str, Tensor] = {}
    chunks: dict[str, Chunk] = {}
    skeleton = _dismantle(state, "", tensors, chunks)
    _separate(tensors)
    files = {
        "state.json": _write_file(folder / "state.json", json.dumps(skeleton).encode()),
        "tensors.safetensors": _write_tensors(folder / "tensors.safetensors", tensors),
    }
    for name, chunk in chunks.items():
        if previous and name in known:
            _link(previous / name, folder / name)
            files[name] = known[name]
        else:
            payload = {key: _plain(tensor) for key, tensor in chunk.tensors.items()}
            files[name] = _write_tensors(folder / name, payload)
    manifest = {"format": FORMAT, "files": files}
    _write_file(folder / MANIFEST, json.dumps(manifest, indent=1).encode())
    _sync(folder)


def _separate(tensors: dict[str, Tensor]) -> None:
    """Copy tensors that share memory, which safetensors refuses."""
    seen: set[int] = set()
    for name, tensor in tensors.items():
        memory = tensor.untyped_storage().data_ptr()
        if memory in seen:
            tensors[name] = tensor.clone()
        seen.add(memory)


def _dismantle(node: Any, path: str, tensors: dict[str, Tensor], chunks: dict[str, Chunk]) -> Any:
    """The JSON skeleton; tensors and chunks are collected and stand in it by name."""
    if isinstance(node, Tensor):
        tensors[path] = _plain(node)
        return {"$tensor": path}
    if isinstance(node, Chunk):
        name = f"{node.name}.safetensors"
        chunks[name] = node
        return {"$chunk": name}
    if isinstance(node, dict):
        return {
            str(key): _dismantle(child, f"{path}/{key}" if path else str(key), tensors, chunks)
            for key, child in node.items()
        }
    if isinstance(node, list | tuple):
        return [_dismantle(child, f"{path}/{i}", tensors, chunks) for i, child in enumerate(node)]
    return node


def _restore(node: Any, tensors: dict[str, Tensor], folder: Path) -> Any:
    if isinstance(node, list):
        return [_restore(child, tensors, folder) for child in node]
    if not isinstance(node, dict):
        return node
    if node.keys() == {"$tensor"}:
        return tensors[node["$tensor"]]
    if node.keys() == {"$chunk"}:
        path = folder / Path(node["$chunk"]).name
        return Chunk(path.stem, safetensors.torch.load_file(path))
    return {key: _restore(child, tensors, folder) for key, child in node.items()}


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()


def _write_file(path: Path, content: bytes) -> str:
    """Write, sync, and return the SHA-256."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(content).hexdigest()


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> str:
    """Write straight from the tensors' memory, sync, and return the SHA-256."""
    try:
        safetensors.torch.save_file(tensors, path)
    except SafetensorError as error:
        # The number of the system's error is told in the text alone.
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number[1]) if number else errno.EIO, str(error)) from error
    # safetensors makes files that only their owner can read.
    shutil.copymode(path.with_name("state.json"), path)
    _sync(path)
    return _hash_file(path)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        # Some network and FAT file systems have no hard links.
        _write_file(target, source.read_bytes())


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
