"""The SHA-256 of every official C-NMC 2019 image, shipped with the package.

The list is two files in this folder, with rows in the same order:

``official_names.txt.xz``
    xz-compressed UTF-8 text, one POSIX path per line, relative to the archive's ``C-NMC_Leukemia`` folder, sorted.
``official_sha256.bin``
    The raw digests, 32 bytes each, without header or separator.

15,114 files: 10,661 of the training folds, 1,867 of the preliminary and 2,586 of the final test set. The digests are
facts about the files of doi 10.7937/tcia.2019.dc64i46r (CC BY 3.0); they cannot be compressed, hence the raw form.
"""

import lzma
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType

from leukoscope.core.errors import CohortError
from leukoscope.core.terms import Label
from leukoscope.data.cnmc import FINAL_TEST, PRELIMINARY_TEST, OfficialName, parse_name

DIGEST_BYTES = 32
_PART_FOLDERS = {"C-NMC_test_prelim_phase_data": PRELIMINARY_TEST, "C-NMC_test_final_phase_data": FINAL_TEST}


@dataclass(frozen=True, slots=True)
class OfficialFile:
    """One image of the official archive."""

    path: str
    """POSIX path below ``C-NMC_Leukemia``."""
    sha256: str
    fold: str
    """``fold_0`` to ``fold_2``, ``preliminary_test`` or ``final_test``."""
    name: OfficialName | None
    """Fields of the file name; None in the test sets, whose images are numbered."""

    @property
    def tail(self) -> str:
        """Return the end of the path that identifies the file: fold, class and name, or test folder and number."""
        return "/".join(self.path.split("/")[-3 if self.name else -2 :])

    @property
    def subject(self) -> str:
        """Return the subject, or an empty string where the archive does not tell."""
        return self.name.subject if self.name else ""

    @property
    def label(self) -> Label | None:
        """Return the label, or None where the archive does not tell."""
        return self.name.label if self.name else None


@cache
def official_files() -> tuple[OfficialFile, ...]:
    """Return the official files in the order of their paths.

    Raises
    ------
    CohortError
        The shipped list is damaged: the two files do not have the same number of entries.
    """
    folder = files("leukoscope.data")
    names = lzma.decompress((folder / "official_names.txt.xz").read_bytes()).decode().splitlines()
    digests = (folder / "official_sha256.bin").read_bytes()
    if len(digests) != DIGEST_BYTES * len(names):
        raise CohortError(
            f"the shipped list of official files is damaged: {len(names)} names, {len(digests)} bytes of digests; "
            "install leukoscope again"
        )
    return tuple(
        _official_file(path, digests[DIGEST_BYTES * i : DIGEST_BYTES * (i + 1)].hex())
        for i, path in enumerate(names)
    )


@cache
def official_by_sha256() -> Mapping[str, tuple[OfficialFile, ...]]:
    """Return the official files by digest; 106 digests belong to two files each."""
    found: dict[str, list[OfficialFile]] = {}
    for file in official_files():
        found.setdefault(file.sha256, []).append(file)
    return MappingProxyType({digest: tuple(same) for digest, same in found.items()})


@cache
def official_by_tail() -> Mapping[str, OfficialFile]:
    """Return the official files by the end of their path without the suffix, which names each of them once."""
    return MappingProxyType({file.tail.rpartition(".")[0]: file for file in official_files()})


def pack_official(rows: Iterable[tuple[str, str]]) -> tuple[bytes, bytes]:
    """Pack (path, hexadecimal SHA-256) pairs into the two shipped files.

    Parameters
    ----------
    rows
        Paths below ``C-NMC_Leukemia`` and digests, in any order.

    Returns
    -------
    tuple of bytes
        Contents of ``official_names.txt.xz`` and of ``official_sha256.bin``.
    """
    ordered = sorted(rows)
    names = "".join(f"{path}\n" for path, _ in ordered).encode()
    return lzma.compress(names, preset=9 | lzma.PRESET_EXTREME), b"".join(
        bytes.fromhex(sha256) for _, sha256 in ordered
    )


def _official_file(path: str, sha256: str) -> OfficialFile:
    parts = path.split("/")
    if parts[0] == "training_data":
        return OfficialFile(path, sha256, parts[1], parse_name(parts[-1]))
    return OfficialFile(path, sha256, _PART_FOLDERS[parts[1]], None)
