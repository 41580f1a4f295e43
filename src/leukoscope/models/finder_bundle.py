"""A finder's bundle: the network that finds white cells in fields, with its manifest, report and licenses."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

from leukoscope.core.errors import BundleError
from leukoscope.models import files as names
from leukoscope.models.bundle import (
    BundleFolder,
    check_bundle_place,
    compare_graph,
    read_files,
    write_folder,
)
from leukoscope.models.files import BundleFiles, list_files
from leukoscope.models.finder_card import render_finder_card
from leukoscope.models.finder_manifest import FinderManifest, FinderReport


@dataclass(frozen=True)
class FinderBundle(BundleFolder):
    """A bundle of the task ``finder`` whose files, hashes, schema and graph have been checked.

    Attributes
    ----------
    directory
        Its folder.
    manifest
        As read.
    sums
        File name -> SHA-256.
    """

    directory: Path
    manifest: FinderManifest
    sums: Mapping[str, str]
    _files: BundleFiles

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Open and check a bundle.

        Raises
        ------
        BundleError
            It is of another task, or anything is missing, unknown, altered or inconsistent; the first such thing is
            named.
        """
        files = list_files(directory)
        if files.task != "finder":
            raise BundleError(
                f"{directory}: is of the task {files.task[:40]}, not a finder; name the folder of a bundle of the task "
                "finder, or classical"
            )
        sums, contents, graph = read_files(files)
        manifest = FinderManifest.from_json(contents[names.MANIFEST])
        compare_graph(manifest, graph)
        return cls(directory, manifest, sums, files)

    @cached_property
    def report(self) -> FinderReport | None:
        """The measured results; None if the model has not been evaluated."""
        return FinderReport.from_json(self.read(names.REPORT)) if names.REPORT in self.sums else None

    def render_card(self) -> str:
        """Return the expected text of ``MODEL_CARD.md``."""
        return render_finder_card(self.manifest, self.report)


def write_finder_bundle(
    directory: Path,
    *,
    model_path: Path,
    manifest: FinderManifest,
    report: FinderReport | None,
    license_text: str,
    data_license: str,
) -> FinderBundle:
    """Write a finder's bundle in one step: built and verified beside its place, then moved there.

    Parameters
    ----------
    directory
        Must not exist, or be a bundle, which is then replaced.
    report
        None for a model that has not been evaluated; the card states it.
    license_text, data_license
        Full texts.

    Raises
    ------
    BundleError
        The parts do not fit together, or ``directory`` is something else than a bundle.
    """
    check_bundle_place(directory)
    contents = {
        names.MODEL: model_path.read_bytes(),
        names.MANIFEST: manifest.to_json().encode(),
        names.CARD: render_finder_card(manifest, report).encode(),
        names.LICENSE: license_text.encode(),
        names.DATA_LICENSE: data_license.encode(),
    }
    if report is not None:
        contents[names.REPORT] = report.to_json().encode()
    write_folder(directory, contents)
    return FinderBundle.open(directory)
