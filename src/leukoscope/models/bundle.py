"""Opening, writing and verifying a bundle's folder."""

import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from leukoscope.core.errors import BundleError
from leukoscope.decision.novelty import NoveltyModel
from leukoscope.decision.parameters import DecisionParameters
from leukoscope.models import files as names
from leukoscope.models.files import BundleFiles, hash_bytes, list_files, read_checked, read_sums, render_sums
from leukoscope.models.manifest import ExpectedOutputs, Manifest, ModelManifest
from leukoscope.models.onnx_graph import OnnxGraph, read_onnx_graph

if TYPE_CHECKING:  # its schema takes a tenth of a second to build
    from leukoscope.models.finder_bundle import FinderBundle
    from leukoscope.models.report import Report


class BundleFolder:
    """What the bundles of every task share: their files, which have been checked against their hashes.

    Attributes
    ----------
    directory
        Its folder.
    sums
        File name -> SHA-256.
    """

    directory: Path
    sums: Mapping[str, str]
    _files: BundleFiles

    @property
    def model_path(self) -> Path:
        """Path of the ONNX file."""
        return self.directory / names.MODEL

    @property
    def model_sha256(self) -> str:
        """SHA-256 of the ONNX file."""
        return self.sums[names.MODEL]

    @property
    def sha256(self) -> str:
        """SHA-256 over all files: that of the bundle's ``SHA256SUMS``."""
        return hash_bytes(render_sums(dict(self.sums)).encode())

    def read(self, name: str) -> bytes:
        """Read one file and check its hash again."""
        return read_checked(self._files, dict(self.sums), name)


@dataclass(frozen=True)
class Bundle(BundleFolder):
    """A bundle whose files, hashes, schema and shapes have been checked.

    Attributes
    ----------
    directory
        Its folder.
    manifest, decision, novelty
        As read.
    sums
        File name -> SHA-256.
    """

    directory: Path
    manifest: Manifest
    decision: DecisionParameters
    novelty: NoveltyModel
    sums: Mapping[str, str]
    _files: BundleFiles

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Open and check a bundle; about 0.1 s for a model of 22 MB.

        Raises
        ------
        BundleError
            A file is missing, unknown, altered or inconsistent; the first problem is named.
        """
        files = list_files(directory)
        if files.task == "finder":
            raise BundleError(
                f"{directory}: is of the task finder, which finds cells and does not classify them; "
                "use it with leukoscope smear --finder, and name a bundle of the task cell or kinds here"
            )
        sums, contents, graph = read_files(files)
        manifest = Manifest.from_json(contents[names.MANIFEST])
        decision = DecisionParameters.from_json(contents[names.DECISION])
        novelty = _read_novelty(contents[names.NOVELTY])
        compare_graph(manifest, graph)
        decision.check_classes(manifest.classes)
        if len(novelty.mean) != manifest.embedding_width:
            raise BundleError(
                f"{directory}: novelty was fitted on {len(novelty.mean)} features, the embedding has "
                f"{manifest.embedding_width}; export the bundle again"
            )
        return cls(directory, manifest, decision, novelty, sums, files)

    @cached_property
    def report(self) -> "Report | None":
        """The measured results; None if the model has not been evaluated."""
        if names.REPORT not in self.sums:
            return None
        from leukoscope.models.report import Report

        content = self.read(names.REPORT)
        try:
            return Report.model_validate_json(content)
        except ValueError as error:
            detail = str(error).splitlines()[1:2]
            raise BundleError(f"{self.directory / names.REPORT}: not a report: {' '.join(detail)}") from None

    @cached_property
    def expected(self) -> ExpectedOutputs:
        """Expected outputs of the model for the sample cells."""
        expected = ExpectedOutputs.from_json(self.read(names.EXPECTED))
        listed = sorted(f"{names.SAMPLE}/{cell.file}" for cell in expected.cells)
        present = sorted(name for name in self.sums if names.SAMPLE_NAME.match(name))
        if listed != present:
            raise BundleError(f"{self.directory}: the sample cells are not those {names.EXPECTED} lists")
        return expected

    def render_card(self) -> str:
        """Return the expected text of ``MODEL_CARD.md``."""
        from leukoscope.models.card import render_card

        return render_card(self.manifest, self.decision, self.report)


def read_files(files: BundleFiles) -> tuple[dict[str, str], dict[str, bytes], OnnxGraph]:
    """Read all files and check them against their hashes.

    Returns
    -------
    tuple
        Name -> SHA-256; name -> content, without the network and ``SHA256SUMS``; what the network's file declares.
    """
    sums = read_sums(files)
    contents = {}
    for name in files.sizes:
        if name == names.MODEL:
            graph = read_onnx_graph(read_checked(files, sums, name))  # 22 MB: not kept
        elif name != names.SUMS:
            contents[name] = read_checked(files, sums, name)
    return sums, contents, graph


class Check(NamedTuple):
    """One line of ``bundle verify``."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class SampleFile:
    """One sample cell: its name in the bundle and its content."""

    name: str
    content: bytes


