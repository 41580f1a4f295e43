import re
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leukoscope.assets import other_images_directory
from leukoscope.core.errors import EngineError, ImageError, UsageError
from leukoscope.core.terms import Reason
from leukoscope.decision.policy import decide, pool_subject
from leukoscope.imaging.canvas import prepare_cell
from leukoscope.imaging.decode import decode_image
from leukoscope.imaging.descriptors import describe_cell
from leukoscope.inference.cells import Prediction, Source
from leukoscope.inference.predictor import Predictor
from leukoscope.inference.subject_pool import SubjectPool
from leukoscope.inference.tta import join_turned, turn_cell
from leukoscope.models.session import ForwardResult, Session
from small_bundle import SIDE, make_decision, sample_paths

PATHS = sample_paths()[::6]


def test_result_is_the_policy_on_the_forward_pass(small_predictor: Predictor) -> None:
    bundle = small_predictor.bundle
    for path in PATHS:
        prediction = small_predictor.predict(path)
        rgb = decode_image(path)
        forward = small_predictor.session.run(prepare_cell(rgb, SIDE)[None])
        novelty = float(bundle.novelty.score(forward.embedding)[0])
        verdict = decide(forward.logits[0], novelty, describe_cell(rgb), bundle.decision)
        result = prediction.result
        assert (result.decision, result.probability) == (verdict.decision, verdict.probability)
        assert result.source == str(path)
        assert result.model.sha256 == bundle.model_sha256
        assert np.array_equal(prediction.activation_map, forward.activation_map[0, 0])
        assert (result.width_px, result.height_px) == rgb.shape[1::-1]


def test_bytes_path_and_array_give_one_answer(small_predictor: Predictor) -> None:
    path = PATHS[0]
    answers = [small_predictor.predict(content) for content in (path, path.read_bytes(), decode_image(path))]
    assert len({answer.result.logit for answer in answers}) == 1


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_stream_keeps_order_and_numbers(small_predictor: Predictor, count: int) -> None:
    paths = (PATHS * 2)[:count]
    streamed = list(small_predictor.stream(Source(f"{n}", path, "S") for n, path in enumerate(paths)))
    assert [entry.result.source for entry in streamed] == [str(n) for n in range(count)]
    for entry, path in zip(streamed, paths, strict=True):
        assert entry.result.logit == pytest.approx(small_predictor.predict(path).result.logit, abs=1e-6)
        assert entry.result.subject == "S"


def test_broken_images_keep_their_row(small_predictor: Predictor, tmp_path: Path) -> None:
    text = tmp_path / "text.png"
    text.write_text("no image")
    blank = np.zeros((450, 450, 3), np.uint8)
    sources = [
        Source("missing", tmp_path / "missing.bmp"),
        Source("good", PATHS[0]),
        Source("text", text),
        Source("blank", blank),
        Source("uncut", next(other_images_directory().glob("pbc/*.jpg"))),
        Source("archive", ImageError(Reason.UNREADABLE, "the archive is damaged here")),
        Source("good again", PATHS[1]),
    ]
    results = [entry.result for entry in small_predictor.stream(sources)]
    assert [result.source for result in results] == [source.name for source in sources]
    codes = [result.reasons[0].code if result.probability is None else None for result in results]
    assert codes == [
        Reason.NOT_FOUND, None, Reason.UNKNOWN_FORMAT, Reason.BLANK, Reason.NOT_SEGMENTED, Reason.UNREADABLE, None,
    ]  # fmt: skip
    for result in results:
        if result.decision == "rejected":
            assert result.logit is None
            assert result.reasons[0].message


class CountingSession(Session):
    """A session that counts the cells it is given."""

    cells = 0

    def run(self, cells):
        self.cells += len(cells)
        return super().run(cells)

    def start(self, cells):
        self.cells += len(cells)
        return super().start(cells)


def test_rejected_images_need_no_forward_pass(small_predictor: Predictor) -> None:
    session = CountingSession(small_predictor.bundle.model_path)
    predictor = Predictor(small_predictor.bundle, session)
    blank = np.zeros((450, 450, 3), np.uint8)
    assert predictor.predict(blank).result.decision == "rejected"
    assert len(predictor.predict([blank] * 3)) == 3
    assert session.cells == 0
    predictor.predict([blank, PATHS[0], blank])
    assert session.cells == 1


