"""Packaging files agree with the package: container, conda recipe, release folder, names on other systems."""

import hashlib
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path, PureWindowsPath

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DOCKERFILE = (ROOT / "packaging" / "Dockerfile").read_text(encoding="utf-8")
RESERVED = {
    "con",
    "prn",
    "aux",
    "nul",
    *(f"com{n}" for n in range(1, 10)),
    *(f"lpt{n}" for n in range(1, 10)),
}


def test_the_recipe_has_the_version_and_requirements_of_the_project() -> None:
    recipe = yaml.safe_load((ROOT / "packaging" / "conda" / "recipe.yaml").read_text(encoding="utf-8"))
    assert recipe["context"]["version"] == PROJECT["version"]
    run = {"".join(line.split()) for line in recipe["requirements"]["run"]}
    assert run == {f"python{PROJECT['requires-python']}", *PROJECT["dependencies"]}
    assert recipe["build"]["python"]["entry_points"] == [
        f"{name} = {target}" for name, target in PROJECT["scripts"].items()
    ]


def test_the_container_copies_what_is_there_and_runs_as_a_user() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    assert copied
    ignored = (ROOT / "packaging" / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    for name in " ".join(copied).split():
        assert (ROOT / name).exists()
        assert f"!{name}" in ignored
    stages = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]
    last_users = [re.findall(r"^USER (\S+)$", stage, re.MULTILINE)[-1:] for stage in stages[1:]]
    assert last_users == [["leukoscope"], ["leukoscope"]]


def test_the_health_check_of_the_container_asks_a_server(tmp_path: Path) -> None:
    import http.server
    import threading

    found = re.search(r'^ +CMD \["python", "-c", "(.+)"\]$', DOCKERFILE, re.MULTILINE)
    assert found is not None
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200 if len(asked) == 1 else 503)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        code = found[1].replace(":8000", f":{server.server_port}")
        codes = [
            subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode
            for _ in "ab"
        ]
        server.shutdown()
    assert asked == ["/healthz", "/healthz"]
    assert codes[0] == 0 != codes[1]


def test_versions_agree() -> None:
    import leukoscope

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["version"] == leukoscope.__version__
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_names_of_files_work_on_windows_and_macos() -> None:
    listed = [path for path in (ROOT / "src").rglob("*") if "__pycache__" not in path.parts]
    for path in listed:
        relative = path.relative_to(ROOT).as_posix()
        assert len(relative) < 150, relative
        for part in PureWindowsPath(relative).parts:
            assert not re.search(r'[<>:"|?*\\]', part), relative
            assert part.partition(".")[0].lower() not in RESERVED, relative
            assert part == part.rstrip(". "), relative
    folded = [path.as_posix().casefold() for path in listed]
    assert len(folded) == len(set(folded))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda folder: (folder / "LICENSE").write_text("other"), "LICENSE: SHA-256 differs"),
        (lambda folder: (folder / "more.txt").write_text("more"), "more.txt"),
        (lambda folder: (folder / "NOTICE").unlink(), "NOTICE"),
        (lambda _: None, "*.whl: 0 files"),
    ],
)
def test_a_release_folder_that_was_changed_is_not_verified(tmp_path: Path, change, expected: str) -> None:
    lines = []
    for name in ("CHANGELOG.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, tmp_path / name)
        lines.append(f"{hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()}  {name}\n")
    (tmp_path / "SHA256SUMS").write_text("".join(lines))
    change(tmp_path)
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "release.py", "verify", tmp_path, "--no-install"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert expected in done.stdout
