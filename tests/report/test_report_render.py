from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
from matplotlib.figure import Figure
from optuna.trial import TrialState
from synthetic_study import DATA, Writer, attributes, config, full_study

from vnas.pareto import non_dominated
from vnas.prediction import split_half
from vnas.report import read, read_run, render
from vnas.report.analysis import Analysis, analyse, t_interval
from vnas.report.figure_front import draw_front
from vnas.report.figure_prediction import draw_prediction
from vnas.report.figure_style import saved, style
from vnas.report.figure_training import draw_training
from vnas.report.output import Paths
from vnas.report.reading import frame_of
from vnas.report.record import Record

VOID = {"meta", "link", "img", "br", "hr", "rect", "line"}


class Page(HTMLParser):
    """Checks that tags nest, and collects what a test asks about."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    full_study(folder / "study.db")
    return folder


@pytest.fixture(scope="module")
def paths(run_dir: Path) -> Paths:
    return render(read_run(run_dir), run_dir)


@pytest.fixture(scope="module")
def page(paths: Paths) -> Page:
    return Page(paths.report_html.read_text(encoding="utf-8"))


def text_of(paths: Paths) -> str:
    return " ".join(" ".join(Page(paths.report_html.read_text(encoding="utf-8")).text).split())


def test_trials_csv_has_a_row_a_trial_and_the_columns_of_the_design(paths: Paths) -> None:
    table = pd.read_csv(paths.trials_csv)
    assert table["number"].tolist() == list(range(24))
    promised = (
        "state digest depth params macs latency_ms latency_low_ms latency_high_ms energy_mj val_top1 epochs seconds"
    )
    assert set(promised.split()) <= set(table.columns)
    assert {f"predicted_ms_{name}" for name in ("flops", "params", "depth", "kernels", "traffic")} <= set(table.columns)
    assert table["state"].value_counts().to_dict() == {"COMPLETE": 20, "PRUNED": 2, "FAIL": 2}
    assert table["energy_mj"].isna().all()


def test_whole_numbers_stay_whole_and_absence_is_an_empty_cell(paths: Paths) -> None:
    with paths.trials_csv.open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert rows[0]["macs"].isdigit()
    assert rows[14]["macs"] == rows[14]["latency_ms"] == rows[14]["val_top1"] == rows[0]["energy_mj"] == ""
    assert rows[9]["duplicate_of"] == "0"


def test_the_front_is_that_of_the_completed_trials_within_the_budget(paths: Paths) -> None:
    table = pd.read_csv(paths.trials_csv)
    may = table[(table["state"] == "COMPLETE") & table["duplicate_of"].isna()]
    expected = may[non_dominated(may[["val_top1", "latency_ms"]], maximise=(True, False))]["number"]
    assert table[table["on_front"]]["number"].tolist() == expected.tolist()


def test_a_prediction_in_trials_csv_comes_from_the_other_half(paths: Paths) -> None:
    table = pd.read_csv(paths.trials_csv)
    nets = table[table["latency_ms"].notna()].drop_duplicates("digest").reset_index(drop=True)
    judged = split_half(len(nets), config().seed)
    for half in (judged, ~judged):
        slope, intercept = np.polyfit(nets["macs"][~half], nets["latency_ms"][~half], 1)
        expected = slope * nets["macs"][half].to_numpy() + intercept
        assert nets["predicted_ms_flops"][half].to_numpy() == pytest.approx(expected, rel=1e-9)


def test_a_duplicate_has_the_prediction_of_the_net_it_repeats(paths: Paths) -> None:
    table = pd.read_csv(paths.trials_csv)
    assert table["predicted_ms_flops"][9] == table["predicted_ms_flops"][0]


def test_front_csv_is_sorted_and_its_interval_is_the_t_interval(paths: Paths) -> None:
    front = pd.read_csv(paths.front_csv)
    assert front["latency_ms"].is_monotonic_increasing
    assert front["net"].tolist() == list("ABCDEFGH")[: len(front)]
    # Seeds at m - 0.6, m + 0.5, m: the mean is m - 1/30, s^2 = (0.6^2 + 0.5^2 - 0.1^2 / 3) / 2, t(.975, 2) = 4.30265.
    half = 4.302653 * ((0.36 + 0.25 - 0.01 / 3) / 2) ** 0.5 / 3**0.5
    middle = front["val_top1"].to_numpy() - 1.0
    assert front["test_top1"].to_numpy() == pytest.approx(middle + 0.5)
    assert front["test_top1_mean"].to_numpy() == pytest.approx(middle - 0.1 / 3)
    assert front["test_top1_low"].to_numpy() == pytest.approx(middle - 0.1 / 3 - half, abs=1e-5)
    assert front["test_top1_high"].to_numpy() == pytest.approx(np.minimum(100.0, middle - 0.1 / 3 + half), abs=1e-5)


def test_the_latency_of_the_front_is_the_last_measurement(run_dir: Path, paths: Paths) -> None:
    front = pd.read_csv(paths.front_csv, dtype={"digest": str})
    record = read_run(run_dir)
    for digest, latency in zip(front["digest"], front["latency_ms"], strict=True):
        assert latency == record.front_latency[digest]["median_ms"]


def test_t_interval_by_hand() -> None:
    interval = t_interval([90.0, 92.0])
    # t(.975, 1) = 12.7062, s = sqrt(2), s / sqrt(2) = 1.
    assert interval.value == 91.0
    assert interval.low == pytest.approx(91.0 - 12.7062, abs=1e-4)
    assert interval.high == 100.0
    assert t_interval([90.0]).low is None


def test_environment_json_holds_device_and_data(paths: Paths) -> None:
    facts = json.loads(paths.environment_json.read_text(encoding="utf-8"))
    assert facts["device_kind"] == "Synthetic CPU, 2 threads"
    assert facts["environment"]["torch"] == "2.14.1"
    assert facts["data"] == DATA


def test_the_page_stands_alone(paths: Paths, page: Page) -> None:
    assert page.named("script") == []
    assert page.named("base") == page.named("iframe") == page.named("object") == []
    targets = [a.get(key) for _, a in page.tags for key in ("src", "href", "srcset", "action", "data") if a.get(key)]
    assert targets
    assert all(target is not None and target.startswith(("data:", "#")) for target in targets)
    style = re.search(r"<style>(.*?)</style>", paths.report_html.read_text(encoding="utf-8"), re.DOTALL)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    assert not any(key.startswith("on") for _, attrs in page.tags for key in attrs)


def test_the_page_is_semantic(page: Page) -> None:
    assert len(page.named("h1")) == len(page.named("main")) == 1
    assert page.named("html") == [{"lang": "en"}]
    assert len(page.named("caption")) == len(page.named("table")) > 0
    assert all(attrs.get("scope") in ("col", "row") for attrs in page.named("th"))
    assert len(page.named("img")) == 3
    assert all(attrs.get("alt") for attrs in page.named("img"))
    assert all(attrs.get("role") == "img" and attrs.get("aria-label") for attrs in page.named("svg"))
    anchors = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    assert {f"#{anchor}" for anchor in anchors} >= {a["href"] for a in page.named("a")}
    assert len(anchors) == len([a for _, a in page.tags if "id" in a])


def test_every_net_of_the_front_is_drawn(paths: Paths, page: Page) -> None:
    assert len(page.named("svg")) == len(pd.read_csv(paths.front_csv))


def test_page_and_text_say_the_same(paths: Paths) -> None:
    said = text_of(paths)
    markdown = paths.report_md.read_text(encoding="utf-8")
    plain = re.sub(r"\\(.)", r"\1", markdown)
    for sentence in (
        "At batch 1 on Synthetic CPU, 2 threads the fastest net of the front, A, takes",
        "What this data cannot say",
        "2 nets were over the latency budget of 2.00 ms",
        "the loss became nan at step 3",
        "one of the 270 test images is 0.37 points",
    ):
        assert sentence in said
        assert sentence in " ".join(plain.split())


@pytest.mark.parametrize("drawer", [draw_front, draw_prediction, draw_training])
def test_nothing_that_is_written_beside_a_plot_is_cut_off(run_dir: Path, drawer: Callable[[Analysis], Figure]) -> None:
    with style():
        figure = drawer(analyse(read_run(run_dir)))
        saved(figure)  # lays it out
        written = [text for axes in figure.axes for text in (axes.title, axes._left_title, axes.xaxis.label)]  # type: ignore[attr-defined]
        written += [text for axes in figure.axes for text in (*axes.texts, axes.yaxis.label)]
        boxes = {text.get_text(): text.get_window_extent() for text in written if text.get_text()}
    assert len(boxes) >= 3
    for text, box in boxes.items():
        inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.width and box.y1 <= figure.bbox.height
        assert inside, f"{text!r} is cut off"


def test_no_accuracy_above_100_is_on_the_axis(run_dir: Path) -> None:
    record = read_run(run_dir)
    trials = record.trials.copy()
    trials["val_top1"] = trials["val_top1"].clip(lower=97.0)
    with style():
        figure = draw_front(analyse(replace(record, trials=trials)))
    axes = figure.axes[0]
    assert max(axes.get_yticks()) <= 100.0
    assert len([tick for tick in axes.get_yticks() if axes.get_ylim()[0] <= tick]) >= 3


def test_the_text_links_figures_that_are_there(paths: Paths) -> None:
    links = re.findall(r"!\[.*?\]\((.*?)\)", paths.report_md.read_text(encoding="utf-8"))
    assert links == ["figures/front.png", "figures/prediction.png", "figures/training.png"]
    for link in links:
        data = (paths.run_dir / link).read_bytes()
        assert data.startswith(b"\x89PNG")
        assert len(data) > 10_000


def test_rendering_again_gives_the_same_files(run_dir: Path, paths: Paths, tmp_path: Path) -> None:
    again = render(read_run(run_dir), tmp_path)
    names = ["trials_csv", "front_csv", "environment_json", "report_md", "report_html"]
    for first, second in zip(
        [getattr(paths, n) for n in names] + list(paths.figures),
        [getattr(again, n) for n in names] + list(again.figures),
        strict=True,
    ):
        assert first.read_bytes() == second.read_bytes(), first.name
    assert not list(tmp_path.glob(".*")), "a temporary file was left"


def test_saved_weights_are_named_where_they_are_there(run_dir: Path, tmp_path: Path) -> None:
    record = read_run(run_dir)
    digest = analyse(record).front[0].digest
    file = tmp_path / "nets" / digest / "weights.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"weights")
    front = pd.read_csv(render(record, tmp_path).front_csv)
    assert front["weights"][0] == f"nets/{digest}/weights.safetensors"
    assert front["weights"][1:].isna().all()


def test_what_it_cannot_say_is_counted(paths: Paths) -> None:
    said = text_of(paths)
    table = pd.read_csv(paths.trials_csv)
    nets = table[table["latency_ms"].notna()].drop_duplicates("digest")
    missed = int((nets["number"] % 5 == 0).sum())
    assert f"{missed} of {len(nets)} latency measurements missed the noise target" in said
    assert f"{missed} of {len(nets)} measurements ended at the time limit of 15 s" in said
    rho = nets["macs"].corr(nets["depth"], method="spearman")
    assert f"FLOPs and depth {rho:.2f}" in said
    assert "changed by 2.0 % in the median and 2.0 % at most" in said
    assert "no test set of its own" in said


def test_a_completed_trial_over_the_budget_is_not_on_the_front(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "study.db")
    writer.trial(attributes(0, stem=16, widths=[32]))
    writer.trial({**attributes(1, stem=16, widths=[32, 32]), "val_top1": 99.9, "over_budget": True})
    writer.close()
    paths = render(read_run(tmp_path), tmp_path)
    assert pd.read_csv(paths.trials_csv)["on_front"].tolist() == [True, False]


def test_notes_that_differ_in_numbers_only_are_told_once(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "study.db")
    for index in range(3):
        values = attributes(index, stem=16, widths=[32] * (index + 1))
        values["latency"]["notes"] = ["one process"] + [f"noise: 1.{index} % in {index} s"] * (index > 0)
        writer.trial(values)
    writer.close()
    said = text_of(render(read_run(tmp_path), tmp_path))
    assert "one process (3 of 3 measurements)" in said
    assert "noise: 1.1 % in 1 s (2 of 3 measurements had one like it)" in said
    assert "noise: 1.2" not in said


def test_a_running_study_can_be_read_while_it_is_written(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "study.db")
    writer.trial(attributes(0, stem=16, widths=[32]))
    writer.study.ask()
    said = text_of(render(read_run(tmp_path), tmp_path))
    assert "running or waiting when this was read" in said
    writer.close()


@pytest.mark.parametrize("trials", [0, 1, 2, 3, 4])
def test_few_trials(tmp_path: Path, trials: int) -> None:
    writer = Writer(tmp_path / "study.db")
    for index in range(trials):
        writer.trial(attributes(index, stem=16, widths=[32] * (index + 1)))
    writer.close()
    paths = render(read_run(tmp_path), tmp_path)
    said = text_of(paths)
    assert len(pd.read_csv(paths.trials_csv)) == trials
    assert len(pd.read_csv(paths.front_csv)) == trials
    assert "cannot be said" in said
    if trials == 0:
        assert "no trial yet" in said


def unsuccessful(writer: Writer, kind: str) -> None:
    first = attributes(0, stem=16, widths=[32])
    for index in range(5):
        if kind == "failed":
            writer.trial({"reason": "the loss became inf"}, TrialState.FAIL)
        elif kind == "bare":
            writer.trial({}, TrialState.FAIL)
        elif kind == "over the budget":
            values = attributes(index, stem=16, widths=[32] * (index + 1))
            writer.trial({**values, "over_budget": True, "reason": "over the budget"}, TrialState.PRUNED)
        elif index == 0:
            writer.trial(first)
        else:
            writer.trial({**first, "duplicate_of": 0, "seconds": 0.0})


@pytest.mark.parametrize(("kind", "front"), [("failed", 0), ("bare", 0), ("over the budget", 0), ("duplicates", 1)])
def test_studies_without_much(tmp_path: Path, kind: str, front: int) -> None:
    writer = Writer(tmp_path / "study.db", config(budget_ms=0.1) if kind == "over the budget" else None)
    unsuccessful(writer, kind)
    writer.close()
    paths = render(read_run(tmp_path), tmp_path)
    assert len(pd.read_csv(paths.front_csv)) == front
    assert len(pd.read_csv(paths.trials_csv)) == 5
    assert "no front" in text_of(paths) or front


def test_nets_that_do_not_differ(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "study.db")
    for index in range(20):
        same = attributes(0, stem=16, widths=[32])
        writer.trial({**same, "digest": f"{index:012x}", "candidate": f"c{index}"})
    writer.close()
    paths = render(read_run(tmp_path), tmp_path)
    assert "How far FLOPs rank latency is not defined here" in text_of(paths)
    assert len(pd.read_csv(paths.front_csv)) == 20


def test_before_the_front_was_retrained(tmp_path: Path) -> None:
    full_study(tmp_path / "study.db", retrained=False)
    paths = render(read_run(tmp_path), tmp_path)
    front = pd.read_csv(paths.front_csv)
    assert front["test_top1"].isna().all()
    assert (front["seeds"] == 0).all()
    said = text_of(paths)
    assert "on the validation set" in said
    assert "Test accuracy of the front: not retrained" in said


def test_one_retrained_seed_has_no_interval(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "study.db")
    values = attributes(0, stem=16, widths=[32])
    writer.retrain(values, writer.trial(values), [91.0])
    writer.close()
    front = pd.read_csv(render(read_run(tmp_path), tmp_path).front_csv)
    assert front["test_top1"].tolist() == [91.0]
    assert front["test_top1_low"].isna().all()


def test_a_net_that_left_the_front_is_told_of(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "study.db")
    old = attributes(0, stem=16, widths=[32, 32])
    writer.retrain(old, writer.trial(old), [80.0])
    writer.trial({**attributes(1, stem=16, widths=[32]), "val_top1": 99.0})
    writer.close()
    paths = render(read_run(tmp_path), tmp_path)
    assert len(pd.read_csv(paths.front_csv)) == 1
    assert "1 net was retrained and then displaced from the front" in text_of(paths)


def test_an_architecture_under_two_schedules_is_one_net(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "study.db")
    values = attributes(0, stem=16, widths=[32])
    writer.trial(values)
    better = {**values, "candidate": "other", "val_top1": values["val_top1"] + 1.0}
    writer.trial({**better, "anneal": {"shape": "cosine", "start": 0.0, "end": 0.5, "steps": 1, "stagger": 0.0}})
    writer.close()
    paths = render(read_run(tmp_path), tmp_path)
    front = pd.read_csv(paths.front_csv)
    assert front["trial"].tolist() == [1]
    assert front["lambda_shape"].tolist() == ["cosine"]
    assert len(analyse(read_run(tmp_path)).nets) == 1


def test_hostile_names_are_only_text(tmp_path: Path) -> None:
    hostile = "</title><script>alert(1)</script>|`x`*b*[a](http://e.example)$\\frac{1}{2}$"
    writer = Writer(tmp_path / "study.db", name=hostile)
    writer.study.set_user_attr("data", {**DATA, "source": hostile, "class_names": [hostile, "<img src=x onerror=y>"]})
    writer.study.set_user_attr("device_kind", hostile)
    values = {**attributes(0, stem=16, widths=[32]), "description": hostile, "digest": "a\"'><b>"}
    number = writer.trial(values)
    writer.trial({"reason": hostile}, TrialState.FAIL)
    writer.retrain(values, number, [90.0, 91.0])
    writer.close()
    paths = render(read(writer.url, hostile), tmp_path)
    page = Page(paths.report_html.read_text(encoding="utf-8"))
    assert page.named("script") == []
    assert all((attrs["src"] or "").startswith("data:") for attrs in page.named("img"))
    assert all((attrs["href"] or "").startswith("#") for attrs in page.named("a"))
    assert any(hostile in text for text in page.text)
    markdown = paths.report_md.read_text(encoding="utf-8")
    assert "<script>" not in markdown
    assert "[a](http" not in markdown


def test_every_row_of_a_markdown_table_has_as_many_cells(paths: Paths) -> None:
    width = None
    for line in paths.report_md.read_text(encoding="utf-8").splitlines():
        if not line.startswith("|"):
            width = None
            continue
        cells = len(re.findall(r"(?<!\\)\|", line))
        assert width in (None, cells)
        width = cells


def test_attributes_that_are_missing_do_not_matter(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "study.db")
    for name in ("environment", "device_kind", "data", "started_at", "vnas_version"):
        writer.study.set_user_attr(name, None)
    for index in range(10):
        whole = attributes(index, stem=16, widths=[32] * (1 + index % 4))
        kept = ("digest", "latency_ms", "val_top1", "depth") if index % 2 else ("latency_ms", "val_top1")
        writer.trial({name: whole[name] for name in kept})
    writer.close()
    said = text_of(render(read_run(tmp_path), tmp_path))
    assert "device unknown" in said


def test_a_measurement_without_an_interval_has_a_value(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "study.db")
    values = attributes(0, stem=16, widths=[32])
    for name in ("latency_low_ms", "latency_high_ms", "latency", "training"):
        del values[name]
    writer.trial(values)
    writer.close()
    front = pd.read_csv(render(read_run(tmp_path), tmp_path).front_csv)
    assert front["latency_ms"].tolist() == [pytest.approx(values["latency_ms"])]
    assert front["latency_low_ms"].isna().all()


@pytest.mark.slow
def test_a_thousand_trials_stay_under_five_megabytes(tmp_path: Path) -> None:
    paths = render(with_trials(tmp_path, 1000), tmp_path)
    assert paths.report_html.stat().st_size < 5_000_000


def with_trials(folder: Path, n: int) -> Record:
    Writer(folder / "study.db").close()
    random = np.random.default_rng(0)
    trials = []
    for index in range(n):
        widths = [int(w) for w in random.integers(16, 128, size=int(random.integers(1, 6)))]
        values = attributes(index, stem=int(random.integers(8, 48)), widths=widths)
        values["latency_ms"] *= 1.0 + 0.1 * float(random.standard_normal())
        objectives = [values["val_top1"], values["latency_ms"]]
        trial = optuna.trial.create_trial(state=TrialState.COMPLETE, values=objectives, user_attrs=values)
        trial.number = index
        trials.append(trial)
    return replace(read_run(folder), trials=frame_of(trials))


def drawn(widths: int, val_top1: float, latency_ms: float) -> dict[str, object]:
    values = attributes(widths, stem=16, widths=[widths])
    values |= {"val_top1": val_top1, "latency_ms": latency_ms}
    values |= {"latency_low_ms": latency_ms * 0.99, "latency_high_ms": latency_ms * 1.01}
    return values


def test_what_the_test_set_turns_round_is_said(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "study.db", config(budget_ms=1.05))
    slow, fast = drawn(64, 95.0, 1.0), drawn(32, 90.0, 0.5)
    # Slower, and better in the search; on the test set worse than the faster one, and at the end over the budget.
    writer.retrain(slow, writer.trial(slow), [80.0, 80.2, 80.1], latency_factor=1.2)
    writer.retrain(fast, writer.trial(fast), [88.0, 88.2, 88.1])
    writer.close()
    said = text_of(render(read_run(tmp_path), tmp_path))
    assert "another net is at least as good in both as B." in said
    assert "At the end B took more than the latency budget of 1.05 ms." in said


def test_a_front_that_the_test_set_confirms_needs_no_such_sentence(paths: Paths) -> None:
    assert "At the end" not in text_of(paths)
    assert "Not all latencies were measured alike" not in text_of(paths)


def test_measurements_under_different_circumstances_are_said(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "study.db")
    one, other = drawn(32, 90.0, 0.5), drawn(64, 95.0, 1.0)
    latency = one["latency"]
    assert isinstance(latency, dict)
    one["latency"] = latency | {"environment": latency["environment"] | {"torch": "9.9.9"}}
    writer.trial(one)
    writer.trial(other)
    writer.close()
    said = text_of(render(read_run(tmp_path), tmp_path))
    assert re.search(r"Not all latencies were measured alike: torch \S+ and 9\.9\.9\.", said)


def test_runs_of_another_schedule_are_not_seeds_of_this_one(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "study.db")
    values = drawn(32, 90.0, 0.5)
    number = writer.trial(values)
    writer.retrain(values, number, [80.0, 82.0])
    stale = dict(writer.study.user_attrs[f"front/{values['digest']}/1"]) | {"candidate": "another", "chosen": True}
    writer.study.set_user_attr(f"front/{values['digest']}/1", stale)
    writer.close()
    (net,) = analyse(read_run(tmp_path)).front
    assert [entry.test_top1 for entry in net.retrained] == [80.0]
