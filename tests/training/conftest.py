import io
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vnas.nets import Architecture, Stage, Stem
from vnas.training import Data, open_data


def draw(label: int, index: int, size: tuple[int, int] = (16, 16)) -> Image.Image:
    """A random image whose brightest channel tells its class."""
    random = np.random.default_rng(1000 * label + index)
    pixels = random.integers(0, 100, (size[1], size[0], 3), dtype=np.uint8)
    pixels[:, :, label % 3] += 100
    return Image.fromarray(pixels)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[[str, Mapping[str, int]], Path]:
    """Write class folders with so many images each under a name."""

    def make(name: str, classes: Mapping[str, int]) -> Path:
        root = tmp_path / name
        for label, (class_name, count) in enumerate(classes.items()):
            (root / class_name).mkdir(parents=True)
            for index in range(count):
                draw(label, index).save(root / class_name / f"{index}.png")
        return root

    return make


@pytest.fixture
def make_tar(tmp_path: Path) -> Callable[[str, Mapping[str, int]], Path]:
    """Write the same as one archive."""

    def make(name: str, classes: Mapping[str, int]) -> Path:
        path = tmp_path / f"{name}.tar"
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as archive:
            for label, (class_name, count) in enumerate(classes.items()):
                folder = tarfile.TarInfo(f"./{class_name}")
                folder.type = tarfile.DIRTYPE
                archive.addfile(folder)
                for index in range(count):
                    content = png(draw(label, index))
                    member = tarfile.TarInfo(f"./{class_name}/{index}.png")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
        return path

    return make


@pytest.fixture(scope="session")
def digits() -> Data:
    return open_data("digits")


@pytest.fixture
def small() -> Architecture:
    """A net for digits at 16 px: feature maps of 4, 2 and 2 pixels."""
    return Architecture(
        Stem(8, kernel=4, stride=4, padding=0, series=1),
        (Stage(16, stride=2, series=1), Stage(16, stride=1, series=0)),
        in_chans=1,
        image_size=16,
        num_classes=10,
    )
