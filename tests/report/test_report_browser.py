from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from synthetic_study import full_study

from vnas.report import read_run, render

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--enable-logging=stderr",
    "--v=0",
]


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    full_study(folder / "study.db")
    return render(read_run(folder), folder).report_html


def browse(profile: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    return subprocess.run(
        [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env={**os.environ, "HOME": str(profile)},
    )


def test_the_page_opens_without_a_word_on_the_console(html: Path, tmp_path: Path) -> None:
    done = browse(tmp_path, "--dump-dom", html.as_uri())
    assert "What this data cannot say" in done.stdout
    assert re.findall(r".*CONSOLE.*", done.stderr) == []


def test_the_console_would_have_been_heard(tmp_path: Path) -> None:
    page = tmp_path / "loud.html"
    page.write_text("<!DOCTYPE html><script>console.error('heard')</script>")
    assert "heard" in "".join(
        re.findall(r".*CONSOLE.*", browse(tmp_path / "profile", "--dump-dom", page.as_uri()).stderr)
    )


@pytest.mark.parametrize("width", [500, 1100])
def test_nothing_sticks_out(html: Path, tmp_path: Path, width: int) -> None:
    # The page itself lets no script run, so a copy without that policy is asked.
    question = """<script>
      const whole = [...document.images].filter(image => image.naturalWidth > 100).length;
      document.title = `scroll ${document.documentElement.scrollWidth} of ${innerWidth} figures ${whole}`;
    </script>"""
    copy = tmp_path / "copy.html"
    page = re.sub(r"<meta http-equiv[^>]*>", "", html.read_text(encoding="utf-8"))
    copy.write_text(page.replace("</body>", f"{question}</body>"), encoding="utf-8")
    done = browse(tmp_path / "profile", f"--window-size={width},900", "--dump-dom", copy.as_uri())
    found = re.search(r"<title>scroll (\d+) of (\d+) figures (\d+)</title>", done.stdout)
    assert found is not None
    assert int(found[1]) <= int(found[2])
    assert int(found[3]) == 3
