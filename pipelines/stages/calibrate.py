"""Stage: run the float network on calibration images and accumulate every layer's Hessian."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from evaluation.images import ImageData
from pipelines.machine import clock
from pipelines.machine.checkpoint import Checkpoint
from pipelines.machine.machine import Machine
from pipelines.machine.ranks import Ranks
from pipelines.models.network import Network
from pipelines.store import fingerprint
from pipelines.store.artifacts import Artifact, Keyed
from quant.calls import Call, Calls
from quant.hessian import HessianSum, uncentred
from quant.layers import Layer, find
from quant.problem import dead_inputs

SAVE_EVERY = 120.0  # seconds between checkpoints of the unfinished sums


@dataclass(frozen=True)
class Calibrate:
    """Hessians of all layers on the inputs of the float network.

    Attributes:
        images: number of calibration images, drawn without replacement; None: all there are, up
            to `max_images` (see evaluation/split.py).
        max_images: limit on those.
        batch_size: images per batch.
        positions_per_image: random output positions per image that enter a layer's Hessian; null:
            all. Saves time where feature maps are large.
        seed: seed for the choice of positions.
        augmented_copies: shifted or mirrored copies of every image (evaluation/augmentation.py),
            used for Hessians and statistics too.
    """

    ON_ALL_RANKS: ClassVar[bool] = True

    images: int | None
    max_images: int
    batch_size: int
    positions_per_image: int | None
    seed: int
    augmented_copies: int = 0

    def __post_init__(self) -> None:
        for name in ("images", "max_images", "batch_size", "positions_per_image"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"calibrate.{name}={value} must be at least 1")
        if self.augmented_copies < 0:
            raise ValueError(
                f"calibrate.augmented_copies={self.augmented_copies} must be at least 0"
            )

    def fitted(self, images: int) -> Calibrate:
        """The same, on so many images: whether they were given or found makes no difference."""
        return replace(self, images=images, max_images=images)

    def run(
        self,
        network: Network,
        data: Keyed[ImageData],
        machine: Machine,
        *,
        scratch: Path,
    ) -> Artifact:
        """Tensors: by layer, the mean input [g, c] as "mean/<layer>", float64, and the Hessian
        [g, c, c] of the inputs without it as "centred/<layer>" (see `hessian_of`).

        Record: ids, layers, skipped parameters, positions, dead inputs.

        Raises:
            ValueError: there is no layer to quantize, or a Hessian is not finite.
        """
        images = data.value
        example, _ = next(iter(images.calibration_loader()))
        layers, skipped = find(network.module, example[:2])
        if not layers:
            raise ValueError(f"model {network.name} has no Linear or Conv2d weight to quantize")
        # no checkpoints with several processes: each one holds only a part of the sums
        checkpoint = None if machine.ranks.distributed else Checkpoint(scratch, "sums")
        collect = CollectHessians(network.module, layers, self, checkpoint)
        collect.resume()
        loader = images.fitting_loader(start=collect.images)
        if len(loader):
            machine.predict("calibrate", collect, loader)
        sums = {n: summed(total, layers[n], machine.ranks) for n, total in collect.sums.items()}
        means = {name: total.input_mean().cpu() for name, total in sums.items()}
        centred = {name: total.covariance().float().cpu() for name, total in sums.items()}
        hessians = {name: uncentred(C, means[name]) for name, C in centred.items()}
        for name, H in hessians.items():
            if not H.isfinite().all():
                raise ValueError(
                    f"layer {name}: the Hessian contains NaN or infinite values: an activation "
                    "overflowed. Check the images and the model checkpoint, or set "
                    "machine.precision=32-true"
                )
        dead = {name: int(dead_inputs(H).sum()) for name, H in hessians.items()}
        record = {
            "ids": list(images.calibration.ids),
            "layers": [asdict(layer) for layer in layers.values()],
            "skipped": [asdict(parameter) for parameter in skipped],
            "positions": {name: total.n for name, total in sums.items()},
            "dead_inputs": {name: count for name, count in dead.items() if count},
        }
        tensors = {f"centred/{n}": C for n, C in centred.items()}
        return Artifact({**tensors, **{f"mean/{n}": m for n, m in means.items()}}, record)


def hessian_of(calibration: Artifact, layer: str, centred: bool = False) -> Tensor:
    """The Hessian [g, c, c] of a calibrated layer's inputs; `centred`: without their mean."""
    C = calibration.tensors[f"centred/{layer}"]
    return C if centred else uncentred(C, calibration.tensors[f"mean/{layer}"])


