"""Training: a loop on Lightning Fabric, which brings precision, devices and processes; the loop, the data's order and the
checkpoints are here, so that a run goes on after any step, bit for bit.

A run's folder holds config.yaml, samples.png (what the network sees), metrics.csv and curves.png, TensorBoard's events,
checkpoints/, and at last weights.safetensors, and best.safetensors where there was a validation.
"""

import csv
import math
import os
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, cast

import torch
import yaml
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from ..data.images import write_image
from ..data.labelled import LabelledImages
from ..data.transforms import Augmentation
from ..files import replacing, sweep
from ..models import build_model, load_checkpoint, load_imagenet_encoder, save_checkpoint
from ..models.swiftnet import SwiftNet
from .charts import learning_curves
from .config import Config, ConfigError, as_dict, differences, make_config
from .confusion import ConfusionMatrix
from .losses import boundary_focal, boundary_weights, class_weights, cross_entropy
from .on_cpu import reuse_memory, strided_depthwise_in_fp32, with_precision_here
from .run_folder import CHECKPOINTS, RunError, alone_in, start_of
from .samples import SHOWN, Batches, Samples, contact_sheet, load
from .stop import Interrupted, Stop
from .training_data import TrainingData, open_training_data
from .training_state import (
    random_states,
    read_state,
    restore_random_states,
    seed_all,
    set_aside,
    write_state,
)

FREE_TO_CHANGE = (  # on resuming: they don't change what is computed on one CPU process
    "data.root",
    "data.cache",
    "data.workers",
    "run.accelerator",
    "run.checkpoint_minutes",
)
Record = Dict[str, Any]


@dataclass
class Progress:
    """Where a run stands."""

    epoch: int = 0
    step: int = 0  # of the epoch
    loss: float = 0.0  # summed over the epoch's steps so far
    best: float = -1.0  # validation mIoU, percent

    def steps(self, of_epoch: int) -> int:
        """Since the run's beginning."""
        return self.epoch * of_epoch + self.step

    def learning_rate(self, config: Config, steps: int) -> float:
        """The cosine from `lr` at the start to `last_lr` at the end of the run."""
        done = self.epoch + (self.step / steps if config.optimizer.decay == "step" else 0)
        share = 0.5 * (1 + math.cos(math.pi * done / config.run.epochs))
        return config.optimizer.last_lr + (config.optimizer.lr - config.optimizer.last_lr) * share


