"""The paper's comparisons in small: a queue of trainings and evaluations, each of which ends in a result file.

A row whose result file is there is done; one that was interrupted goes on from its newest checkpoint. So the queue runs in
as many sittings, and on as many machines, as it needs. The validation split is read once for each row.
"""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

import torch
import yaml

from ..data.datasets import open_dataset
from ..files import replacing
from ..models import load_checkpoint
from ..nn.multi_scale import SUPPLEMENT_FACTORS, Ensemble
from .config import Config, ConfigError, as_dict, make_config, replaced
from .disparity import DisparityBins
from .evaluate import evaluate
from .provenance import commit, provenance
from .train import Trainer

TABLE = Path(__file__).with_suffix(".yaml")
DISPARITY_EDGES = (0, 2, 4, 8, 16, float("inf"))  # of rendered scenes: beyond 58 m, 29 m, 15 m, 7 m, and nearer


@dataclass(frozen=True)
class Derived:
    """Networks of trained rows, evaluated in another way."""

    members: Sequence[str]  # with a "+": of the next seed
    multi_scale: bool = False
    dtype: str = "float32"  # of torch


@dataclass(frozen=True)
class Table:
    """The rows, by name."""

    base: Dict[str, Any]
    trained: Dict[str, Dict[str, Any]]
    derived: Dict[str, Derived]

    def config(self, row: str, seed: int, data: str, imagenet: str) -> Config:
        """A trained row's configuration.

        Raises:
            ConfigError: a field that does not exist.
        """
        fields = dict(self.base, **self.trained[row], **{"run.seed": seed})
        places = {"{data}": data, "{imagenet}": imagenet}
        fields = {k: places.get(v, v) if isinstance(v, str) else v for k, v in fields.items()}
        return make_config(replaced({}, [f"{k}={json.dumps(v)}" for k, v in fields.items()]), f"row {row}")


def read_table(path: Path = TABLE) -> Table:
    values = yaml.safe_load(path.read_text())
    derived = {name: Derived(**fields) for name, fields in values["derived"].items()}
    return Table(values["base"], values["trained"], derived)


class Queue:
    """Rows × seeds.

    Args:
        table: the rows.
        data, imagenet: CamVid's folder, and MobileNetV2's ImageNet weights.
        work: a folder for runs; it grows, and may be deleted when all is done.
        results: a folder for `ROW-SEED.json`.
        say: takes lines for the user.
        done: called with each result file, e.g. to commit it.
    """

    def __init__(
        self,
        table: Table,
        data: str,
        imagenet: str,
        work: Path,
        results: Path,
        say: Callable[[str], None] = print,
        done: Optional[Callable[[Path], None]] = None,
    ) -> None:
        self.table, self.data, self.imagenet = table, data, imagenet
        self.work, self.results, self.say, self.done = work, results, say, done
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.commit = commit()  # of the code that runs, whatever is checked out hours later

    def run(self, rows: Sequence[str], seeds: Sequence[int]) -> None:
        """What is not done yet: all rows of one seed, then of the next; evaluations as soon as their networks are there.

        Raises:
            ConfigError: a row that is not in the table.
        """
        unknown = [row for row in rows if row not in self.table.trained and row not in self.table.derived]
        if unknown:
            known = ", ".join([*self.table.trained, *self.table.derived])
            raise ConfigError(f"rows: no row {', '.join(unknown)}; there are {known}")
        for seed in seeds:
            for row in rows:
                if row in self.table.trained and not self._result(row, seed).exists():
                    self._train(row, seed)
                self._derive(rows, seeds)

    def missing(self, rows: Sequence[str], seeds: Sequence[int]) -> List[str]:
        return [f"{row}-{seed}" for seed in seeds for row in rows if not self._result(row, seed).exists()]

    def _result(self, row: str, seed: int) -> Path:
        return self.results / f"{row}-{seed}.json"

    def _weights(self, row: str, seed: int) -> Path:
        return self.work / f"{row}-{seed}" / "weights.safetensors"

    def _train(self, row: str, seed: int) -> None:
        config = self.table.config(row, seed, self.data, self.imagenet)
        self.say(f"row {row}, seed {seed}")
        trainer = Trainer(config, self.work / f"{row}-{seed}", self.say)
        trainer.run(resume=True)
        figures = self._evaluate(load_checkpoint(str(self._weights(row, seed))), config.data.kind)
        figures["history"] = trainer.history
        figures["config"] = as_dict(trainer.config)
        for section, name in (("data", "root"), ("model", "imagenet")):  # this machine's, nobody else's
            if figures["config"][section][name]:
                figures["config"][section][name] = Path(figures["config"][section][name]).name
        self._write(row, seed, figures)

    def _derive(self, rows: Sequence[str], seeds: Sequence[int]) -> None:
        """Every evaluation whose networks are trained and that is not done."""
        for row in rows:
            for seed in seeds if row in self.table.derived else ():
                derived = self.table.derived[row]
                following = seeds[(seeds.index(seed) + 1) % len(seeds)]
                members = [
                    self._weights(m.rstrip("+"), following if m.endswith("+") else seed) for m in derived.members
                ]
                distinct = len(set(members)) == len(members)
                if self._result(row, seed).exists() or not distinct or not all(m.exists() for m in members):
                    continue
                self.say(f"row {row}, seed {seed}")
                models = [load_checkpoint(str(m)).to(getattr(torch, derived.dtype)) for m in members]
                factors = SUPPLEMENT_FACTORS if derived.multi_scale else (1.0,)
                single = len(models) == 1 and not derived.multi_scale
                figures = self._evaluate(models[0] if single else Ensemble(models, factors).eval(), "camvid")
                figures["members"] = [m.parent.name for m in members]
                figures["dtype"], figures["factors"] = derived.dtype, list(factors)
                self._write(row, seed, figures)

    def _evaluate(self, model: Any, kind: str) -> Dict[str, Any]:
        """The row's one look at the validation split."""
        synthetic = kind == "synthetic"
        data = open_dataset(kind, self.data, "val", disparity=synthetic)
        bins = DisparityBins(data, DISPARITY_EDGES) if synthetic else None
        matrix = evaluate(model.to(self.device), data, also=[] if bins is None else [bins.update])
        names, iou = [c.name for c in data.classes], 100 * matrix.iou()
        figures: Dict[str, Any] = {
            "mIoU": 100 * matrix.mean_iou(),
            "IoU": {n: None if i in matrix.absent() else float(iou[i]) for i, n in enumerate(names)},
            "pictures": len(data),
            "confusion": matrix.counts.tolist(),
        }
        if bins is not None:
            figures["disparity"] = bins.records(names)
        return figures

    def _write(self, row: str, seed: int, figures: Dict[str, Any]) -> None:
        path = self._result(row, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        record = {
            "row": row,
            "seed": seed,
            **provenance(f"swiftnet experiments --rows {row} --seeds {seed}", self.device),
            "commit": self.commit,
            **figures,
        }
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n")
        self.say(f"row {row}, seed {seed}: mIoU {figures['mIoU']:.2f}; {path}")
        if self.done is not None:
            self.done(path)


def commit_result(path: Path) -> None:
    """Commits one file in the checkout that it lies in.

    Raises:
        OSError: git refuses.
    """
    message = f"Result of the experiment {path.stem}"
    for arguments in (("add", "--", path.name), ("commit", "-q", "-m", message, "--", path.name)):
        outcome = subprocess.run(["git", *arguments], cwd=path.parent, capture_output=True, text=True)
        if outcome.returncode != 0:
            raise OSError(f"git {arguments[0]}: {(outcome.stderr or outcome.stdout).strip()}; {path} is written")
