import json
import re
import shutil
from pathlib import Path

import pytest

from leukoscope.core.errors import BundleError, EngineError
from leukoscope.core.terms import RESEARCH_USE
from leukoscope.evaluation.protocol import evaluate
from leukoscope.evaluation.split_report import EvaluationSettings
from leukoscope.inference.predictor import Predictor
from leukoscope.inference.sample import check_sample
from leukoscope.models import bundle as folder_module
from leukoscope.models.bundle import Bundle, SampleFile, write_bundle
from leukoscope.models.card import render_card
from leukoscope.models.manifest import ExpectedOutputs, Manifest
from leukoscope.stats.intervals import BootstrapSettings
from leukoscope.workflows.engine_agreement import require_agreement
from small_bundle import make_decision, make_manifest, make_small_bundle, sample_paths
from synthetic_runs import Cohort, write_run

SMALL = Cohort(4, 3, 12)


def write_again(source: Path, target: Path) -> Bundle:
    bundle = Bundle.open(source)
    sample = [SampleFile(cell.file, bundle.read(f"sample/{cell.file}")) for cell in bundle.expected.cells]
    return write_bundle(
        target,
        model_path=bundle.model_path,
        manifest=bundle.manifest,
        decision=bundle.decision,
        novelty=bundle.novelty,
        report=None,
        license_text="Apache-2.0\n",
        data_license="CC-BY-3.0\n",
        sample=sample,
        expected=bundle.expected,
    )


def test_the_same_parts_give_the_same_bundle_byte_for_byte(small_bundle_path: Path, tmp_path: Path) -> None:
    first, second = (
        write_again(small_bundle_path, tmp_path / "a"),
        write_again(small_bundle_path, tmp_path / "b"),
    )
    assert first.sha256 == second.sha256 == Bundle.open(small_bundle_path).sha256
    for name in first.sums:
        assert first.read(name) == second.read(name)


def test_sums_are_what_sha256sum_reads(small_bundle_path: Path) -> None:
    import hashlib

    for line in (small_bundle_path / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((small_bundle_path / name).read_bytes()).hexdigest() == digest


def test_a_bundle_is_replaced_as_a_whole(small_bundle_path: Path, tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    write_again(small_bundle_path, target)
    (target / "LICENSE").write_text("altered")
    with pytest.raises(BundleError):
        write_again(small_bundle_path, target)
    assert (target / "LICENSE").read_text() == "altered"
    shutil.copy(small_bundle_path / "LICENSE", target)
    write_again(small_bundle_path, target)
    Bundle.open(target)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_something_else_is_never_replaced(small_bundle_path: Path, tmp_path: Path) -> None:
    precious = tmp_path / "thesis"
    precious.mkdir()
    (precious / "text.tex").write_text("years of work")
    with pytest.raises(BundleError, match="thesis"):
        write_again(small_bundle_path, precious)
    assert (precious / "text.tex").read_text() == "years of work"


def test_parts_that_do_not_fit_leave_nothing_behind(small_bundle_path: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(small_bundle_path)
    manifest = bundle.manifest.model_dump(mode="json")
    manifest["outputs"][2]["shape"] = ["N", 1, 9, 9]
    with pytest.raises(BundleError, match=r"model\.onnx.*activation_map"):
        write_bundle(
            tmp_path / "bundle",
            model_path=bundle.model_path,
            manifest=Manifest.model_validate(manifest),
            decision=bundle.decision,
            novelty=bundle.novelty,
            report=None,
            license_text="",
            data_license="",
            sample=[],
            expected=bundle.expected,
        )
    assert list(tmp_path.iterdir()) == []


def test_a_failing_move_puts_the_old_bundle_back(
    small_bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "bundle"
    write_again(small_bundle_path, target)
    before = Bundle.open(target).sha256
    rename = Path.rename

    def failing(self: Path, other: Path) -> Path:
        if self.name.endswith(".part"):
            raise OSError("disk full")
        return rename(self, other)

    monkeypatch.setattr(folder_module.Path, "rename", failing)
    with pytest.raises(OSError, match="disk full"):
        write_again(small_bundle_path, target)
    monkeypatch.undo()
    assert Bundle.open(target).sha256 == before


def test_the_sample_is_reproduced_by_both_engines(small_bundle_path: Path) -> None:
    for engine in ("openvino", "onnxruntime"):
        check = check_sample(Predictor.open(small_bundle_path, engine=engine))
        assert check.passed, check.detail


@pytest.mark.parametrize("field", ["logit", "embedding_norm", "activation_map"])
def test_a_model_with_other_outputs_is_found(small_bundle_path: Path, tmp_path: Path, field: str) -> None:
    bundle = Bundle.open(small_bundle_path)
    content = json.loads(bundle.expected.to_json())
    cell = content["cells"][0]
    if field == "activation_map":
        peak = max(map(max, cell[field]))
        cell[field][0][0] += 0.01 * peak
    else:
        cell[field] += 0.01
    sample = [SampleFile(entry.file, bundle.read(f"sample/{entry.file}")) for entry in bundle.expected.cells]
    write_bundle(
        tmp_path / "bundle",
        model_path=bundle.model_path,
        manifest=bundle.manifest,
        decision=bundle.decision,
        novelty=bundle.novelty,
        report=None,
        license_text="",
        data_license="",
        sample=sample,
        expected=ExpectedOutputs.model_validate(content),
    )
    check = check_sample(Predictor.open(tmp_path / "bundle"))
    assert not check.passed
    with pytest.raises(EngineError, match=re.escape(str(tmp_path / "bundle"))):
        require_agreement(Bundle.open(tmp_path / "bundle"))
    require_agreement(bundle)


def test_the_card_states_that_the_model_was_not_evaluated() -> None:
    card = render_card(make_manifest(), make_decision(), None)
    assert RESEARCH_USE in card
    assert not re.search(r"\d\.\d{3} \(\d", card)  # a measurement with its interval


def test_the_card_contains_the_numbers_of_the_report(tmp_path: Path) -> None:
    run = write_run(
        tmp_path / "run", train=SMALL, test=SMALL, seed=1, split="fold_0 to fold_1", test_first=501
    )
    settings = EvaluationSettings(bootstrap=BootstrapSettings(replicates=60))
    report = evaluate([run], pooled=False, settings=settings)
    card = render_card(make_manifest(), make_decision(), report)
    measurement = report.headline.cell.measures["roc_auc"]
    assert f"{measurement.value:.3f} ({measurement.low:.3f} to {measurement.high:.3f})" in card
    for caveat in report.caveats:
        assert caveat in card


def test_sample_cells_need_unique_names(tmp_path: Path) -> None:
    from small_bundle import SampleCell, build_bundle, make_onnx

    model = tmp_path / "model.onnx"
    model.write_bytes(make_onnx().SerializeToString())
    path = sample_paths()[0]
    bundle = make_small_bundle(tmp_path / "small")
    for sample in ([], [SampleCell(path), SampleCell(path)]):
        with pytest.raises(BundleError, match=rf"\b{len(sample)}\b"):
            build_bundle(
                tmp_path / "new",
                model_path=model,
                manifest=bundle.manifest,
                decision=bundle.decision,
                novelty=bundle.novelty,
                report=None,
                license_text="",
                data_license="",
                sample=sample,
            )