def make_model(config: Config, num_classes: int, classes: List[str]) -> SwiftNet:
    """The network with the weights it starts from; random ones depend on run.seed alone.

    Raises:
        ConfigError: the weights are another network's. CheckpointError, OSError: they can't be loaded.
    """
    seed_all(config.run.seed)
    try:
        model = build_model(config.model.name, num_classes, **config.model.options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model: {error}")
    if config.model.imagenet is not None:
        load_imagenet_encoder(model, config.model.imagenet, config.model.imagenet_parts)
    if config.model.weights is not None:
        loaded = load_checkpoint(config.model.weights)
        if (loaded.name, loaded.options, loaded.num_classes) != (model.name, model.options, num_classes):
            raise ConfigError(f"model.weights: {loaded.loaded_from} is {loaded!r}, expected {model!r}")
        model.load_state_dict(loaded.state_dict())
    model.classes = classes
    return model


def parameter_groups(model: SwiftNet, config: Config) -> List[Dict[str, Any]]:
    """Parameters with ImageNet's weights (their rate and decay are divided), and the rest."""
    parts = model.backbone.parts
    taken = len(parts) if config.model.weights is not None else config.model.imagenet_parts
    if config.model.weights is None and config.model.imagenet is None:
        taken = 0
    prefixes = tuple("backbone." + prefix for part in parts[:taken] for prefix in part)
    pretrained = [p for name, p in model.named_parameters() if prefixes and name.startswith(prefixes)]
    known = {id(p) for p in pretrained}
    fresh = [p for p in model.parameters() if id(p) not in known]
    decay, divisor = config.optimizer.weight_decay, config.optimizer.pretrained_divisor
    groups = [
        {"params": fresh, "weight_decay": decay, "divisor": 1.0},
        {"params": pretrained, "weight_decay": decay / divisor, "divisor": divisor},
    ]
    return [group for group in groups if group["params"]]


class Trainer:
    """One run.

    Args:
        config: what to do.
        out: the run's folder.
        say: takes lines for the user; only one process's.
        track: wraps an epoch's range of steps, e.g. to draw a bar; takes the range, its length and what it is.

    Raises:
        RunError: another number of processes was started than the configuration says.
    """

    def __init__(
        self,
        config: Config,
        out: Path,
        say: Callable[[str], None] = print,
        track: Optional[Callable[[Iterable[int], int, str], Iterable[int]]] = None,
    ) -> None:
        self.config, self.asked_for, self.out = with_precision_here(config), config, out
        run = self.config.run
        processes = run.devices * run.machines
        started = os.environ.get("WORLD_SIZE", str(processes))
        if started != str(processes):  # each would train alone, all in one folder
            raise RunError(
                f"run.devices={run.devices} times run.machines={run.machines} is {processes}, but WORLD_SIZE={started} "
                "processes were started; set them to torchrun's --nproc-per-node and --nnodes, or start without torchrun"
            )
        self.fabric = Fabric(
            accelerator=run.accelerator,
            devices=run.devices,
            num_nodes=run.machines,
            strategy="ddp" if processes > 1 else "auto",
            precision=run.precision,
        )
        self.fabric.launch()
        leads = self.fabric.is_global_zero
        self.say = say if leads else lambda line: None
        self.track = track if leads and track is not None else lambda steps, total, what: steps

    def _set_up(self) -> None:
        config, fabric, run = self.config, self.fabric, self.config.run
        self.data: TrainingData = open_training_data(config.data)
        self.model = make_model(config, self.data.train.num_classes, [c.name for c in self.data.train.classes])
        if fabric.device.type == "cpu":
            reuse_memory()
            if run.precision == "bf16-mixed":
                strided_depthwise_in_fp32(self.model)
        if run.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if run.sync_batch_norm:
            self.model = nn.SyncBatchNorm.convert_sync_batchnorm(self.model)
        optimizer = torch.optim.Adam(parameter_groups(self.model, config), config.optimizer.lr, config.optimizer.betas)
        self.module, self.optimizer = fabric.setup(self.model, optimizer)
        near_boundary = config.loss.kind == "boundary_focal"
        weights = (lambda labels: boundary_weights(labels, config.loss.bins)) if near_boundary else None
        augmentation = Augmentation(config.data.crop, config.data.scale, config.data.flip, config.data.colour)
        self.samples = Samples(self.data.train, augmentation, run.seed, weights)
        self.batches = Batches(
            len(self.samples), run.batch, run.accumulate, fabric.global_rank, fabric.world_size, run.seed
        )
        balance = class_weights(self.data.pixels, config.loss.class_balance)
        self.class_weights = fabric.to_device(torch.from_numpy(balance)) if config.loss.class_balance else None
        self.progress, self.history = Progress(), []  # type: Progress, List[Record]

    def run(self, resume: bool = False, resume_from: Optional[Path] = None) -> None:
        """Trains to the end.

        Args:
            resume: go on from the newest checkpoint in the run's folder, or begin where there is none.
            resume_from: go on from this one; later ones in the run's folder are set aside.

        Raises:
            RunError: the folder holds a run already, or one of another configuration, or another process trains there.
            StateError: a damaged checkpoint.
            Interrupted: Ctrl-C or SIGTERM; resume goes on. OSError: a file can't be written; checkpoints are whole.
        """
        with alone_in(self.out) if self.fabric.is_global_zero else nullcontext():
            self._run(resume, resume_from)

    def _run(self, resume: bool, resume_from: Optional[Path]) -> None:
        found = start_of(self.out, resume, resume_from)
        self._set_up()
        if found is not None:
            self._restore(found)
        begun = float(self.progress.steps(self.batches.steps))
        if self._any(self._over_processes(torch.tensor(begun, dtype=torch.float64), "mean") != begun):
            raise RunError(
                f"{self.out}: the processes go on from different steps; name a folder that all machines share"
            )
        if self.fabric.is_global_zero:
            self._begin_folder()
        self.fabric.barrier()
        with Stop() as stop:
            self._epochs(stop)
        self._finish()

    def _begin_folder(self) -> None:
        for folder in (self.out, self.out / CHECKPOINTS):
            sweep(folder)
        for path in set_aside(self.out / CHECKPOINTS, self.progress.steps(self.batches.steps)):
            self.say(f"later than where this goes on: {path}")
        with replacing(self.out / "config.yaml") as temporary:
            temporary.write_text(yaml.safe_dump(as_dict(self.config), sort_keys=False))
        write_image(self.out / "samples.png", contact_sheet(self.samples, self.data.train.classes))
        self.events = SummaryWriter(str(self.out / "tensorboard"), purge_step=len(self.history) + 1)
        for warning in self.data.warnings:
            self.say(f"warning: {warning}")
        if self.config != self.asked_for:
            asked, used = self.asked_for.run.precision, self.config.run.precision
            lacks = "a CPU has no float16" if used == "bf16-mixed" else "this CPU has no fast bfloat16 convolutions"
            self.say(f"run.precision={asked}: {lacks}; trains in {used}")
        held = len(self.data.validation) if self.data.validation is not None else 0
        self.say(f"{self.model!r}")
        self.say(
            f"{len(self.samples)} pictures to train on, {held} to validate on; {self.batches.steps} steps an epoch; "
            f"{self.out / 'samples.png'} shows {min(SHOWN, len(self.samples))} samples"
        )

    def _epochs(self, stop: Stop) -> None:
        run = self.config.run
        while self.progress.epoch < run.epochs:
            start = time.perf_counter()
            self.module.train()
            self._epoch(stop)
            record: Record = {
                "epoch": self.progress.epoch + 1,
                "loss": self.progress.loss / self.batches.steps,
                "lr": Progress(self.progress.epoch).learning_rate(self.config, self.batches.steps),
                "seconds": round(time.perf_counter() - start, 1),
            }
            last = self.progress.epoch + 1 == run.epochs
            if self.data.validation is not None and (last or (self.progress.epoch + 1) % run.validate_every == 0):
                self._save()  # at the epoch's last step: going on from there begins with the validation
                record["val_mIoU"] = self._validate(stop)
            self.history.append(record)
            self._keep_best(record)
            self.progress.epoch, self.progress.step, self.progress.loss = self.progress.epoch + 1, 0, 0.0
            if self.fabric.is_global_zero:
                self._log(record)
            self._save()

    def _epoch(self, stop: Stop) -> None:
        """The steps of an epoch from progress.step on."""
        config, fabric = self.config, self.fabric
        on_gpu = fabric.device.type == "cuda"
        batches = load(
            self.samples, self.batches, self.progress.epoch, self.progress.step, config.data.workers, pin=on_gpu
        )
        saved, last = time.monotonic(), self.batches.steps
        steps = range(self.progress.step, last)
        for _ in self.track(steps, len(steps), f"epoch {self.progress.epoch + 1}/{config.run.epochs}"):
            self.progress.loss += self._step(batches)
            self.progress.step += 1
            if not math.isfinite(self.progress.loss):
                raise RunError(
                    f"{self.out}: the loss is not finite in epoch {self.progress.epoch + 1}, step {self.progress.step}; "
                    "lower optimizer.lr, or use run.precision=32-true"
                )
            if self._any(stop.asked):
                self._save()
                raise Interrupted
            # each process has its own clock, and saving waits for all
            if self.progress.step < last and self._any(time.monotonic() - saved >= 60 * config.run.checkpoint_minutes):
                self._save()
                saved = time.monotonic()

    def _step(self, batches: Iterator[Dict[str, Tensor]]) -> float:
        """One step of the optimizer; its loss, the mean over all processes."""
        config, fabric = self.config, self.fabric
        rate = self.progress.learning_rate(config, self.batches.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate / group["divisor"]
        loss = torch.zeros((), device=fabric.device)
        for number in range(config.run.accumulate):
            batch = fabric.to_device(next(batches))
            with fabric.no_backward_sync(self.module, enabled=number + 1 < config.run.accumulate):
                part = self._loss(batch) / config.run.accumulate
                fabric.backward(part)
            loss += part.detach()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(self._over_processes(loss, "mean"))

    def _any(self, holds: Any) -> bool:
        """Whether it holds in any process."""
        if self.fabric.world_size == 1:
            return bool(holds)
        return bool(self._over_processes(torch.tensor(float(holds)), "sum"))

    def _over_processes(self, value: Tensor, reduction: str) -> Tensor:
        """The sum or mean over all processes, on the CPU."""
        reduced = self.fabric.all_reduce(self.fabric.to_device(value), reduce_op=reduction)
        return cast(Tensor, reduced).cpu()

    def _loss(self, batch: Dict[str, Tensor]) -> Tensor:
        images = batch["image"].float()
        if self.config.run.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        logits = self.module(images)
        if self.config.loss.kind == "cross_entropy":
            return cross_entropy(logits, batch["labels"], self.class_weights)
        return boundary_focal(logits, batch["labels"], batch["weights"], self.class_weights)

    def _validate(self, stop: Stop) -> float:
        """mIoU in percent, each process a share of the pictures. Interrupted: the state is on the disk before."""
        model, data = self.model.eval(), cast(LabelledImages, self.data.validation)
        matrix, rank = ConfusionMatrix(model.num_classes), self.fabric.global_rank
        if self.fabric.world_size > 1:  # batch norm's statistics are each process's own; the first's are saved
            for buffer in model.buffers():
                torch.distributed.broadcast(buffer, 0)
        for first in range(0, len(data), self.fabric.world_size):
            if self._any(stop.asked):
                raise Interrupted
            if first + rank < len(data):
                image, labels = data[first + rank]
                matrix.update(model.segment(image), labels)
        matrix.table = self._over_processes(torch.from_numpy(matrix.table), "sum").numpy()
        return 100 * matrix.mean_iou()

    def _keep_best(self, record: Record) -> None:
        if record.get("val_mIoU", -1.0) > self.progress.best:
            self.progress.best = record["val_mIoU"]
            if self.fabric.is_global_zero:
                save_checkpoint(self.model, str(self.out / "best.safetensors"))

    def _log(self, record: Record) -> None:
        columns = ["epoch", "loss", "lr", "seconds", "val_mIoU"]
        with replacing(self.out / "metrics.csv") as temporary, open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(self.history)
        learning_curves(self.history, self.out / "curves.png", self.out.name)
        for name in set(record) - {"epoch"}:
            self.events.add_scalar(name, record[name], record["epoch"])
        self.events.flush()
        validated = f", validation mIoU {record['val_mIoU']:.2f}" if "val_mIoU" in record else ""
        self.say(
            f"epoch {record['epoch']}/{self.config.run.epochs}: loss {record['loss']:.4f}{validated}, "
            f"{record['seconds']:.0f} s"
        )

    def _save(self) -> None:
        if self.fabric.is_global_zero:
            state = {
                "config": as_dict(self.config),
                "progress": vars(self.progress),
                "history": self.history,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.fabric.strategy.precision.state_dict(),  # of 16-mixed
                "random": random_states(),
                "processes": self.fabric.world_size,
            }
            write_state(self.out / CHECKPOINTS, self.progress.steps(self.batches.steps), state)
        self.fabric.barrier()

    def _restore(self, path: Path) -> None:
        state = read_state(path)
        stored = make_config(state["config"], str(path))
        changed = [f for f in differences(stored, self.config) if f not in FREE_TO_CHANGE]
        if changed:
            raise RunError(
                f"{path}: was written with another {', '.join(changed)}; use its configuration, or train anew"
            )
        if state["processes"] != self.fabric.world_size:
            raise RunError(f"{path}: was written by {state['processes']} processes, here are {self.fabric.world_size}")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.fabric.strategy.precision.load_state_dict(state["scaler"])
        self.progress, self.history = Progress(**state["progress"]), state["history"]
        restore_random_states(state["random"])
        self.say(f"going on from {path}")

    def _finish(self) -> None:
        if self.fabric.is_global_zero:
            save_checkpoint(self.model.eval(), str(self.out / "weights.safetensors"))
            self.events.close()
            self.say(f"trained: {self.out / 'weights.safetensors'}")
        self.fabric.barrier()
