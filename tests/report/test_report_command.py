from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy
from synthetic_study import Writer, attributes, config

import vnas.report
from vnas.errors import EXIT_DONE, EXIT_USAGE, UsageError
from vnas.report import read, read_run
from vnas.report.cli import main
from vnas.report.reading import _opened, _read_only, shown_url


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # SQLite's URI form gives these characters a meaning of their own.
    folder = tmp_path_factory.mktemp("command") / "run #1 100%?"
    folder.mkdir()
    writer = Writer(folder.parent / "plain.db")
    for index in range(3):
        writer.trial(attributes(index, stem=16, widths=[32] * (index + 1)))
    writer.close()
    (folder.parent / "plain.db").rename(folder / "study.db")
    (folder / "study.toml").write_text(config().to_toml(), encoding="utf-8")
    return folder


def test_a_run_directory_is_rendered_in_place(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = hashlib.sha256((run_dir / "study.db").read_bytes()).hexdigest()
    assert main([str(run_dir)]) == EXIT_DONE
    printed = capsys.readouterr().out.splitlines()
    assert printed == [str(run_dir / name) for name in ("report.html", "report.md", "trials.csv", "front.csv")]
    assert all(Path(line).is_file() for line in printed)
    assert hashlib.sha256((run_dir / "study.db").read_bytes()).hexdigest() == before


def test_the_database_cannot_be_written(run_dir: Path) -> None:
    with (
        _opened(_read_only(run_dir / "study.db"), "study.db") as storage,
        storage.engine.connect() as connection,
        pytest.raises(sqlalchemy.exc.OperationalError, match="readonly"),
    ):
        connection.execute(sqlalchemy.text("CREATE TABLE mark (value INTEGER)"))


def test_a_storage_is_rendered_where_asked(run_dir: Path, tmp_path: Path) -> None:
    shutil.copy(run_dir / "study.db", tmp_path / "copy.db")
    url = f"sqlite:///{tmp_path / 'copy.db'}"
    assert main([url, "--study", "synthetic", "--out", str(tmp_path / "out")]) == EXIT_DONE
    assert (tmp_path / "out" / "report.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{tmp}/nothing"], "there is no directory"),
        (["{tmp}"], "no study.db"),
        (["sqlite:///{tmp}/none.db", "--study", "synthetic"], "there is no database"),
        (["sqlite:///study.db"], "--study NAME"),
        (["{run}", "--study", "sinthetic"], "it has synthetic. Did you mean 'synthetic'?"),
        (["{run}", "--study", "other"], "there is no study 'other'"),
        (["nonsense://u:secret@host/db", "--study", "x"], "nonsense://u:***@host/db cannot be read"),
        (["sqlite:///{tmp}/text.db", "--study", "x"], "cannot be read"),
    ],
)
def test_what_cannot_be_read_ends_with_a_message(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    (tmp_path / "text.db").write_text("this is no database, and long enough to be looked at as one" * 20)
    typed = [part.replace("{tmp}", str(tmp_path)).replace("{run}", str(run_dir)) for part in arguments]
    assert main(typed) == EXIT_USAGE
    printed = capsys.readouterr()
    assert said in printed.err
    assert "secret" not in printed.err + printed.out
    assert not (tmp_path / "none.db").exists()


def test_a_study_of_someone_else_is_refused(tmp_path: Path) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    url = f"sqlite:///{tmp_path / 'other.db'}"
    storage = optuna.storages.RDBStorage(url)
    optuna.create_study(storage=storage, study_name="other")
    storage.engine.dispose()
    with pytest.raises(UsageError, match=r"not written by vnas\.search"):
        read(url, "other")


def test_without_study_toml_the_only_study_is_taken(run_dir: Path, tmp_path: Path) -> None:
    shutil.copy(run_dir / "study.db", tmp_path / "study.db")
    assert read_run(tmp_path).name == "synthetic"
    writer = Writer(tmp_path / "study.db", name="second")
    writer.close()
    with pytest.raises(UsageError, match="2 studies"):
        read_run(tmp_path)
    assert read_run(tmp_path, "second").trials.empty


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:hunter2@host/db", "postgresql://me:***@host/db"),
        ("postgresql+psycopg://me:p%40ss:word@host:5432/db", "postgresql+psycopg://me:***@host:5432/db"),
        ("mysql://me:a/b@host/db", "mysql://me:***@host/db"),
        ("postgresql://host/db?user=me&password=hunter2&x=1", "postgresql://host/db?user=me&password=***&x=1"),
        ("sqlite:///reports/quickstart/study.db", "sqlite:///reports/quickstart/study.db"),
    ],
)
def test_passwords_are_hidden(url: str, shown: str) -> None:
    assert shown_url(url) == shown


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from vnas.report.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'pandas', 'optuna', 'matplotlib', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert done.stdout.count("python -m vnas.report ") >= 4  # the usage line and three examples


def test_the_package_imports_lightly_and_exports_what_it_says() -> None:
    code = (
        "import sys, vnas.report; print([m for m in ('torch', 'pandas', 'optuna', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert all(getattr(vnas.report, name) is not None for name in vnas.report.__all__)
    with pytest.raises(AttributeError, match="no attribute 'rendr'"):
        vnas.report.rendr  # noqa: B018
