"""Make a release folder, and verify one as a new user would use it.

    python tools/release.py make release/            wheel, source, change log, SHA256SUMS
    python tools/release.py verify release/          hashes, sizes, then an installation that is used
    python tools/release.py verify release/ --no-install

Needs the package `build` to make one, and nothing but Python to verify it.
"""

import argparse
import hashlib
import os
import re
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SUMS = "SHA256SUMS"
WHEEL_LIMIT_MB = 40
INSTALL_LIMIT_MB = 400
START_LIMIT_S = 0.6

PYTHON_LINES = """
import leukoscope
prediction = leukoscope.predict(leukoscope.datasets.sample_paths()[0])
print(prediction.decision, prediction.result.probability)
"""


class ReleaseError(Exception):
    """A failed check, with the value found and the value expected."""


def make(folder: Path) -> None:
    """Build wheel and source into a new folder and write the hashes."""
    if folder.exists() and any(folder.iterdir()):
        raise ReleaseError(f"{folder}: holds files; name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)], check=True)
    for name in ("CHANGELOG.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, folder / name)
    names = sorted(path.name for path in folder.iterdir())
    lines = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def check_sums(folder: Path) -> str:
    """Every file is listed, nothing else is there, every hash is right."""
    listed = {}
    for line in (folder / SUMS).read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        listed[name] = digest
    there = {path.name for path in folder.iterdir()} - {SUMS}
    if there != set(listed):
        raise ReleaseError(f"files {sorted(there ^ set(listed))} are not in both the folder and {SUMS}")
    for name, digest in listed.items():
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
            raise ReleaseError(f"{name}: SHA-256 differs from {SUMS}")
    return f"{len(listed)} files"


def one(folder: Path, pattern: str) -> Path:
    """Return the only file of a pattern."""
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise ReleaseError(f"{pattern}: {len(found)} files, expected one")
    return found[0]


def check_content(folder: Path) -> str:
    """Wheel and source hold the package, the shipped models and the licenses, and no tests or tools in the wheel."""
    wheel, source = one(folder, "*.whl"), one(folder, "*.tar.gz")
    size_mb = wheel.stat().st_size / 1e6
    if size_mb > WHEEL_LIMIT_MB:
        raise ReleaseError(f"{wheel.name}: {size_mb:.1f} MB, the limit is {WHEEL_LIMIT_MB} MB")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    if {top for top in tops if not top.startswith("leukoscope")}:
        raise ReleaseError(f"{wheel.name}: holds {sorted(tops)}, expected leukoscope and its metadata only")
    for wanted in (
        "leukoscope/py.typed",
        "leukoscope/assets/bundle/model.onnx",
        "leukoscope/assets/bundle/SHA256SUMS",
    ):
        if wanted not in names:
            raise ReleaseError(f"{wheel.name}: {wanted} is missing")
    if not any(name.endswith("licenses/LICENSE") for name in names):
        raise ReleaseError(f"{wheel.name}: the license is missing")
    with tarfile.open(source) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    for wanted in ("pyproject.toml", "README.md", "tests/conftest.py", "src/leukoscope/__init__.py"):
        if wanted not in inside:
            raise ReleaseError(f"{source.name}: {wanted} is missing")
    version = wheel.name.split("-")[1]
    if f"-{version}." not in source.name:
        raise ReleaseError(f"{source.name}: another version than {wheel.name}")
    if not re.search(
        rf"^## {re.escape(version)}\b", (folder / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE
    ):
        raise ReleaseError(f"CHANGELOG.md has no section {version}")
    return f"wheel {size_mb:.1f} MB, version {version}"


class Installed:
    """A new virtual environment with the wheel, and an empty working folder."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.folder = folder
        self.work = folder / "work"
        self.work.mkdir()
        venv.create(folder / "venv", with_pip=True)
        self.bin = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
        self._wheel = wheel.resolve()
        self.pip(str(self._wheel))

    def pip(self, *what: str) -> None:
        """Install."""
        command = [
            self.bin / "python",
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            *what,
        ]
        subprocess.run(list(map(str, command)), check=True, cwd=self.work)

    def add_extra(self, name: str) -> None:
        """Install an extra of the wheel."""
        self.pip(f"{self._wheel}[{name}]")

    def run(self, program: str, *words: str, codes: tuple[int, ...] = (0,)) -> str:
        """Run a program of the environment in the empty folder and return what it printed."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        done = subprocess.run(
            [str(self.bin / program), *words],
            cwd=self.work,
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
        if done.returncode not in codes:
            raise ReleaseError(
                f"{program} {' '.join(words)} ended with {done.returncode}: {done.stderr[-800:]}"
            )
        return done.stdout

    def size_mb(self) -> float:
        """Size of the installed packages without pip and setuptools."""
        total = 0
        for place in (self.folder / "venv").glob("[Ll]ib*/**/site-packages"):
            for path in place.rglob("*"):
                if path.is_file() and path.relative_to(place).parts[0].split("-")[0] not in (
                    "pip",
                    "setuptools",
                ):
                    total += path.stat().st_size
            break
        return total / 1e6


def check_light(installed: Installed) -> str:
    """The light installation is small and starts fast."""
    size_mb = installed.size_mb()
    if size_mb > INSTALL_LIMIT_MB:
        raise ReleaseError(f"{size_mb:.0f} MB installed, the limit is {INSTALL_LIMIT_MB} MB")
    seconds = []
    for _ in range(7):
        begin = time.perf_counter()
        installed.run("leukoscope", "--version")
        seconds.append(time.perf_counter() - begin)
    start_s = statistics.median(seconds[2:])
    note = "" if start_s <= START_LIMIT_S else f" (slower than {START_LIMIT_S} s on this machine)"
    return f"{size_mb:.0f} MB installed, start {start_s:.2f} s{note}"


def check_python(installed: Installed) -> str:
    """Three lines of Python."""
    printed = installed.run("python", "-c", PYTHON_LINES)
    decision, probability = printed.split()
    if decision not in ("blast", "normal", "uncertain") or not 0 <= float(probability) <= 1:
        raise ReleaseError(f"three lines of Python printed {printed!r}")
    return printed.strip()


def check_commands(installed: Installed) -> str:
    """Three lines on the command line: predict, smear, verify."""
    cells = installed.run(
        "python", "-c", "import leukoscope; print(leukoscope.datasets.sample_directory())"
    ).strip()
    installed.run("leukoscope", "predict", str(Path(cells) / "fold_1"), "--out", "cells")
    lines = (installed.work / "cells" / "results.jsonl").read_text("utf-8").splitlines()
    if len(lines) != len(list((Path(cells) / "fold_1").rglob("*.webp"))):
        raise ReleaseError(f"predict wrote {len(lines)} results")
    fields = ROOT / "tests" / "data" / "smear_fields"
    found = "no field available"
    if fields.is_dir():
        installed.run("leukoscope", "smear", str(fields / "BloodImage_00176.jpg"), "--out", "smear")
        report = (installed.work / "smear" / "report.html").read_text("utf-8")
        cells_csv = (installed.work / "smear" / "cells.csv").read_text("utf-8").splitlines()
        if len(cells_csv) < 2 or "Research use only" not in report:
            raise ReleaseError("smear found no cell, or its report has no notice")
        found = f"{len(cells_csv) - 1} white cells in a field"
    installed.run("leukoscope", "bundle", "verify")
    return f"{len(lines)} cells predicted, {found}, bundle verified"


def check_page(installed: Installed) -> str:
    """The page starts and answers."""
    import urllib.request

    installed.add_extra("web")
    log = (installed.work / "serve.log").open("w")
    with subprocess.Popen(
        [str(installed.bin / "leukoscope"), "serve", "--port", "8731", "--data", "records"],
        cwd=installed.work,
        stdout=log,
        stderr=log,
    ) as server:
        try:
            for _ in range(120):
                try:
                    with urllib.request.urlopen("http://127.0.0.1:8731/", timeout=2) as answer:
                        page = answer.read().decode()
                    break
                except OSError:
                    if server.poll() is not None:
                        break
                    time.sleep(0.5)
            else:
                page = ""
        finally:
            server.terminate()
            log.close()
    if "Research use only" not in page:
        raise ReleaseError(f"the page did not answer: {(installed.work / 'serve.log').read_text()[-800:]}")
    return f"{len(page):,} characters"


def verify(folder: Path, install: bool) -> int:
    """Run the checks, print each, return how many failed."""
    failed = 0

    def check(name: str, function: Callable[[], str]) -> None:
        nonlocal failed
        try:
            print(f"ok      {name:<10} {function()}", flush=True)
        except (ReleaseError, OSError, subprocess.CalledProcessError, ValueError) as error:
            failed += 1
            print(f"FAILED  {name:<10} {error}", flush=True)

    check("hashes", lambda: check_sums(folder))
    check("content", lambda: check_content(folder))
    if install and not failed:
        with tempfile.TemporaryDirectory() as place:
            installed = Installed(Path(place), one(folder, "*.whl"))
            for name, function in (
                ("light", check_light),
                ("python", check_python),
                ("commands", check_commands),
                ("page", check_page),
            ):
                check(name, lambda function=function: function(installed))
            source = one(folder, "*.tar.gz")
            check(
                "source",
                lambda: installed.pip("--force-reinstall", "--no-deps", str(source.resolve())) or "installs",
            )
    print(f"{folder}: {'verified' if not failed else f'{failed} checks failed'}")
    return failed


def main() -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("make", "verify"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--no-install", action="store_true")
    given = parser.parse_args()
    try:
        if given.action == "make":
            make(given.folder)
            return 0
        return 1 if verify(given.folder, not given.no_install) else 0
    except ReleaseError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
