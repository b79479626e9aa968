"""A table of known answers: a CSV, and a TOML file that says what its columns mean.

    csv = "nets.csv"                 # beside the TOML file; may be left out and given to load()
    choices = ["op0", "op1"]         # what is drawn; the values found in a column are its choices
    latency_ms = "latency"
    seconds = "train_seconds"        # of a training to the last rung; without it an epoch takes a second
    costs = {params = "params"}      # numbers that a constraint may be put on

    [[rungs]]
    epochs = 12
    accuracy = "accuracy_12"

    [[rungs]]
    epochs = 200
    accuracy = ["seed_0", "seed_1"]  # several columns: trainings that differ in their seed; some cells may be empty

    [reference]                      # the worst corner of the hypervolume
    error = 100.0
    latency_ms = 10.0                # without it the greatest latency of the table

Accuracies are top-1 in percent. Legend: N rows, C columns of choices, K trainings at a rung.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from csv import Error as CsvError
from csv import reader
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from vnas.config.options import Choices, Options, Strict
from vnas.config.tables import read_toml, validate
from vnas.errors import ConfigError, DataError, nearest
from vnas.pareto import hypervolume

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Option = int | float | str

_WHOLE = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")

_PERCENT: tuple[str, Callable[[Floats], Mask]] = (
    "a percentage from 0 to 100",
    lambda values: (values >= 0.0) & (values <= 100.0),
)
_POSITIVE: tuple[str, Callable[[Floats], Mask]] = ("a number above 0", lambda values: values > 0.0)


class Rung(Options):
    """Accuracies after so many epochs in all; a column for each training."""

    epochs: Annotated[float, Field(gt=0.0)]
    accuracy: Choices[str]


class Reference(Strict):
    """Worst corner of the hypervolume: top-1 error in percent, latency in ms (None: the greatest of the table)."""

    error: Annotated[float, Field(gt=0.0, le=100.0)] = 100.0
    latency_ms: Annotated[float, Field(gt=0.0)] | None = None


class TableConfig(Strict):
    """The TOML file: which column of the CSV means what."""

    csv: str | None = None
    choices: Annotated[tuple[str, ...], Field(min_length=1)]
    latency_ms: str
    seconds: str | None = None
    costs: dict[str, str] = Field(default_factory=dict)
    rungs: Annotated[tuple[Rung, ...], Field(min_length=1)]
    reference: Reference = Reference()

    @model_validator(mode="after")
    def _in_order(self) -> TableConfig:
        if len(set(self.choices)) < len(self.choices):
            raise ValueError(f"choices = {list(self.choices)} names a column twice")
        epochs = [rung.epochs for rung in self.rungs]
        if any(after <= before for before, after in itertools.pairwise(epochs)):
            raise ValueError(f"the epochs of the rungs are {epochs}; they count from the start and must ascend")
        return self

    def columns(self) -> Iterator[tuple[str, str]]:
        """Key in this file and column of the CSV, for every column that is named."""
        yield from (("choices", name) for name in self.choices)
        yield "latency_ms", self.latency_ms
        if self.seconds is not None:
            yield "seconds", self.seconds
        yield from ((f"costs.{key}", name) for key, name in self.costs.items())
        for number, rung in enumerate(self.rungs):
            yield from ((f"rungs.{number}.accuracy", name) for name in rung.accuracy)


@dataclass(frozen=True, eq=False)
class Table:
    """Answers by row; the arrays are read-only.

    Attributes:
        choices: what each name may be, ascending; columns with one value only are left out.
        index: row of each draw, a choice for every name in the order of ``choices``; in the order of the rows.
        rungs: epochs in all at each rung.
        accuracy: for each rung (N, K) top-1 in percent; NaN for a training that was not run, never all K of a row.
        latency_ms: (N,).
        seconds: (N,) of a training to the last rung.
        costs: (N,) each.
        reference: worst corner of the hypervolume: error in percent, latency in ms.
    """

    choices: Mapping[str, tuple[Option, ...]]
    index: Mapping[tuple[Option, ...], int] = field(repr=False)
    rungs: tuple[float, ...]
    accuracy: tuple[Floats, ...] = field(repr=False)
    latency_ms: Floats = field(repr=False)
    seconds: Floats = field(repr=False)
    costs: Mapping[str, Floats] = field(repr=False)
    reference: tuple[float, float]

    def __len__(self) -> int:
        return len(self.latency_ms)

    @cached_property
    def _keys(self) -> tuple[tuple[Option, ...], ...]:
        return tuple(self.index)

    def draw(self, row: int) -> dict[str, Option]:
        """The draw that a row answers."""
        return dict(zip(self.choices, self._keys[row], strict=True))

    def row(self, draw: Mapping[str, Any]) -> int:
        """The row that answers a complete draw.

        Raises:
            ConfigError: there is none.
        """
        try:
            return self.index[tuple(draw[name] for name in self.choices)]
        except KeyError as error:
            raise ConfigError(f"the table has no row for {describe(draw)}; {self._remedy(draw)}") from error

    def _remedy(self, draw: Mapping[str, Any]) -> str:
        for name, options in self.choices.items():
            if name not in draw or draw[name] not in options:
                return f"{name} must be one of {', '.join(map(repr, options))}"
        return f"it answers {len(self)} of {math.prod(map(len, self.choices.values()))} combinations, draw another"

    @cached_property
    def true_accuracy(self) -> Floats:
        """(N,) top-1 in percent at the last rung, the mean of the trainings that were run."""
        return _sealed(np.nanmean(self.accuracy[-1], axis=1))

    def hypervolume(self, rows: Sequence[int], budget_ms: float | None = None) -> float:
        """Volume that rows dominate, of the error of ``true_accuracy`` in percent and the latency in ms.

        Args:
            rows: indices from 0; repetitions add nothing.
            budget_ms: rows that are slower add nothing. The reference stays.
        """
        chosen = np.asarray(list(rows), dtype=np.intp)
        if budget_ms is not None:
            chosen = chosen[self.latency_ms[chosen] <= budget_ms]
        points = np.column_stack([100.0 - self.true_accuracy[chosen], self.latency_ms[chosen]])
        return hypervolume(points, self.reference)

    def optimum(self, budget_ms: float | None = None) -> float:
        """Hypervolume of all rows, the most that a search can reach; see :meth:`hypervolume`."""
        return self.hypervolume(range(len(self)), budget_ms)


def describe(draw: Mapping[str, Any]) -> str:
    """A draw on one line: ``op0=none op1=skip``."""
    return " ".join(f"{name}={value}" for name, value in draw.items())


def load(mapping: Path, csv: Path | None = None) -> Table:
    """A table from its TOML file.

    Args:
        mapping: the TOML file.
        csv: the answers, where the TOML file names none or another file is meant.

    Raises:
        ConfigError: the TOML file is missing or wrong, or names a column that the CSV does not have.
        DataError: the CSV is missing, empty or corrupt, or a cell is not what its column must hold.
    """
    if not mapping.is_file():
        raise ConfigError(f"no file {mapping}; give the TOML file that says what the columns of the table mean")
    config = validate(TableConfig, read_toml(mapping), str(mapping))
    if csv is None:
        if config.csv is None:
            raise ConfigError(f'{mapping} names no CSV; write csv = "FILE" in it, or give the CSV with --csv FILE')
        csv = mapping.parent / config.csv
    sheet = _read(csv)
    for key, name in config.columns():
        if name not in sheet.columns:
            raise ConfigError(
                f"{mapping}: {key} names the column {name!r}, which is not in {csv}."
                f"{nearest(name, sheet.columns)} Its columns: {', '.join(sheet.columns)}"
            )
    return _table(config, sheet)


@dataclass(frozen=True)
class _Sheet:
    """A CSV: cells by column, and the line in the file of each row."""

    path: Path
    columns: Mapping[str, tuple[str, ...]]
    lines: tuple[int, ...]


def _read(path: Path) -> _Sheet:
    if not path.is_file():
        raise DataError(f"no file {path}; give the CSV that holds the answers")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = reader(file, skipinitialspace=True, strict=True)
            numbered = [(rows.line_num, row) for row in rows if row]
    except (CsvError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a CSV in UTF-8: {error}") from error
    if not numbered:
        raise DataError(f"{path} is empty; its first line must name the columns")
    (_, names), *numbered = numbered
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise DataError(f"{path} has columns of one name: {', '.join(twice)}; rename them")
    if not numbered:
        raise DataError(f"{path} has no rows below its header; add one for each draw")
    lines, cells = zip(*numbered, strict=True)
    for line, row in numbered:
        if len(row) != len(names):
            raise DataError(f"{path}, line {line}: {len(row)} cells under {len(names)} column names; each needs one")
    return _Sheet(path, dict(zip(names, zip(*cells, strict=True), strict=True)), lines)


def _table(config: TableConfig, sheet: _Sheet) -> Table:
    found = {name: _choices(sheet, name) for name in config.choices}
    varied = {name: (options, values) for name, (options, values) in found.items() if len(options) > 1}
    if not varied:
        raise DataError(f"{sheet.path}: every column of choices holds one value only; there is nothing to search")
    rungs = tuple(rung.epochs for rung in config.rungs)
    count = len(sheet.lines)
    latency_ms = _positive(sheet, config.latency_ms)
    reference = config.reference
    return Table(
        choices={name: options for name, (options, _) in varied.items()},
        index=_index(sheet, {name: values for name, (_, values) in varied.items()}),
        rungs=rungs,
        accuracy=tuple(_accuracy(sheet, rung.accuracy) for rung in config.rungs),
        latency_ms=latency_ms,
        seconds=_sealed(np.full(count, rungs[-1])) if config.seconds is None else _positive(sheet, config.seconds),
        costs={key: _numbers(sheet, name) for key, name in config.costs.items()},
        reference=(
            reference.error,
            float(latency_ms.max()) if reference.latency_ms is None else reference.latency_ms,
        ),
    )


def _choices(sheet: _Sheet, name: str) -> tuple[tuple[Option, ...], list[Option]]:
    """The distinct values of a column, and its value in each row."""
    cells = sheet.columns[name]
    if "" in cells:
        raise DataError(f"{sheet.path}, line {sheet.lines[cells.index('')]}: {name} is empty; write the choice")
    values = _values(set(cells))
    return tuple(sorted(set(values.values()))), list(map(values.__getitem__, cells))


def _values(texts: set[str]) -> dict[str, Any]:
    """What each text of a column means: numbers where all are numbers (whole ones where all are), else the text."""
    if all(map(_WHOLE.fullmatch, texts)):
        return {text: int(text) for text in texts}
    if all(map(_NUMBER.fullmatch, texts)) and all(math.isfinite(float(text)) for text in texts):
        return {text: float(text) for text in texts}
    return {text: text for text in texts}


def _index(sheet: _Sheet, columns: Mapping[str, Sequence[Option]]) -> dict[tuple[Option, ...], int]:
    index: dict[tuple[Option, ...], int] = {}
    for row, key in enumerate(zip(*columns.values(), strict=True)):
        first = index.setdefault(key, row)
        if first != row:
            raise DataError(
                f"{sheet.path}, lines {sheet.lines[first]} and {sheet.lines[row]} have the same choices "
                f"({describe(dict(zip(columns, key, strict=True)))}); keep one of them"
            )
    return index


def _accuracy(sheet: _Sheet, names: Sequence[str]) -> Floats:
    """(N, K) accuracies of K trainings; of several some may be unknown."""
    several = len(names) > 1
    values = np.stack([_numbers(sheet, name, *_PERCENT, may_be_empty=several) for name in names], axis=1)
    unknown = np.flatnonzero(np.isnan(values).all(axis=1))
    if unknown.size:
        raise DataError(
            f"{sheet.path}, line {sheet.lines[unknown[0]]}: {', '.join(names)} are all empty; "
            "give one of them or leave the row out"
        )
    return _sealed(values)


def _positive(sheet: _Sheet, name: str) -> Floats:
    return _numbers(sheet, name, *_POSITIVE)


def _numbers(
    sheet: _Sheet,
    name: str,
    words: str = "a finite number",
    allowed: Callable[[Floats], Mask] = np.isfinite,
    *,
    may_be_empty: bool = False,
) -> Floats:
    """(N,) a column of numbers, all finite and allowed; NaN for what may be empty and is."""
    cells = sheet.columns[name]
    try:
        values = np.fromiter(map(float, cells), dtype=np.float64, count=len(cells))
    except ValueError:
        values = np.array([_float_or_nan(cell) for cell in cells])
    sound = np.isfinite(values) & allowed(values)
    if may_be_empty:
        sound |= np.array(cells) == ""
    wrong = np.flatnonzero(~sound)
    if wrong.size:
        row = int(wrong[0])
        raise DataError(
            f"{sheet.path}, line {sheet.lines[row]}: {name} is {cells[row]!r}, not {words}; "
            "correct it or leave the row out"
        )
    return _sealed(values)


def _float_or_nan(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan


def _sealed(values: Floats) -> Floats:
    values.flags.writeable = False
    return values
