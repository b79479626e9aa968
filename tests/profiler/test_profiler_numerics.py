from __future__ import annotations

import math

import pytest
import torch

from vnas.errors import MeasurementError
from vnas.profiler.numerics import NumericalError, compare, tensors_of, unusable


def test_the_two_errors_are_what_algebra_gives() -> None:
    error = compare(torch.tensor([3.0, 4.5]), torch.tensor([3.0, 4.0]))
    assert error == NumericalError(max_relative=0.5 / 4, rms_relative=0.5 / 5)


def test_the_sign_of_the_reference_does_not_matter() -> None:
    error = compare(torch.tensor([-3.0, -4.5]), torch.tensor([-3.0, -4.0]))
    assert error == NumericalError(max_relative=0.5 / 4, rms_relative=0.5 / 5)


def test_equal_outputs_have_no_error() -> None:
    assert compare([torch.arange(3)], (torch.arange(3),)) == NumericalError(0.0, 0.0)


def test_all_tensors_of_an_output_count_in_order() -> None:
    reference = {"a": torch.tensor([3.0]), "b": (torch.tensor([0.0]), [torch.tensor([[4.0]])]), "c": "text"}
    output = (torch.tensor([3.0]), torch.tensor([1.0]), torch.tensor([[4.0]]))
    assert compare(output, reference) == NumericalError(1 / 4, 1 / 5)
    assert [float(tensor) for tensor in tensors_of(reference)] == [3.0, 0.0, 4.0]


def test_it_is_computed_in_float64() -> None:
    # In fp16 the squares of 300 overflow, and in fp32 one millionth of 1e-8 beside 1 would be lost.
    assert compare(torch.full((4,), 300.0).half(), torch.full((4,), 240.0).half()).rms_relative == 0.25
    tiny = compare(torch.tensor([1.0, 1e-8], dtype=torch.float64), torch.tensor([1.0, 0.0], dtype=torch.float64))
    assert tiny.rms_relative == pytest.approx(1e-8, rel=1e-9)


def test_complex_numbers_are_their_two_parts() -> None:
    error = compare(torch.tensor([3.0 + 4.5j]), torch.tensor([3.0 + 4.0j]))
    assert error == NumericalError(0.5 / 4, 0.5 / 5)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_output_that_is_not_finite_is_an_error(value: float) -> None:
    with pytest.raises(MeasurementError, match="1 of 2 values of the output are not finite"):
        compare(torch.tensor([1.0, value]), torch.tensor([1.0, 2.0]))


@pytest.mark.parametrize("output", [torch.ones(1, 2), (torch.ones(2), torch.ones(1)), None])
def test_other_shapes_are_an_error(output: object) -> None:
    with pytest.raises(MeasurementError, match=r"the output has shapes .*, that of eager fp32 \[\(2,\)\]"):
        compare(output, torch.ones(2))


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        (torch.tensor([0.0, 1e-30]), None),
        (torch.zeros(3), "zero everywhere"),
        (torch.tensor([1.0, math.nan]), "not finite itself"),
        ("text", "returns no tensor"),
        (torch.ones(0), "returns no tensor"),
    ],
)
def test_what_can_be_a_reference(reference: object, reason: str | None) -> None:
    found = unusable(reference)
    assert (found is None) if reason is None else (found is not None and reason in found)
