"""The Keras contestant of ``leukoscope benchmark predict``: runs by itself in a Python that has TensorFlow.

EfficientNetB3 with one output, and Grad-CAM by GradientTape, as the Keras documentation shows it. The weights
are random: they do not change the time. Cells are resized by the same rule before the time is taken.
"""

import importlib
import json
import resource
import statistics
import sys
import time
from typing import Any

import numpy as np
from PIL import Image


def main() -> None:
    """Read the job from standard input and write the answer to standard output."""
    job = json.load(sys.stdin)
    tf: Any = importlib.import_module("tensorflow")  # of this Python, not of leukoscope's environment
    tf.config.threading.set_intra_op_parallelism_threads(job["threads"])
    side = job["input_px"]
    base = tf.keras.applications.EfficientNetB3(include_top=False, weights=None, input_shape=(side, side, 3))
    features = base.output
    pooled = tf.keras.layers.GlobalAveragePooling2D()(features)
    logit = tf.keras.layers.Dense(1)(pooled)
    model = tf.keras.Model(base.input, [features, logit])

    def explain_eagerly(images: Any) -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            maps, logits = model(images, training=False)
            tape.watch(maps)
            score = tf.reduce_sum(logits)
        gradients = tape.gradient(score, maps)
        weights = tf.reduce_mean(gradients, axis=(1, 2), keepdims=True)
        return logits, tf.nn.relu(tf.reduce_sum(maps * weights, axis=-1))

    explain = tf.function(explain_eagerly)
    cells = []
    for file in job["files"]:
        with Image.open(file) as image:
            resized = image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
        cells.append(tf.constant(np.asarray(resized, dtype=np.float32)[None]))
    for cell in cells[:4]:
        explain(cell)
    means, single = [], []
    for _ in range(job["repetitions"]):
        times = []
        for cell in cells:
            began = time.perf_counter()
            logits, activation_map = explain(cell)
            logits.numpy(), activation_map.numpy()
            times.append(1e3 * (time.perf_counter() - began))
        means.append(statistics.fmean(times))
        single += times
    median = statistics.median(means)
    answer = {
        "median_ms": median,
        "p50_ms": float(np.percentile(single, 50)),
        "p95_ms": float(np.percentile(single, 95)),
        "cells_per_second": 1e3 / median,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
        "note": f"TensorFlow {tf.__version__}, random weights, tf.function; cells prepared before",
    }
    sys.stdout.write("\n" + json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