def verify_bundle(directory: Path) -> list[Check]:
    """Check everything that can be checked without an engine.

    Returns
    -------
    list of Check
        In order; after a failed one, those that build on it are left out.
    """
    checks: list[Check] = []
    try:
        bundle = open_bundle(directory)
        sizes = list_files(directory).sizes
        count, size = len(bundle.sums), sum(sizes.values())
        checks.append(Check("files", True, f"{count + 1} files, {size / 1e6:.1f} MB, none unknown, no links"))
        checks.append(Check("hashes", True, f"{count} SHA-256 agree"))
        parts = (names.MANIFEST, names.DECISION, names.NOVELTY)
        checks.append(Check("schema", True, ", ".join(part for part in parts if part in sizes)))
        operators = len(read_onnx_graph(bundle.read(names.MODEL)).operators)
        checks.append(
            Check("graph", True, f"as declared; {operators} operators, all ONNX's own, weights inside")
        )
    except BundleError as error:
        checks.append(Check("structure", False, str(error)))
        return checks
    if isinstance(bundle, Bundle):
        checks.append(_check_sample_list(bundle))
    checks.append(_check_card(bundle))
    return checks


def open_bundle(directory: Path) -> "Bundle | FinderBundle":
    """Open and check a bundle of any task.

    Raises
    ------
    BundleError
        Anything is missing, unknown, altered or inconsistent; the first such thing is named.
    """
    from leukoscope.models.finder_bundle import FinderBundle

    return FinderBundle.open(directory) if list_files(directory).task == "finder" else Bundle.open(directory)


def write_bundle(
    directory: Path,
    *,
    model_path: Path,
    manifest: Manifest,
    decision: DecisionParameters,
    novelty: NoveltyModel,
    report: "Report | None",
    license_text: str,
    data_license: str,
    sample: Iterable[SampleFile],
    expected: ExpectedOutputs,
) -> Bundle:
    """Write a bundle in one step: it is built and opened in a temporary folder, then moved into place.

    Parameters
    ----------
    directory
        Must not exist, or be a bundle, which is then replaced.
    report
        None for a model that has not been evaluated; the card states this.
    license_text, data_license
        Full texts.
    sample, expected
        The files of the sample cells and the outputs of the model for them.

    Raises
    ------
    BundleError
        The parts do not fit together, or ``directory`` is something else than a bundle.
    """
    from leukoscope.models.card import render_card

    check_bundle_place(directory)
    texts = {
        names.MANIFEST: manifest.to_json(),
        names.DECISION: decision.to_json(),
        names.CARD: render_card(manifest, decision, report),
        names.LICENSE: license_text,
        names.DATA_LICENSE: data_license,
        names.EXPECTED: expected.to_json(),
    }
    if report is not None:
        texts[names.REPORT] = report.model_dump_json(indent=1) + "\n"
    contents = {name: text.encode() for name, text in texts.items()}
    contents[names.MODEL] = model_path.read_bytes()
    contents[names.NOVELTY] = _render_novelty(novelty)
    contents.update({f"{names.SAMPLE}/{cell.name}": cell.content for cell in sample})
    write_folder(directory, contents)
    return Bundle.open(directory)