def test_a_batch_equals_single_predictions(small_predictor: Predictor) -> None:
    blank = np.zeros((450, 450, 3), np.uint8)
    contents = [PATHS[0], blank, PATHS[1], PATHS[2]]
    together = small_predictor.predict(contents)
    for content, entry in zip(contents, together, strict=True):
        alone = small_predictor.predict(content)
        assert entry.result.decision is alone.result.decision
        assert entry.result.logit == pytest.approx(alone.result.logit, abs=1e-6)


def test_nonfinite_answers_of_the_engine_are_an_error_not_a_result(small_predictor: Predictor) -> None:
    """A real graph whose map alone is beyond what a float holds: logit and embedding are as they were."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(small_predictor.bundle.model_path)
    (weight,) = (tensor for tensor in model.graph.initializer if tensor.name == "cam")
    broken = np.full_like(onnx.numpy_helper.to_array(weight), 3e38)
    weight.CopyFrom(onnx.numpy_helper.from_array(broken, "cam"))
    session = Session(model.SerializeToString())
    forward = session.run(prepare_cell(decode_image(PATHS[0]), SIDE)[None])
    assert np.isfinite(forward.logits).all() and not np.isfinite(forward.activation_map).all()
    with pytest.raises(EngineError):
        Predictor(small_predictor.bundle, session).predict(PATHS[0])


def test_two_streams_at_once_do_not_wait_for_each_other(small_predictor: Predictor) -> None:
    answers: dict[int, list[Prediction]] = {}

    def work(number: int) -> None:
        answers[number] = list(small_predictor.stream(Source(str(n), PATHS[n % 5]) for n in range(30)))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(len(entries) for entries in answers.values()) == [30] * 4
    assert len({tuple(entry.result.logit for entry in entries) for entries in answers.values()}) == 1


def test_stream_reads_no_further_ahead_than_the_engine_takes(small_predictor: Predictor) -> None:
    taken = 0

    def sources() -> Iterator[Source]:
        nonlocal taken
        for number in range(100):
            taken += 1
            yield Source(str(number), PATHS[0])

    for done, _ in enumerate(small_predictor.stream(sources()), 1):
        assert taken <= done + small_predictor.session.in_flight


@pytest.mark.slow
def test_a_long_stream_runs_in_constant_memory(small_predictor: Predictor) -> None:
    rgb = decode_image(PATHS[0])
    peaks = []
    tracemalloc.start()
    try:
        for done, _ in enumerate(small_predictor.stream(Source(str(n), rgb) for n in range(800)), 1):
            if done % 200 == 0:
                peaks.append(tracemalloc.get_traced_memory()[1])
                tracemalloc.reset_peak()
    finally:
        tracemalloc.stop()
    assert max(peaks[1:]) - peaks[0] < 400_000, peaks


@pytest.mark.parametrize("turns", [4, 8])
def test_rotation_averaging_does_not_change_when_the_cell_turns(small_bundle_path: Path, turns: int) -> None:
    predictor = Predictor.open(small_bundle_path, tta=turns)
    cell = prepare_cell(decode_image(PATHS[0]), SIDE)
    forward = predictor.forward(cell[None])
    turned = predictor.forward(np.ascontiguousarray(np.rot90(cell))[None])
    np.testing.assert_allclose(turned.logits, forward.logits, atol=1e-6)
    np.testing.assert_allclose(turned.embedding, forward.embedding, atol=1e-6)
    np.testing.assert_allclose(np.rot90(forward.activation_map[0, 0]), turned.activation_map[0, 0], atol=1e-6)
    if turns == 8:
        mirrored = predictor.forward(np.ascontiguousarray(cell[:, ::-1])[None])
        np.testing.assert_allclose(mirrored.logits, forward.logits, atol=1e-6)
        np.testing.assert_allclose(
            mirrored.activation_map[0, 0], forward.activation_map[0, 0, :, ::-1], atol=1e-6
        )
    streamed = predictor.predict([PATHS[0], PATHS[1]])
    assert streamed[0].result.logit == pytest.approx(float(forward.logits[0, 1]), abs=1e-6)


def test_rotations_of_cells_and_maps_are_inverse() -> None:
    rng = np.random.default_rng(0)
    cell = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    turned = turn_cell(cell, 8)
    assert len({copy.tobytes() for copy in turned}) == 8
    maps = turned[..., 0].astype(np.float32)[:, None]  # a "map" that turns with the cell
    forward = ForwardResult(np.zeros((8, 1), np.float32), np.zeros((8, 2), np.float32), maps)
    joined = join_turned(forward, 8)
    assert np.array_equal(joined.activation_map[0, 0], cell[..., 0].astype(np.float32))


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"tta": 3}, "3.*1, 4, 8"), ({"operating_point": "best"}, "balanced, sensitive")],
)
def test_invalid_choices_list_the_valid_ones(small_bundle_path: Path, settings: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Predictor.open(small_bundle_path, **settings)


def test_operating_point_moves_the_threshold(small_bundle_path: Path) -> None:
    sensitive = Predictor.open(small_bundle_path, operating_point="sensitive")
    assert sensitive.predict(PATHS[0]).result.threshold == 0.2


@pytest.mark.parametrize(
    "rgb", [np.zeros((5, 5), np.uint8), np.zeros((5, 5, 3)), np.zeros((0, 5, 3), np.uint8)]
)
def test_arrays_of_another_kind_are_wrong_usage(small_predictor: Predictor, rgb: np.ndarray) -> None:
    with pytest.raises(UsageError, match="uint8"):
        small_predictor.predict(rgb)


def test_subject_pool_equals_the_policys_pooling(small_predictor: Predictor) -> None:
    blank = np.zeros((450, 450, 3), np.uint8)
    sources = [Source(str(n), path, f"S{n % 3}") for n, path in enumerate(sample_paths())]
    sources += [Source("blank", blank, "S1"), Source("only blank", blank, "S9"), Source("nobody", PATHS[0])]
    pool = SubjectPool(small_predictor.bundle.decision, small_predictor.model)
    verdicts: dict[str, list] = {}
    for prediction in small_predictor.stream(sources):
        pool.add(prediction.result)
        if prediction.result.subject is not None:
            verdicts.setdefault(prediction.result.subject, []).append(prediction.verdict)
    results = list(pool.results())
    assert [entry.subject for entry in results] == list(verdicts)
    for entry in results:
        wanted = pool_subject(verdicts[entry.subject], make_decision())
        for name in ("decision", "cells", "classified", "rejected", "uncertain", "blasts"):
            assert getattr(entry, name) == getattr(wanted, name)
        assert entry.probability == pytest.approx(wanted.probability, abs=1e-12)
        assert entry.blast_share_low == pytest.approx(wanted.blast_share_low)


def test_subject_pool_leaves_out_results_of_another_model(small_predictor: Predictor) -> None:
    pool = SubjectPool(small_predictor.bundle.decision, small_predictor.model)
    result = small_predictor.predict(PATHS[0], subject="S1").result
    pool.add(result)
    pool.add(result.model_copy(update={"model": result.model.model_copy(update={"sha256": "0" * 64})}))
    assert pool.result("S1").cells == 1
    empty_pool = pool.result("S2")
    assert (empty_pool.cells, empty_pool.decision) == (0, "rejected")


def test_images_of_any_size_are_placed_on_the_canvas(small_predictor: Predictor) -> None:
    with Image.open(PATHS[0]) as image:
        cut = np.asarray(image.convert("RGB"))[75:375, 75:375]
    prediction = small_predictor.predict(np.ascontiguousarray(cut))
    assert prediction.canvas.shape == (450, 450, 3)
    assert (prediction.result.width_px, prediction.result.height_px) == (300, 300)


def test_a_cell_cut_off_by_a_small_frame_is_refused(small_predictor: Predictor) -> None:
    cell = decode_image(PATHS[0])
    rows, columns = np.nonzero(cell.max(axis=2) > 8)
    tight = cell[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    whole, cut = small_predictor.predict([tight, tight[:, : tight.shape[1] * 3 // 4]])
    assert whole.result.decision != "rejected"
    assert Reason.CUT_OFF in [reason.code for reason in cut.result.reasons]


def test_the_duration_excludes_the_time_of_the_caller(small_predictor: Predictor) -> None:
    """While the caller holds a result, an image is on its way; its duration cannot exceed what the caller left."""
    durations, own_s, began = [], 0.0, time.perf_counter()
    for prediction in small_predictor.stream(Source(str(path), path) for path in PATHS[:3]):
        durations.append(prediction.result.duration_ms)
        held = time.perf_counter()
        time.sleep(0.7)
        own_s += time.perf_counter() - held
    assert min(durations) > 0
    assert max(durations) < 1e3 * (time.perf_counter() - began - own_s)


def test_a_rejected_large_image_states_the_analyzed_part(small_predictor: Predictor) -> None:
    field = np.zeros((1200, 900, 3), np.uint8)
    field[:300] = 200
    [reason] = small_predictor.predict(field).result.reasons
    assert reason.code is Reason.BLANK
    assert re.search(r"900 x 1200\b.*450 x 450\b", reason.message)
    whole = small_predictor.predict(np.zeros((300, 450, 3), np.uint8)).result.reasons
    assert "450 x 450" not in whole[0].message
