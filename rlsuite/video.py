"""Watching a policy: a window, or frames straight into a video file."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from rlsuite.build import advised, env_maker
from rlsuite.config import EnvConfig, Experiment
from rlsuite.envs import SerialVectorEnv
from rlsuite.errors import UserError


def record_video(
    agent: Any, experiment: Experiment, path: Path, *, seed: int = 0, max_steps: int = 1_000
) -> Path:
    """One episode without exploration, at most ``max_steps`` of it, as an MP4 or GIF file.

    Works without a display. ``agent`` needs an ``act``. Raises UserError if the report extra, a
    way to render, or a folder that can be written is missing.
    """
    try:
        import imageio
        import imageio_ffmpeg  # noqa: F401
    except ImportError:
        raise UserError("videos need the report extra: pip install 'rlsuite[report]'") from None
    env = _renderable(experiment.simulator, "rgb_array")
    envs = advised(experiment, SerialVectorEnv(lambda: env, 1, seed), seed)
    fps = env.metadata.get("render_fps", 30)
    # One pixel row or column is cut where H.264 needs even sizes; 16 would rescale the picture.
    options: dict[str, Any] = {"macro_block_size": 2} if path.suffix == ".mp4" else {}
    try:
        obs = envs.reset()
        writer: Any
        with imageio.get_writer(path, fps=fps, **options) as writer:
            for _ in range(max_steps):
                writer.append_data(_render(env))
                stepped = envs.step(agent.act(obs, explore=False)[0])
                obs = stepped.obs
                if stepped.episodes:
                    break
    except (OSError, ValueError) as error:
        raise UserError(f"cannot write the video {path}: {error}") from error
    finally:
        envs.close()
    return path


def show(agent: Any, experiment: Experiment, *, seed: int = 0, episodes: int = 1) -> list[float]:
    """Episodes in a window; their returns. Raises UserError if no window can be opened."""
    env = _renderable(experiment.simulator, "human")
    envs = advised(experiment, SerialVectorEnv(lambda: env, 1, seed), seed)
    returns: list[float] = []
    try:
        obs = envs.reset()
        while len(returns) < episodes:
            _render(env)
            stepped = envs.step(agent.act(obs, explore=False)[0])
            obs = stepped.obs
            returns += [episode.episode_return for episode in stepped.episodes]
    finally:
        envs.close()
    return returns


def _renderable(config: EnvConfig, mode: str) -> Any:
    if mode == "rgb_array" and sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    env = env_maker(config, mode)()
    if mode not in env.metadata.get("render_modes", []):
        raise UserError(f"environment {config.id!r} cannot render as {mode}")
    return env


def _render(env: Any) -> Any:
    try:
        return env.unwrapped.render()  # lanes reset the environment inside Gymnasium's wrappers
    except Exception as error:  # the graphics libraries raise anything, also plain Exception
        raise UserError(
            f"cannot render {env.spec.id if env.spec else env}: {type(error).__name__}: "
            f"{' '.join(str(error).split())}; without a display MuJoCo needs a software OpenGL, "
            "on Debian: apt-get install libegl1 libgl1-mesa-dri"
        ) from error