def write_folder(directory: Path, contents: Mapping[str, bytes]) -> None:
    """Write the files of a bundle and their ``SHA256SUMS`` beside its place, verify them and move them there.

    Raises
    ------
    BundleError
        A check fails; what was at the place before is left as it was.
    """
    sums = render_sums({name: hash_bytes(content) for name, content in contents.items()})
    directory.parent.mkdir(parents=True, exist_ok=True)
    build = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", suffix=".part", dir=directory.parent))
    try:
        for name, content in {**contents, names.SUMS: sums.encode()}.items():
            (build / name).parent.mkdir(exist_ok=True)
            (build / name).write_bytes(content)
        build.chmod(0o755)
        failed = [check.detail for check in verify_bundle(build) if not check.passed]
        if failed:
            raise BundleError("; ".join(failed))
        _replace_folder(build, directory)
    finally:
        shutil.rmtree(build, ignore_errors=True)


def check_bundle_place(directory: Path) -> None:
    """Refuse a folder that cannot be replaced by a bundle without losing files.

    Raises
    ------
    BundleError
        The place is a file, or a folder that holds anything but an intact bundle.
    """
    if directory.is_symlink() or (directory.exists() and not directory.is_dir()):
        raise BundleError(f"{directory}: exists and is no folder; name a new folder")
    if not directory.exists() or not any(directory.iterdir()):
        return
    try:
        open_bundle(directory)
    except BundleError as error:
        raise BundleError(
            f"{directory}: is not an unchanged bundle, and its files would be lost ({error}); name a new folder"
        ) from None


def _replace_folder(new: Path, place: Path) -> None:
    """Move ``new`` to ``place``; an old folder there is put back if that fails."""
    if not place.exists():
        new.rename(place)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{place.name}.", suffix=".old", dir=place.parent))
    place.rename(aside / place.name)  # inside: Windows replaces no folder
    try:
        new.rename(place)
    except OSError:
        (aside / place.name).rename(place)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _read_novelty(content: bytes) -> NoveltyModel:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(content)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise BundleError(
            f"{names.NOVELTY}: not a safetensors file ({error}); export the bundle again"
        ) from None
    return NoveltyModel.from_tensors(tensors)


def _render_novelty(novelty: NoveltyModel) -> bytes:
    from safetensors.numpy import save

    return save(novelty.to_tensors())


def compare_graph(manifest: ModelManifest, graph: OnnxGraph) -> None:
    """Raise ``BundleError`` if the graph differs from the manifest."""
    declared = [(spec.name, spec.dtype, _fixed(spec.shape)) for spec in (*manifest.inputs, *manifest.outputs)]
    found = [(entry.name, entry.dtype, _fixed(entry.shape)) for entry in (*graph.inputs, *graph.outputs)]
    for wanted, have in zip(declared, found, strict=False):
        if wanted != have:
            raise BundleError(
                f"model.onnx has {have}, manifest.json declares {wanted}; export the bundle again"
            )
    if len(declared) != len(found):
        raise BundleError(
            f"model.onnx has {len(found)} inputs and outputs, manifest.json declares {len(declared)}; "
            "export the bundle again"
        )


def _fixed(shape: tuple[int | str, ...]) -> tuple[int | None, ...]:
    """Names of dynamic axes are free."""
    return tuple(size if isinstance(size, int) else None for size in shape)


def _check_sample_list(bundle: Bundle) -> Check:
    try:
        return Check("sample", True, f"{len(bundle.expected.cells)} cells, as listed")
    except BundleError as error:
        return Check("sample", False, str(error))


def _check_card(bundle: "Bundle | FinderBundle") -> Check:
    try:
        rendered = bundle.render_card()
    except BundleError as error:
        return Check("report", False, str(error))
    if bundle.read(names.CARD).decode("utf-8", "replace") != rendered:
        return Check(
            "card", False, f"{names.CARD} is not what manifest and report give; export the bundle again"
        )
    evaluated = (
        "report.json" if bundle.report is not None else "manifest only: the model has not been evaluated"
    )
    return Check("card", True, f"equals {evaluated}")
