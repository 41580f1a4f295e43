"""The Keras backend of ``benchmark predict``: runs in a Python that has TensorFlow.

EfficientNetB3 with one output, and Grad-CAM by GradientTape, as the Keras documentation shows it. The weights
are random: they do not change the time. Cells come prepared.
"""

import importlib
from typing import Any

import numpy as np


def prepare(job: dict[str, Any]) -> Any:
    """Return the backend."""
    worker: Any = importlib.import_module("worker")  # in this folder; leukoscope is not installed here
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
            score = tf.reduce_sum(logits)
        gradients = tape.gradient(score, maps)
        weights = tf.reduce_mean(gradients, axis=(1, 2), keepdims=True)
        return logits, tf.nn.relu(tf.reduce_sum(maps * weights, axis=-1))

    explain = tf.function(explain_eagerly)
    cells = [tf.constant(cell[None].astype(np.float32)) for cell in np.load(job["prepared"])]

    def predict(index: int) -> None:
        logits, activation_map = explain(cells[index])
        logits.numpy(), activation_map.numpy()

    note = (
        f"TensorFlow {tf.__version__}, tf.function; random weights, same architecture; cells prepared before"
    )
    return worker.Backend(worker.each(predict), len(cells), note)


if __name__ == "__main__":
    importlib.import_module("worker").serve(prepare)
