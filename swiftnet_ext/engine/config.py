"""What a training run is told: dataclasses, read from YAML or TOML, every field replaceable by `section.field=value`.

The defaults are the recipe of the paper's authors for Cityscapes (PAPER: Adam, cosine decay, ImageNet weights at a quarter
of the rate, crops of 768); docs/training.md says where they differ. A configuration only says what to
do; nothing is opened, made or allocated by reading it.
"""

import dataclasses
import sys
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Dict, Iterable, List, Literal, Optional, Tuple

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

CONFIGS = Path(__file__).resolve().parent.parent / "configs"

_strict = ConfigDict(extra="forbid", allow_inf_nan=False)
Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
NotNegative = Annotated[float, Field(ge=0)]


class ConfigError(ValueError):
    """A configuration that can't be used; the message names the file or field, and says what is expected."""


@dataclass(config=_strict)
class ModelConfig:
    """The network and the weights it starts from."""

    name: str = "swiftnet_rn18"  # of build_model
    options: Dict[str, Any] = field(default_factory=dict)  # of build_model
    imagenet: Optional[str] = None  # torchvision's weights of the encoder
    imagenet_parts: Annotated[int, Field(ge=0, le=5)] = 5  # of stem, RB1 … RB4
    weights: Optional[str] = None  # a checkpoint of the same network, instead of ImageNet's


@dataclass(config=_strict)
class DataConfig:
    """The data set, and how samples are cut from it."""

    root: str = "."
    kind: str = "auto"  # of open_dataset
    classes: Optional[List[str]] = None  # of kind folder: names, label 0 first; CamVid's if left out
    split: str = "train"
    validation: Optional[str] = None  # another split to validate on
    hold_out: BelowOne = 0.0  # or this share of each sequence's frames, not trained on
    scenes: Annotated[int, Field(ge=0)] = 0  # rendered scenes added to the training split (CamVid's classes)
    crop: Positive = 768
    scale: Tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.5, 2.0)
    flip: Share = 0.5
    colour: BelowOne = 0.0
    cache: bool = False  # keep decoded pictures in memory
    workers: Annotated[int, Field(ge=0)] = 4  # processes that cut samples, for each training process


@dataclass(config=_strict)
class LossConfig:
    kind: Literal["cross_entropy", "boundary_focal"] = "cross_entropy"
    bins: Tuple[float, float, float] = (16, 64, 128)  # of boundary_focal, in pixels
    class_balance: Share = 0.0  # power of the classes' median frequency over theirs


@dataclass(config=_strict)
class OptimizerConfig:
    """Adam; a cosine leads the learning rate from `lr` to `last_lr`."""

    lr: Annotated[float, Field(gt=0)] = 4e-4
    last_lr: NotNegative = 1e-6
    decay: Literal["epoch", "step"] = "epoch"  # when the rate changes
    betas: Tuple[BelowOne, BelowOne] = (0.9, 0.99)
    weight_decay: NotNegative = 1e-4
    pretrained_divisor: Annotated[float, Field(ge=1)] = 4.0  # of both, for ImageNet's parameters


@dataclass(config=_strict)
class RunConfig:
    """How long, where, and what is written when."""

    epochs: Positive = 250
    batch: Positive = 14  # crops at a time in one process
    accumulate: Positive = 1  # batches to an optimizer step
    seed: Annotated[int, Field(ge=0)] = 0
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    devices: Positive = 1  # processes on each machine
    machines: Positive = 1
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    channels_last: bool = True
    sync_batch_norm: bool = False  # statistics over all GPUs
    validate_every: Positive = 1  # epochs
    checkpoint_minutes: NotNegative = 10.0  # between checkpoints within an epoch; 0: after every step


@dataclass(config=_strict)
class Config:
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    run: RunConfig = field(default_factory=RunConfig)


def _first_problems(error: ValidationError) -> str:
    shown = []
    for problem in error.errors()[:5]:
        where = ".".join(str(part) for part in problem["loc"]) or "the configuration"
        shown.append(f"{where}: {problem['msg'][0].lower()}{problem['msg'][1:]}, got {problem['input']!r}")
    return "; ".join(shown)