def summed(part: HessianSum, layer: Layer, ranks: Ranks) -> HessianSum:
    """The sum over the batches of all processes; a process may have had none."""
    if not ranks.distributed:
        return part
    g, c = layer.groups, layer.columns
    nothing = torch.zeros(g, c, dtype=torch.float64)
    n = sum(ranks.gather(part.n))
    mean, other = (
        ranks.sum(own * part.n if part.n else nothing) / max(n, 1)
        for own in ((part.input_mean(), part.other_mean()) if part.n else (nothing, nothing))
    )
    own = (
        part.around(mean, other)
        if part.n
        else HessianSum(torch.zeros(g, c, c, dtype=torch.float64), nothing, nothing)
    )
    total, inputs, others = (
        ranks.sum(x) for x in (own.total, own.inputs, own.others) if x is not None
    )
    return HessianSum(total, inputs, others, mean, other, n)


def layers_of(found: Artifact) -> dict[str, Layer]:
    """The layers that a calibration, or a check of the network, has found; in order of use."""
    rows = ({**row, "shape": tuple(row["shape"])} for row in found.record["layers"])
    return {row["name"]: Layer(**row) for row in rows}


def keyed_layers(layers: Mapping[str, Layer], calibration: Artifact) -> Keyed[Mapping[str, Layer]]:
    """Calibrated layers, all or some, as an input of a stage."""
    return Keyed(layers, f"{calibration.key} {fingerprint.content(dict(layers))}")


class CollectHessians(nn.Module):
    """Sums X X^T of every layer; saves the unfinished sums periodically."""

    def __init__(
        self,
        network: nn.Module,
        layers: dict[str, Layer],
        settings: Calibrate,
        checkpoint: Checkpoint | None,
    ) -> None:
        super().__init__()
        self.network = network
        self.layers = layers
        self.settings = settings
        self.checkpoint = checkpoint
        self.sums = {name: HessianSum() for name in layers}
        self.images = 0  # index of the next image
        self.start = 0
        self.rows: Counter[str] = Counter()  # rows of this batch that each layer has received
        self.saved = clock.seconds()

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """One batch through the float network."""
        weights = {x.name: self.network.get_parameter(x.weight) for x in self.layers.values()}
        self.rows.clear()
        self.images = self.start + batch_idx * self.settings.batch_size
        with Calls(weights, lambda name, _, call: self._receive(name, call, len(batch[0]))):
            self.network(batch[0])
        self.images += len(batch[0])
        if self.checkpoint is not None and clock.seconds() - self.saved > SAVE_EVERY:
            self.save()

    def _receive(self, name: str, call: Call | None, batch: int) -> None:
        if call is None:
            return
        count, first = (
            self.settings.positions_per_image,
            self.settings.seed + zlib.crc32(name.encode()),
        )
        first += self.images + self.rows[name] % batch  # a call may get a part of the batch only
        self.rows[name] += len(call.x)
        seeds = range(first, first + len(call.x))
        for X in call.pieces() if count is None else call.sampled(count, seeds):
            self.sums[name].add(X.float())

    def save(self) -> None:
        """Save sums and counts atomically."""
        state = {"/images": torch.tensor(self.images)}
        for name, s in self.sums.items():
            if s.total is not None and s.inputs is not None and s.shift is not None:
                state |= {name: s.total, f"{name}/x": s.inputs, f"{name}/n": torch.tensor(s.n)}
                state |= {f"{name}/shift": s.shift}
        assert self.checkpoint is not None
        self.checkpoint.save(state)
        self.saved = clock.seconds()

    def resume(self) -> None:
        """Resume from the sums that an interrupted run saved."""
        state = self.checkpoint.load() if self.checkpoint is not None else None
        if state is not None:
            self.images = self.start = int(state["/images"])
            self.sums = {name: _resumed(state, name) for name in self.layers}


def _resumed(state: Mapping[str, Tensor], name: str) -> HessianSum:
    if name not in state:
        return HessianSum()
    inputs, shift = state[f"{name}/x"], state[f"{name}/shift"]
    return HessianSum(state[name], inputs, inputs.clone(), shift, shift, int(state[f"{name}/n"]))
