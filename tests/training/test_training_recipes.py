import tomllib
from pathlib import Path

import pytest
import tomli_w

from vnas.config import PAPER_ANNEAL, load_study
from vnas.errors import ConfigError
from vnas.training.command.recipes import data_table, load_recipe, recipe_files

# The official training commands: learning rate, weight decay, mixup, layer decay of each published net.
PUBLISHED = {
    "vanillanet_5": (3.5e-3, 0.35, 0.1, None),
    "vanillanet_6": (4.8e-3, 0.32, 0.15, 0.8),
    "vanillanet_7": (4.7e-3, 0.35, 0.4, 0.8),
    "vanillanet_8": (3.5e-3, 0.30, 0.4, None),
    "vanillanet_9": (3.5e-3, 0.30, 0.4, None),
    "vanillanet_10": (3.5e-3, 0.25, 0.4, None),
}


@pytest.mark.parametrize("net", PUBLISHED)
def test_the_papers_recipe_has_the_published_values_of_each_net(net: str) -> None:
    recipe = load_recipe("paper", net, "digits")
    training = recipe.training
    assert (training.lr, training.weight_decay, training.mixup, training.layer_decay) == PUBLISHED[net]
    assert recipe.origin == f"the recipe paper with the values of {net}"


def test_the_papers_recipe_has_what_all_published_nets_share() -> None:
    recipe = load_recipe("paper", "vanillanet_9", "digits")
    training = recipe.training
    assert (training.epochs, training.batch_size, training.warmup_epochs, training.min_lr) == (300, 1024, 5.0, 1e-6)
    assert (training.optimizer, training.loss, training.label_smoothing) == ("lamb", "bce", 0.1)
    assert (training.cutmix, training.mixup_switch, training.random_erasing) == (1.0, 0.5, 0.25)
    assert (training.rand_augment, training.color_jitter, training.ema_decay) == ("rand-m7-mstd0.5-inc1", 0.4, 0.99996)
    assert training.random_resized_crop
    assert training.flip
    assert training.clip_grad is None
    assert recipe.dropout == 0.05
    assert load_recipe("paper", "vanillanet_9", "/my/images").data.source == "/my/images"
    # 100 of 300 epochs, linearly.
    assert training.anneal == PAPER_ANNEAL
    assert training.anneal.end * training.epochs == pytest.approx(100)


def test_a_net_without_values_of_its_own_takes_the_common_ones_and_it_is_said() -> None:
    recipe = load_recipe("paper", "vanillanet_11", "digits")
    assert recipe.training.layer_decay is None
    assert recipe.training.lr == 3.5e-3
    assert "no values of vanillanet_11's own (it has those of vanillanet_5, " in recipe.origin


@pytest.mark.parametrize(("source", "study"), [("digits", "quickstart"), ("torch/cifar10", "cifar10")])
def test_the_brief_recipe_is_what_the_studies_found(source: str, study: str) -> None:
    recipe = load_recipe("brief", "vanillanet_5", source)
    expected = load_study(study)
    assert recipe.training == expected.training
    assert recipe.data == expected.data.model_copy(update={"source": source})
    assert recipe.dropout == 0.0


def test_a_study_is_a_recipe_by_name_and_by_file(tmp_path: Path) -> None:
    study = load_study("cifar10")
    path = tmp_path / "mine.toml"
    path.write_text(study.to_toml())
    for name in ("cifar10", str(path)):
        assert load_recipe(name, "vanillanet_5", "digits").training == study.training


def test_assignments_come_last() -> None:
    changes = ["training.epochs=3", "training.epochs=4", "dropout=0.2", "data.validation_share=0.3", "training.lr=1"]
    with pytest.raises(ConfigError, match=r"training\.lr"):
        load_recipe("paper", "vanillanet_6", "digits", [*changes, "training.lr=-1"])
    recipe = load_recipe("paper", "vanillanet_6", "digits", [*changes, "training.lr=1.0"])
    assert (recipe.training.epochs, recipe.dropout, recipe.training.lr) == (4, 0.2, 1.0)
    assert (recipe.data.validation_share, recipe.data.source) == (0.3, "digits")


def test_a_file_may_hold_values_for_some_nets(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[training]\nepochs = 2\nlr = 0.5\n[nets.vanillanet_7]\nlr = 0.25\n")
    one, other = (load_recipe(str(path), f"vanillanet_{depth}", "digits") for depth in (7, 8))
    assert (one.training.epochs, one.training.lr) == (2, 0.25)
    assert (other.training.epochs, other.training.lr) == (2, 0.5)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("papre", None, "no recipe 'papre': it is neither a file nor one of brief, cifar10, .*, paper.*mean 'paper'"),
        ("mine.toml", "[training\n", "is not valid TOML"),
        ("mine.toml", "[training]\nepoch = 2\n", "training.epoch is not a known key. Did you mean 'epochs'"),
        ("mine.toml", "training = 3\n", "training is 3; it must be a table"),
        ("mine.toml", "nets = 3\n", "nets must hold tables"),
        ("mine.toml", "[nets.vanillanet_5]\nlearning_rate = 1.0\n", "training.learning_rate is not a known key"),
        ("mine.toml", "dropout = 1.5\n", "dropout: "),
        ("mine.toml", "trials = 3\n", "trials is not a known key"),
    ],
)
def test_a_wrong_recipe_is_refused(
    name: str, text: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path(name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_recipe(name, "vanillanet_5", "digits")


def test_every_shipped_recipe_can_be_read_and_written(tmp_path: Path) -> None:
    files = recipe_files()
    assert "paper" in files
    for name, path in files.items():
        for net in (*tomllib.loads(path.read_text()).get("nets", {}), "vanillanet_13"):
            recipe = load_recipe(name, net, "digits")
            written = {name: value for name, value in recipe.to_dict().items() if name != "recipe"}
            (tmp_path / "again.toml").write_text(tomli_w.dumps(written))
            again = load_recipe(str(tmp_path / "again.toml"), net, "digits")
            assert (again.training, again.data, again.dropout) == (recipe.training, recipe.data, recipe.dropout)


def test_a_data_table_is_checked_like_a_recipes() -> None:
    assert data_table({"source": "digits"}, ["data.test_share=0.3"]).test_share == 0.3
    with pytest.raises(ConfigError, match="training is not a known key"):
        data_table({"source": "digits"}, ["training.lr=1.0"])
