"""What is shipped: one version everywhere, studies and spaces in the wheel, a README whose code runs."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import vnas
from vnas import __main__ as commands

ROOT = Path(__file__).parents[1]


def test_the_changelog_has_this_version() -> None:
    assert re.search(rf"^## {re.escape(vnas.__version__)}$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_every_dependency_has_a_tested_version() -> None:
    def plain(requirement: str) -> str:
        return re.split(r"[<>=\[;!~ ]", requirement)[0].lower().replace("_", "-")

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [
        *project["dependencies"],
        *project["optional-dependencies"]["test"],
        *project["optional-dependencies"]["dev"],
    ]
    pinned = {plain(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")}
    assert {plain(requirement) for requirement in needed} - {"vnas"} <= pinned


def test_readme_python_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (block,) = (block for block in blocks if "Architecture.named" in block)
    there = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", block], cwd=tmp_path, env=there, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "macs=" in done.stdout


def test_readme_links_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = re.findall(r"\]\((?!https?://)([^)#]+)\)", text)
    assert "reports/cpu-quickstart/figures/front.png" in targets
    for target in targets:
        assert (ROOT / target).exists(), target


def test_commands_of_the_readme_parse(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("search", "profile", "report"):
        with pytest.raises(SystemExit) as caught:
            commands.main([name, "--help"])
        assert caught.value.code == 0
    assert "--latency-budget" in capsys.readouterr().out
    with pytest.raises(SystemExit) as caught:
        commands.main(["serach"])
    assert caught.value.code == 2


@pytest.mark.slow
@pytest.mark.network
def test_the_wheel_holds_studies_spaces_and_the_style_sheet(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", str(tmp_path), str(ROOT)],
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for kind in ("studies", "search_spaces"):
        for path in (ROOT / kind).glob("*.toml"):
            assert f"vnas/{kind}/{path.name}" in names
    assert "vnas/report/page.css" in names
    assert "vnas/py.typed" in names
