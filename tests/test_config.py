"""Recipes and plug-ins: what is wrong is named by its key path or with the near names."""

from dataclasses import replace
from pathlib import Path

import pytest

from cli import recipe
from episodes import plugins
from episodes.config import from_table, to_table
from episodes.errors import ConfigError, PluginNotFound
from learners.methods import protonet, snail

GOOD = {"method": "protonet", "episode": {"ways": 20}, "train": {"steps": 5, "lr": 1}}


def test_tables_and_recipes_are_inverse(tmp_path):
    one = from_table(recipe.Recipe, GOOD)
    assert (one.episode.ways, one.train.steps, one.train.lr) == (20, 5, 1.0)
    (tmp_path / "r.toml").write_text(one.to_toml())
    assert recipe.read(tmp_path / "r.toml") == one


def test_transforms_and_sources_round_trip(tmp_path):
    seen = [{"mean": [0.5], "std": [0.25]}, {"field": "mask"}]
    table = {
        "method": "protonet",
        "episode": {
            "transforms": [{**seen[0], "flip": True, "scale": [0.9, 1.1]}, seen[1]],
            "sources": [{"store": "/data/other.store", "split": "vinyals/train", "weight": 2}],
        },
        "validate": {"split": "val", "transforms": seen, "episodes": 5},
        "evaluate": [{"split": "test", "transform": seen[0]}],
    }
    one = from_table(recipe.Recipe, table)
    assert [t.scale for t in one.episode.all_transforms()] == [(0.9, 1.1), (1.0, 1.0)]
    assert one.episode.sources[0].weight == 2.0
    (tmp_path / "r.toml").write_text(one.to_toml())
    assert recipe.read(tmp_path / "r.toml") == one


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({**GOOD, "trian": {}}, r"trian: unknown key; did you mean 'train'"),
        ({**GOOD, "train": {"stepz": 5}}, r"train.stepz: unknown key; did you mean 'steps'"),
        ({**GOOD, "train": {"meta_batch": "four"}}, r"train.meta_batch: expected int, got 'four'"),
        ({**GOOD, "train": {"steps": True}}, r"train.steps: expected int, got True"),
        ({**GOOD, "train": {"steps": 2.0}}, r"train.steps: expected int, got 2.0"),
        ({**GOOD, "train": {"lr": float("nan")}}, r"train.lr: expected a finite number, got nan"),
        ({**GOOD, "train": {"schedule": "steps"}}, r"train.schedule: expected one of 'constant', 'halve', 'cosine'"),
        ({**GOOD, "train": {"steps": 0}}, r"train.steps: expected 1 or more, got 0"),
        ({**GOOD, "train": 3}, r"train: expected a table, got 3"),
        ({**GOOD, "episode": {"ways": 0}}, r"episode.ways=0 is too small"),
        ({**GOOD, "evaluate": [{"ways": 5}, {"wayz": 5}]}, r"evaluate\[1\].wayz: unknown key"),
        ({**GOOD, "evaluate": {"ways": 5}}, r"evaluate: expected a list"),
        ({"episode": {}}, r"recipe: .*method"),
        ({**GOOD, "train": {"workers": -1}}, r"train.workers: expected 0 or more, got -1"),
        ({**GOOD, "episode": {"transform": {"flip": 1}}}, r"episode.transform.flip: expected bool, got 1"),
        (
            {**GOOD, "episode": {"transforms": [{}, {"fill": 300}]}},
            r"episode.transforms\[1\].fill: expected a whole number",
        ),
        ({**GOOD, "episode": {"transform": {"mean": [0.5], "dtype": "uint8"}}}, r"episode.transform.dtype: .*'float32'"),
        ({**GOOD, "episode": {"sources": [{"split": "train"}]}}, r"episode.sources\[0\]: .*store"),
        (
            {**GOOD, "episode": {"transform": {"mean": [0.5]}}},
            r"validate.transform: field 'image' is delivered as stored, in training Transform\(dtype='float32', mean=",
        ),
    ],
)
def test_what_is_wrong_is_named_by_its_path(table, words):
    with pytest.raises(ConfigError, match=words):
        from_table(recipe.Recipe, table)


def test_files_that_are_no_recipes_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read recipe .*nothing.toml: No such file"):
        recipe.find(str(tmp_path / "nothing.toml"))
    (tmp_path / "bad.toml").write_text("method = ")
    with pytest.raises(ConfigError, match=r"bad.toml is not TOML: Invalid value"):
        recipe.read(tmp_path / "bad.toml")
    with pytest.raises(ConfigError, match=r"unknown recipe 'protonet-omniglott'; did you mean 'protonet-omniglot"):
        recipe.find("protonet-omniglott")


def test_every_shipped_recipe_is_valid_and_named_as_its_file():
    shipped = sorted((Path(recipe.__file__).parents[1] / "learners" / "recipes").glob("*.toml"))
    assert len(shipped) >= 3
    for path in shipped:
        one = recipe.find(path.stem)
        assert one.name == path.stem
        assert one.about
        options = plugins.find(plugins.METHODS, one.method).Options
        from_table(options, one.learner)


def test_a_word_that_looks_like_a_number_need_not_be_quoted():
    assert from_table(snail.Options, {"first_dilation": 2}).first_dilation == "2"
    with pytest.raises(ConfigError, match="first_dilation: expected one of '1', '2', got '3'"):
        from_table(snail.Options, {"first_dilation": 3})


def test_options_round_trip_without_what_is_unset():
    options = protonet.Options(distance="cosine")
    assert from_table(protonet.Options, to_table(options)) == options
    assert "patience" not in to_table(replace(from_table(recipe.Recipe, GOOD)).train)


@pytest.mark.parametrize("kind", [plugins.READERS, plugins.SAMPLERS, plugins.METHODS])
def test_every_plugin_has_options_and_make(kind):
    assert plugins.names(kind)
    for name in plugins.names(kind):
        module = plugins.find(kind, name)
        assert callable(module.make)
        assert module.Options.__dataclass_params__.frozen
        assert module.__doc__


def test_unknown_plugins_list_the_near_names():
    with pytest.raises(PluginNotFound, match=r"unknown reader 'omniglt'; did you mean 'omniglot'\? known: folder, glyphs"):
        plugins.find(plugins.READERS, "omniglt")
    with pytest.raises(PluginNotFound, match="unknown sampler '_kernels'"):
        plugins.find(plugins.SAMPLERS, "_kernels")
