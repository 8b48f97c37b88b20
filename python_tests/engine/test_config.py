"""Configurations of training."""

import json
import re
import sys
from pathlib import Path

import pytest
import yaml

from swiftnet_ext.engine.config import CONFIGS, Config, ConfigError, as_dict, differences, make_config, read_config


def test_the_defaults_are_the_authors_recipe():
    config = Config()
    assert config.model.name == "swiftnet_rn18"
    assert (config.optimizer.lr, config.optimizer.last_lr, config.optimizer.decay) == (4e-4, 1e-6, "epoch")
    assert (config.optimizer.betas, config.optimizer.weight_decay) == ((0.9, 0.99), 1e-4)
    assert (config.optimizer.pretrained_divisor, config.run.epochs, config.run.batch) == (4, 250, 14)
    assert (config.data.crop, config.data.scale, config.data.flip) == (768, (0.5, 2.0), 0.5)
    assert config.loss.kind == "cross_entropy" and config.loss.bins == (16, 64, 128)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configurations_are_valid(path):
    assert read_config(path.stem) == read_config(str(path))


def test_a_folder_of_a_shipped_name_hides_nothing(tmp_path, monkeypatch):
    expected = read_config("camvid")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "camvid").mkdir()
    assert read_config("camvid") == expected


def test_yaml_and_toml_and_overrides(tmp_path):
    a, b = tmp_path / "a.yaml", tmp_path / "b.toml"
    a.write_text("optimizer: {lr: 1e-3}\nrun: {epochs: 3}\nmodel: {options: {blend: grouped}}\n")
    b.write_text('[optimizer]\nlr = 1e-3\n[run]\nepochs = 3\n[model.options]\nblend = "grouped"\n')
    config = read_config(
        str(a), ["run.batch=2", "model.options.levels=2", "data.scale=[1, 1.5]", "model.imagenet=null"]
    )
    assert (config.optimizer.lr, config.run.epochs, config.run.batch) == (1e-3, 3, 2)
    assert config.model.options == {"blend": "grouped", "levels": 2} and config.data.scale == (1.0, 1.5)
    if sys.version_info >= (3, 11):
        assert read_config(str(b)) == read_config(str(a))
    else:
        with pytest.raises(ConfigError, match="write YAML"):
            read_config(str(b))


def test_written_and_read_again(tmp_path):
    config = make_config({"run": {"epochs": 3}, "model": {"options": {"levels": 2}}, "data": {"scale": [0.7, 1.3]}})
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(as_dict(config)))
    assert read_config(str(path)) == config
    assert differences(config, read_config(str(path), ["run.batch=3", "loss.class_balance=0.5"])) == [
        "loss.class_balance",
        "run.batch",
    ]


@pytest.mark.parametrize(
    "override, message",
    [
        ("run.epoch=3", "run.epoch: unexpected keyword argument"),
        ("runs.epochs=3", "runs: unexpected keyword argument"),
        ("run.epochs=0", "run.epochs: input should be greater than or equal to 1, got 0"),
        ("run.epochs=many", "run.epochs: input should be a valid integer.*got 'many'"),
        ("run.precision=fp8", "run.precision: input should be '32-true', 'bf16-mixed' or '16-mixed', got 'fp8'"),
        ("optimizer.lr=.nan", "optimizer.lr: .*finite"),
        ("data.scale=[2, 1]", r"data.scale: expected the smaller factor first, got \[2.0, 1.0\]"),
        ("data.scale=1", "data.scale"),
        ("epochs=3", "epochs=3: expected section.field=value"),
        ("run.epochs", "run.epochs: expected section.field=value"),
        ("run.epochs.x=3", "run.epochs: input should be a valid integer"),
        ("run.epochs=[", r"run.epochs=\[: "),
        ("optimizer.betas=[1, 0.9]", "optimizer.betas.0: input should be less than 1, got 1"),
        ("loss.bins=[64, 16, 128]", r"loss.bins: expected the smallest distance first, got \[64.0, 16.0, 128.0\]"),
        ("data.hold_out=1", "data.hold_out: input should be less than 1"),
    ],
)
def test_misuse_is_named(tmp_path, override, message):
    path = tmp_path / "c.yaml"
    path.write_text("run: {batch: 2}\n")
    with pytest.raises(ConfigError, match=message):
        read_config(str(path), [override])


def test_contradictions():
    with pytest.raises(ConfigError, match="data.validation and data.hold_out"):
        make_config({"data": {"validation": "val", "hold_out": 0.1}})
    with pytest.raises(ConfigError, match="model.weights and model.imagenet"):
        make_config({"model": {"weights": "a.safetensors", "imagenet": "b.safetensors"}})


def test_files_that_are_none(tmp_path):
    with pytest.raises(ConfigError, match="nothing: no such file; pass a .yaml or .toml file, or one of camvid"):
        read_config("nothing")
    for name, content, message in (
        ("a.yaml", "run: [", "a.yaml: while parsing"),
        ("b.yaml", "- 1", "expected sections with fields"),
        ("c.json", "{}", "expected a .yaml or .toml file"),
        ("d.yaml", "run: 3", "run: "),
        ("e.yaml", "run: !!python/object/apply:os.system ['touch /tmp/pwned']", "e.yaml: could not determine"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(ConfigError, match=message):
            read_config(str(tmp_path / name))


def test_the_documented_fields_are_the_fields():
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    written = re.findall(r"^\| `(\w+)\.(\w+)` \| `([^`]+)` \|", page, re.M)
    defaults = as_dict(Config())
    assert [(s, f, json.loads(v)) for s, f, v in written] == [
        (s, f, v) for s in defaults for f, v in defaults[s].items()
    ]
