"""Imports go down one set of layers only, and a command's help imports nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "vnas"

# From the top of the house to its foundations; a layer may import what stands below it.
LAYERS = [
    "search", "report", "zoo", "evaluate", "prediction", "training", "profiler", "nets", "pareto", "config", "errors",
]  # fmt: skip
NOTHING_BUT_ERRORS = {"profiler", "pareto", "nets"}

# Of training, likewise; "" is what stands in training itself.
ROOMS_OF_TRAINING = ["command", "rungs", "", "speed", "images"]
TO_WHAT_ALL_STAND_ON = {"speed": {""}, "images": {""}}
"""Both use the seeding, and speed the optimiser and the precision that a step has."""

# Of search, likewise; all may protect a section from signals (``interrupts``).
ROOMS_OF_SEARCH = ["tabular", "", "workers", "engine", "policy", "sampling"]

BY_NAME = {"profiler/targets.py": {"nets"}}
"""Imports at run time of what need not be there: the profiler measures this project's nets where it has them."""


def layer_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "vnas" and len(parts) > 1 else None


def imported_layers(path: Path, package: Path = PACKAGE) -> set[str]:
    """Layers of vnas that a source file imports."""
    return {layer for name in imported_modules(path, package) if (layer := layer_of(name)) is not None}


def imported_modules(path: Path, package: Path = PACKAGE) -> set[str]:
    """What a source file imports anywhere, type-checking blocks, functions and names included."""
    found: set[str] = set()
    here = ("vnas", *path.relative_to(package).with_suffix("").parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*here[: -node.level], *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names] if base == "vnas" else [base]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            names = [word.value for word in node.args[:1] if isinstance(word, ast.Constant)]
        found |= set(names)
    return found


def allowed(layer: str) -> set[str]:
    if layer in NOTHING_BUT_ERRORS:
        return {layer, "errors"}
    return {layer, *LAYERS[LAYERS.index(layer) + 1 :]}


def sources() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem in LAYERS)


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    layer = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert layer in LAYERS, f"{layer} has no place in the house: add it to LAYERS and to the design"
    by_name = BY_NAME.get(path.relative_to(PACKAGE).as_posix(), set())
    upward = {found for found in imported_layers(path) if found in LAYERS} - allowed(layer) - by_name
    assert not upward, f"{path.name} of {layer} imports {sorted(upward)}"


def room_of(module: str) -> str | None:
    """Of vnas.training: its package, or "" for what stands in training itself; None for the rest of the house."""
    parts = module.split(".")
    if parts[:2] != ["vnas", "training"] or len(parts) < 3:
        return None
    return parts[2] if parts[2] in ROOMS_OF_TRAINING else ""


@pytest.mark.parametrize("path", sorted((PACKAGE / "training").rglob("*.py")), ids=lambda path: path.stem)
def test_imports_within_training_go_down(path: Path) -> None:
    room = room_of(".".join(("vnas", *path.relative_to(PACKAGE).with_suffix("").parts)))
    assert room is not None
    if path.name in ("__init__.py", "__main__.py") and not room:
        return  # the door
    seen = {found for name in imported_modules(path) if (found := room_of(name)) is not None}
    above = seen - set(ROOMS_OF_TRAINING[ROOMS_OF_TRAINING.index(room) :]) - TO_WHAT_ALL_STAND_ON.get(room, set())
    assert not above, f"{path.name} of {room or 'training itself'} imports {sorted(above)}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "search").rglob("*.py")), ids=lambda path: path.stem)
def test_imports_within_search_go_down(path: Path) -> None:
    def room(name: str) -> str | None:
        parts = name.split(".")
        if parts[:2] != ["vnas", "search"] or len(parts) < 3:
            return None
        return parts[2] if parts[2] in ROOMS_OF_SEARCH else ""

    own = room(".".join(("vnas", *path.relative_to(PACKAGE).with_suffix("").parts)))
    assert own is not None
    names = {name for name in imported_modules(path) if not name.startswith("vnas.search.interrupts")}
    seen = {found for name in names if (found := room(name)) is not None}
    above = seen - set(ROOMS_OF_SEARCH[ROOMS_OF_SEARCH.index(own) :])
    assert not above, f"{path.name} of {own or 'search itself'} imports {sorted(above)}"


def test_an_upward_import_is_seen(tmp_path: Path) -> None:
    (tmp_path / "nets").mkdir()
    bad = tmp_path / "nets" / "bad.py"
    bad.write_text(
        "def f():\n    from vnas import training\n    from ..search.space import size\n    import vnas.report\n"
        "    importlib.import_module('vnas.zoo.table')\n    __import__('vnas.config')\n"
    )
    assert imported_layers(bad, tmp_path) == {"training", "search", "report", "zoo", "config"}


def test_what_may_be_imported_by_name_is() -> None:
    for path, layers in BY_NAME.items():
        assert layers <= imported_layers(PACKAGE / path)


@pytest.mark.parametrize("command", ["vnas", "vnas.search", "vnas.report", "vnas.training", "vnas.profiler"])
def test_help_imports_nothing_heavy(command: str) -> None:
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['{command}', '--help']\n"
        "try:\n"
        f"    runpy.run_module('{command}', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        "heavy = {'torch', 'optuna', 'pandas', 'timm', 'numpy', 'pydantic', 'seaborn'} & set(sys.modules)\n"
        "sys.exit(f'imported {sorted(heavy)}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")


def test_every_layer_is_documented() -> None:
    for name in LAYERS:
        path = PACKAGE / name / "__init__.py"
        path = path if path.is_file() else PACKAGE / f"{name}.py"
        if name == "zoo":
            continue  # its room is kept for the study of known nets
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{name} does not say what it is for"