def make_config(values: Dict[str, Any], source: str = "configuration") -> Config:
    """A Config of nested dictionaries; what they leave out keeps its default.

    Raises:
        ConfigError: a field that does not exist, or a value that it does not take.
    """
    try:
        config = TypeAdapter(Config).validate_python(values)
    except ValidationError as error:
        raise ConfigError(f"{source}: {_first_problems(error)}; docs/training.md lists the fields")
    if config.data.scale[0] > config.data.scale[1]:
        raise ConfigError(f"{source}: data.scale: expected the smaller factor first, got {list(config.data.scale)}")
    if list(config.loss.bins) != sorted(config.loss.bins):
        raise ConfigError(f"{source}: loss.bins: expected the smallest distance first, got {list(config.loss.bins)}")
    if config.data.validation is not None and config.data.hold_out > 0:
        raise ConfigError(f"{source}: data.validation and data.hold_out both name what to validate on; choose one")
    if config.model.weights is not None and config.model.imagenet is not None:
        raise ConfigError(f"{source}: model.weights and model.imagenet both name weights to start from; choose one")
    return config


def _parsed(path: Path) -> Any:
    if path.suffix == ".toml":
        if sys.version_info < (3, 11):
            raise ConfigError(f"{path}: TOML is read by Python 3.11 or later; write YAML")
        import tomllib

        return tomllib.loads(path.read_text())
    return yaml.safe_load(path.read_text())


def _contents(name: str) -> Tuple[Any, Path]:
    path = Path(name)
    if not path.suffix and not path.is_file():
        path = CONFIGS / f"{name}.yaml"
    if not path.is_file():
        shipped = ", ".join(sorted(p.stem for p in CONFIGS.glob("*.yaml")))
        raise ConfigError(f"{name}: no such file; pass a .yaml or .toml file, or one of {shipped}")
    if path.suffix not in (".yaml", ".yml", ".toml"):
        raise ConfigError(f"{path}: expected a .yaml or .toml file")
    try:
        return _parsed(path), path
    except (yaml.YAMLError, ValueError) as error:  # tomllib's error is a ValueError
        raise ConfigError(f"{path}: {str(error).splitlines()[0]}")


def replaced(values: Dict[str, Any], overrides: Iterable[str]) -> Dict[str, Any]:
    """Nested dictionaries with `section.field=value` put in; values are YAML.

    Raises:
        ConfigError: something that is not of this form.
    """
    result = {section: dict(fields) if isinstance(fields, dict) else fields for section, fields in values.items()}
    for override in overrides:
        key, equals, text = override.partition("=")
        section, dot, name = key.partition(".")
        if not (equals and dot and name):
            raise ConfigError(f"{override}: expected section.field=value, e.g. run.epochs=10")
        fields = result.setdefault(section, {})
        *parents, last = name.split(".")  # model.options.blend
        for parent in parents:
            fields = fields.setdefault(parent, {}) if isinstance(fields, dict) else None
        if not isinstance(fields, dict):
            raise ConfigError(f"{override}: {key} is no field")
        try:
            fields[last] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"{override}: {str(error).splitlines()[0]}")
    return result


def read_config(name: str, overrides: Iterable[str] = ()) -> Config:
    """A configuration file with overrides.

    Args:
        name: a .yaml or .toml file, or the name of one that comes with the package: camvid, cityscapes, synthetic.
        overrides: `section.field=value`, e.g. "optimizer.lr=1e-4", "model.options.blend=grouped".

    Raises:
        ConfigError: no such file, damaged, or make_config's.
    """
    values, path = _contents(name)
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected sections with fields, e.g. run: {{epochs: 10}}")
    return make_config(replaced(values, overrides), str(path))


def as_dict(config: Config) -> Dict[str, Any]:
    """Nested dictionaries of plain values, for YAML and JSON."""
    values: Dict[str, Any] = TypeAdapter(Config).dump_python(config, mode="json")
    return values


def differences(a: Config, b: Config) -> List[str]:
    """The fields in which two configurations differ, as section.field."""
    left, right = dataclasses.asdict(a), dataclasses.asdict(b)
    return [f"{s}.{f}" for s, fields in left.items() for f in fields if fields[f] != right[s][f]]
