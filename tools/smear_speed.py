"""Time and memory of reading fields: what a megapixel costs, whether cost grows with the field, and the peak of memory.

    python tools/smear_speed.py FIELD [--megapixels 0.5 1 2 4 8] [--memory-megapixels 100] [--json FILE]

FIELD is mirrored side by side to the sizes asked for. Each size is read once to warm up and then three times; the best
counts, in seconds of the clock and of all processor cores together, beside decoding the same field from a JPEG file.
The peak of memory is that of a process that reads one JPEG file of ``--memory-megapixels`` from start to end.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from leukoscope.smear.files import open_field
from leukoscope.smear.reading import read_smear

Image.MAX_IMAGE_PIXELS = None
REPEATS = 3
_READ = "import sys; from leukoscope.cli.main import run; run(['smear', sys.argv[1], '--json'])"


def mosaic(field: NDArray[np.uint8], megapixels: float) -> NDArray[np.uint8]:
    """Return a field of 4 to 3 sides, filled with a small one and its mirror images."""
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    width = round(megapixels * 1e6 / height)
    wide = np.concatenate([field, field[:, ::-1]], axis=1)
    block = np.concatenate([wide, wide[::-1]], axis=0)
    rows, columns = np.arange(height) % block.shape[0], np.arange(width) % block.shape[1]
    return np.ascontiguousarray(block[rows][:, columns])


def measure(path: Path) -> dict[str, Any]:
    """Read a field several times and return the best times, in seconds."""
    (reading,) = read_smear(path)
    walls, cores, decoding = [], [], []
    for _ in range(REPEATS):
        began, used = time.perf_counter(), time.process_time()
        list(read_smear(path))
        walls.append(time.perf_counter() - began)
        cores.append(time.process_time() - used)
        began = time.perf_counter()
        picture = open_field(path).picture
        decoding.append(time.perf_counter() - began)
    megapixels = picture.width_px * picture.height_px / 1e6
    return {
        "megapixels": round(megapixels, 2),
        "cells": len(reading.record.cells),
        "wall_s": round(min(walls), 3),
        "cores_s": round(min(cores), 3),
        "decoding_s": round(min(decoding), 3),
        "by_decoding": round(min(cores) / min(decoding), 1),
        "cores_s_per_megapixel": round(min(cores) / megapixels, 3),
    }


def peak_memory(path: Path) -> dict[str, Any]:
    """Read a field in a process of its own and return its peak of memory."""
    began = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen([sys.executable, "-c", _READ, str(path)], stdout=output)
        _, status, usage = os.wait4(process.pid, 0)
        output.seek(0)
        record = json.loads(output.readline())
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{path}: {record['message']}")
    return {
        "megapixels": round(record["width_px"] * record["height_px"] / 1e6, 2),
        "cells": len(record["cells"]),
        "peak_mib": round(usage.ru_maxrss / 1024),
        "wall_s": round(time.perf_counter() - began, 1),
        "cores_s": round(usage.ru_utime + usage.ru_stime, 1),
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("field", type=Path)
    parser.add_argument("--megapixels", type=float, nargs="+", default=[0.5, 1, 2, 4, 8])
    parser.add_argument("--memory-megapixels", type=float, default=100)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with Image.open(options.field) as image:
        field = np.asarray(image.convert("RGB"))
    report: dict[str, Any] = {
        "command": f"python tools/smear_speed.py {options.field.name}",
        "cores": len(os.sched_getaffinity(0)),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "fields": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        for megapixels in options.megapixels:
            path = Path(folder) / f"{megapixels}.jpg"
            Image.fromarray(mosaic(field, megapixels)).save(path, quality=92)
            row = measure(path)
            report["fields"].append(row)
            print(json.dumps(row), flush=True)
        path = Path(folder) / "large.jpg"
        Image.fromarray(mosaic(field, options.memory_megapixels)).save(path, quality=92)
        report["memory"] = peak_memory(path)
        print(json.dumps(report["memory"]))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
