"""Frames one after the other: a GIF, or an MP4 by ffmpeg."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from shards.files import naming
from spider.errors import SpiderError, SpiderUsageError

Frame = npt.NDArray[np.uint8]  # [height, width, 3]

FRAMES_PER_S = 12
_MOST_IN_GIF = 50  # frames a second, which a GIF counts in hundredths; viewers slow down shorter ones
MOVIES = (".gif", ".mp4")


def require_writer(path: Path, fps: int = FRAMES_PER_S) -> None:
    """Raises SpiderError: nothing here writes such a file; SpiderUsageError: not with so many frames a second."""
    if path.suffix == ".gif" and fps > _MOST_IN_GIF:
        raise SpiderUsageError(f"--fps {fps}: a .gif has at most {_MOST_IN_GIF} frames a second; .mp4 takes more")
    if path.suffix == ".mp4" and shutil.which("ffmpeg") is None:
        raise SpiderError(f"{path}: .mp4 needs ffmpeg on PATH, and there is none; .gif needs nothing")


def write_movie(path: Path, frames: Iterator[Frame], fps: int = FRAMES_PER_S) -> None:
    """Write frames of one size, whole or not at all. Raises SpiderError: ffmpeg failed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".tmp-{path.name}")
    try:
        with naming(path):
            (_write_gif if path.suffix == ".gif" else _write_mp4)(beside, frames, fps)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _write_gif(path: Path, frames: Iterator[Frame], fps: int) -> None:
    first, *others = (Image.fromarray(frame) for frame in frames)
    first.save(path, save_all=True, append_images=others, duration=round(1000 / fps), loop=0)


def _write_mp4(path: Path, frames: Iterator[Frame], fps: int) -> None:
    pixels = list(frames)
    height, width, _ = pixels[0].shape
    command = ["ffmpeg", "-loglevel", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-video_size", f"{width}x{height}", "-framerate", str(fps), "-i", "-"]
    # Players want 4:2:0, which has even sides
    command += ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-pix_fmt", "yuv420p", "-f", "mp4", str(path)]
    done = subprocess.run(command, input=b"".join(frame.tobytes() for frame in pixels), capture_output=True)
    if done.returncode:
        raise SpiderError(f"{path}: ffmpeg failed: {' '.join(done.stderr.decode(errors='replace').split())}")
