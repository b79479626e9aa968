"""torch.compile, really compiling on the CPU where there is a C++ compiler."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from profiler_nets import answer, images, small
from torch._dynamo import config
from torch._dynamo.utils import counters

from vnas.errors import MeasurementError, MissingExtraError
from vnas.profiler.runtimes import catalogue, check, prepare, torch_runtimes
from vnas.profiler.runtimes.failures import first_line


def compiler_is_missing() -> str | None:
    try:
        check("compile", None, "cpu")
    except MissingExtraError as error:
        return str(error)
    return None


needs_a_compiler = pytest.mark.skipif(compiler_is_missing() is not None, reason=compiler_is_missing() or "")


@needs_a_compiler
@pytest.mark.filterwarnings("default")  # of torch's compiler about itself
def test_every_net_of_a_class_is_compiled_and_stays_so() -> None:
    before = counters["stats"]["unique_graphs"]
    # Compiled as modules, the second net of a class would meet the limit and run eagerly.
    with config.patch(recompile_limit=1):
        for number, width in enumerate((4, 6), start=1):
            net, given = small(width), images()
            prepared = prepare(net, (given,), device="cpu", runtime="compile", precision=None)
            assert counters["stats"]["unique_graphs"] == before + number
            with torch.inference_mode(), prepared.active():
                output = prepared.call()
            assert counters["stats"]["unique_graphs"] == before + number
            assert isinstance(output, torch.Tensor)
            assert output.double().numpy() == pytest.approx(answer(net, given), rel=1e-5)
            assert prepared.error is not None
            assert prepared.error.max_relative < 1e-5
            assert prepared.notes[0].startswith("torch.compile took ")
            assert len(prepared.notes) == 1
            assert not prepared.capturable


@needs_a_compiler
@pytest.mark.filterwarnings("default")
def test_graph_breaks_are_told() -> None:
    def broken(values: torch.Tensor) -> torch.Tensor:
        values = values + 1
        torch._dynamo.graph_break()
        return values * 2

    prepared = prepare(broken, (torch.ones(3),), device="cpu", runtime="compile", precision=None)
    assert prepared.notes[1:] == ("torch.compile did not get the call into one graph; Python runs between its graphs",)


def test_nothing_to_compile_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "_check_compiler", lambda device_type: None)
    prepared = prepare(lambda values: values, (torch.ones(3),), device="cpu", runtime="compile", precision=None)
    assert "torch.compile found nothing to compile" in prepared.notes


@pytest.mark.filterwarnings("default")
def test_a_compiler_that_does_not_work_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from torch._inductor import config as inductor

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(catalogue, "_check_compiler", lambda device_type: None)
    with (
        inductor.patch({"cpp.cxx": (None, "no-such-compiler"), "force_disable_caches": True}),
        pytest.raises(MissingExtraError, match="there is no working one; install one"),
    ):
        prepare(lambda values: values.sin() * 5, (torch.ones(7),), device="cpu", runtime="compile", precision=None)


def test_what_does_not_compile_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "_check_compiler", lambda device_type: None)

    def refusing(function: object, **options: object) -> object:
        assert options == {"dynamic": False, "mode": "max-autotune"}
        try:
            raise ValueError("\nno lowering for aten.odd\nmore lines")
        except ValueError as error:
            raise RuntimeError("backend failed") from error

    monkeypatch.setattr(torch, "compile", refusing)
    with pytest.raises(
        MeasurementError,
        match=r"^compile_max_autotune fp32: it does not compile: ValueError: no lowering for aten\.odd$",
    ):
        prepare(small(), (images(),), device="cpu", runtime="compile_max_autotune", precision=None)


def test_the_first_line_of_an_error_without_words_is_its_kind() -> None:
    assert first_line(KeyError()) == "KeyError"
    assert torch_runtimes.MODES == {"compile": "default", "compile_max_autotune": "max-autotune"}
