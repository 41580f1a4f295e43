"""Fuzz the decoder: every input gives an image or an ``ImageError``, in bounded time and memory.

    pip install atheris
    mkdir -p fuzz
    python tools/fuzz_decode.py fuzz tests/hostile/corpus -max_total_time=600 -timeout=5 -rss_limit_mb=1024

Coverage of ``formats`` and ``decode`` guides the search. Its findings are stored in ``tests/hostile/corpus``, which the
tests replay; ``-merge=1 tests/hostile/corpus fuzz`` adds what reaches new code.
"""

import io
import sys

import atheris
import numpy as np
from PIL import Image

with atheris.instrument_imports(include=["leukoscope.imaging.formats", "leukoscope.imaging.decode"]):
    from leukoscope.core.errors import ImageError
    from leukoscope.imaging.decode import DecodeLimits, decode_image

LIMITS = DecodeLimits(max_bytes=1 << 16, max_pixels=1 << 20, max_side_px=1 << 14)


def seeds() -> list[bytes]:
    """Return one small valid file of each format."""
    rgb = np.random.default_rng(0).integers(0, 255, (33, 34, 3), np.uint8)
    files = []
    for kind, options in (
        ("BMP", {}), ("PNG", {}), ("JPEG", {"quality": 30}), ("JPEG", {"progressive": True}), ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}), ("WEBP", {"lossless": True}), ("WEBP", {}),
    ):  # fmt: skip
        stream = io.BytesIO()
        Image.fromarray(rgb).save(stream, kind, **options)
        files.append(stream.getvalue())
    return files


def check(content: bytes) -> None:
    """Raise an error if the decoder violates its contract."""
    try:
        rgb = decode_image(content, LIMITS)
    except ImageError as error:
        assert str(error)
        return
    assert rgb.dtype == np.uint8
    assert rgb.ndim == 3 and rgb.shape[2] == 3 and rgb.flags.c_contiguous
    assert rgb.shape[0] * rgb.shape[1] <= LIMITS.max_pixels


def main() -> None:
    """Write the seeds into the first folder and fuzz."""
    folders = [word for word in sys.argv[1:] if not word.startswith("-")]
    if folders and "-merge=1" not in sys.argv:
        for number, content in enumerate(seeds()):
            with open(f"{folders[0]}/seed_{number}", "wb") as file:  # noqa: PTH123
                file.write(content)
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
