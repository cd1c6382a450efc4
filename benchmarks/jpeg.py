"""JPEG decoders, from memory to pixels: images a second on one thread and on two, and how far from Pillow's values.

    python benchmarks/jpeg.py PICTURES.zip

Takes whatever is installed of simplejpeg, PyTurboJPEG and opencv-python-headless beside Pillow. The pictures are 300 JPEGs
of the zip as they are, and scaled up to larger sizes, with noise so that their files are as heavy as photographs.
"""

from __future__ import annotations

import io
import random
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any

import numpy as np
from PIL import Image

ROUNDS = 9
SIZES = {"as they are": None, "84x84": (84, 84), "224x224": (224, 224), "500x375": (500, 375)}


def decoders() -> dict[str, Callable[[bytes], Any]]:
    """name -> bytes to [height, width, 3]."""
    found: dict[str, Callable[[bytes], Any]] = {"Pillow": _pillow}
    if find_spec("simplejpeg"):
        import simplejpeg

        found["simplejpeg"] = lambda data: simplejpeg.decode_jpeg(data, "RGB")
    if find_spec("turbojpeg"):
        import turbojpeg

        library = turbojpeg.TurboJPEG()
        found["PyTurboJPEG"] = lambda data: library.decode(data, pixel_format=turbojpeg.TJPF_RGB)
    if find_spec("cv2"):
        import cv2

        cv2.setNumThreads(1)
        found["opencv"] = lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    return found


def _pillow(data: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def enlarged(data: bytes, size: tuple[int, int]) -> bytes:
    """A JPEG of `size`, quality 90, 4:2:0."""
    image = np.asarray(Image.open(io.BytesIO(data)).convert("RGB").resize(size, Image.Resampling.BICUBIC))
    noise = np.random.Generator(np.random.Philox(1)).normal(0, 6, image.shape)
    buffer = io.BytesIO()
    Image.fromarray(np.clip(image + noise, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90, subsampling=2)
    return buffer.getvalue()


def measure(decode: Callable[[bytes], Any], pictures: Sequence[bytes], pool: ThreadPoolExecutor) -> tuple[float, float]:
    """(seconds on one thread, seconds on two)."""

    def work(part: Sequence[bytes]) -> None:
        for data in part:
            decode(data)

    begin = time.perf_counter()
    work(pictures)
    middle = time.perf_counter()
    list(pool.map(work, (pictures[::2], pictures[1::2])))
    return middle - begin, time.perf_counter() - middle


def main() -> None:
    """Print one line a size and decoder."""
    with zipfile.ZipFile(sys.argv[1]) as archive:
        names = sorted(name for name in archive.namelist() if name.lower().endswith((".jpg", ".jpeg")))
        originals = [archive.read(name) for name in random.Random(0).sample(names, 300)]
    for label, size in SIZES.items():
        few = (
            originals
            if size is None
            else [enlarged(data, size) for data in originals[: 6_000_000 // (size[0] * size[1] * 3)]]
        )
        found = decoders()
        reference = [_pillow(data) for data in few]
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in found}
        with ThreadPoolExecutor(2) as pool:
            for _ in range(ROUNDS):
                for name, decode in found.items():
                    times[name].append(measure(decode, few, pool))
        print(f"{label}: {len(few)} pictures of {np.mean([len(data) for data in few]):,.0f} bytes")
        for name, decode in found.items():
            off = max(int(np.abs(decode(d).astype(int) - r).max()) for d, r in zip(few, reference, strict=True))
            one, two = (len(few) / best for best in np.min(times[name], axis=0))
            print(f"  {name:12} {one:8,.0f} a second, two threads {two:8,.0f} ({two / one:.2f}x), largest difference {off}")


if __name__ == "__main__":
    main()
