"""Correcting normalisation statistics after quantization; weights and affine parameters stay.

Only what quantization moved is corrected. On the same images, with batch means m and variances v
before a BatchNorm in the float network (f) and in the quantized one (q),

    mean = mean_f + average of (m_q - m_f),    var = var_f * exp(average of log(v_q / v_f))

with the float network's running statistics on the right, so calibration images that differ a little
from the training images do no harm. Every layer is corrected batch by batch while the images pass,
so later layers see corrected inputs.

A LayerNorm has no statistics: there, mean and standard deviation of each output channel are matched
to the float network's through its affine parameters (OBC's "statistics correction"). One that runs
several times on a batch (on rows of one length each, say) is matched on all its outputs so far
together: a few positions alone say nothing of a deviation.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quant.moments import Moments, moments

BatchNorm = nn.modules.batchnorm._BatchNorm


@dataclass(frozen=True, eq=False)
class Move:
    """What quantization did to the channels of one normalisation; sums over batches add up."""

    mean_f: Tensor
    mean_q: Tensor
    log_ratio: Tensor  # of the variances, quantized / float

    def __add__(self, other: Move) -> Move:
        return Move(
            self.mean_f + other.mean_f,
            self.mean_q + other.mean_q,
            self.log_ratio + other.log_ratio,
        )

    def __truediv__(self, n: int) -> Move:
        return Move(self.mean_f / n, self.mean_q / n, self.log_ratio / n)

    def beside(self, norm: nn.Module) -> Move:
        """The same, where the tensors of `norm` are."""
        place = next(iter(norm.state_dict().values())).device
        return Move(*(t.to(place) for t in (self.mean_f, self.mean_q, self.log_ratio)))


@dataclass(eq=False)
class Moves:
    """What quantization did to all normalisations, by name; those of different batches add up.

    Attributes:
        moves: sums over all runs.
        runs: of each norm, over all batches.
        pooled: of each LayerNorm: all outputs of the float network, and of the quantized one.
        several: LayerNorms that ran more than once on a batch.
    """

    moves: dict[str, Move] = field(default_factory=dict)
    runs: Counter[str] = field(default_factory=Counter)
    pooled: dict[str, tuple[Moments, Moments]] = field(default_factory=dict)
    several: set[str] = field(default_factory=set)

    def add(
        self, name: str, move: Move, pooled: tuple[Moments, Moments] | None, runs: int = 1
    ) -> None:
        """Add what so many runs of one norm gave."""
        self.moves[name] = self.moves[name] + move if name in self.moves else move
        self.runs[name] += runs
        if pooled is not None:
            before = self.pooled.get(name)
            both = zip(before, pooled, strict=True) if before else None
            self.pooled[name] = tuple(a + b for a, b in both) if both else pooled  # type: ignore[assignment]

    def __add__(self, other: Moves) -> Moves:
        total = Moves(dict(self.moves), Counter(self.runs), dict(self.pooled), set(self.several))
        for name, move in other.moves.items():
            total.add(name, move, other.pooled.get(name), other.runs[name])
        total.several |= other.several
        return total

    def mean(self, name: str) -> Move:
        """What is to be undone in one norm."""
        if name in self.several:
            return _move(*self.pooled[name])
        return self.moves[name] / self.runs[name]


Seen = Mapping[str, Sequence[Moments]]


@torch.no_grad()
def seen(network: nn.Module, images: Tensor) -> dict[str, list[Moments]]:
    """What every normalisation that can be corrected gets of one batch, run by run, by name."""
    found: defaultdict[str, list[Moments]] = defaultdict(list)

    def note(name: str, norm: nn.Module, x: Tensor) -> None:
        found[name].append(_moments(norm, x))

    with _before_each_norm(network, note):
        network(images)
    return dict(found)


class Matcher:
    """Collects over batches how far quantization moved the statistics, and moves them back.

    Attributes:
        found: so far. Batches do not depend on each other, unless `found.several` names a norm.
    """

    def __init__(self, reference: nn.Module, quantized: nn.Module) -> None:
        """Two networks of one structure in eval mode; `finish` changes `quantized`."""
        self.reference, self.quantized = reference, quantized
        self.found = Moves()

    @torch.no_grad()
    def step(self, images: Tensor, reference: Seen | None = None) -> None:
        """Take one batch in.

        Args:
            images: of the batch; they run through the quantized network, and the float one.
            reference: what `seen` gives for them, where it is known; then they do not.
        """
        given = seen(self.reference, images) if reference is None else reference
        runs: Counter[str] = Counter()
        before: dict[str, dict[str, Tensor]] = {}

        def correct(name: str, norm: nn.Module, x: Tensor) -> None:
            """Note this batch's move; undo it, so that later layers see corrected inputs."""
            put(norm, before.get(name, {}))  # a norm may run more than once
            move = self._note(name, norm, given[name][runs[name]].beside(x), _moments(norm, x))
            runs[name] += 1
            state = _corrected(self.reference.get_submodule(name), move)
            before[name] = {key: getattr(norm, key).clone() for key in state}
            put(norm, state)

        for name, found in given.items():
            if len(found) > 1 and isinstance(self.reference.get_submodule(name), nn.LayerNorm):
                self.found.several.add(name)
        try:
            with _before_each_norm(self.quantized, correct):
                self.quantized(images)
        finally:
            for name, state in before.items():
                put(self.quantized.get_submodule(name), state)

    def _note(self, name: str, norm: nn.Module, reference: Moments, quantized: Moments) -> Move:
        """Add one run to the sums; what is to be undone at this run."""
        move = _move(reference, quantized)
        pooled = (reference, quantized) if isinstance(norm, nn.LayerNorm) else None
        self.found.add(name, move, pooled)
        return self.found.mean(name) if name in self.found.several else move

    @torch.no_grad()
    def finish(self) -> dict[str, Tensor]:
        """Correct the quantized network; return the corrected tensors by state-dict name."""
        if not self.found.runs and any(map(_correctable, self.quantized.modules())):
            raise ValueError("no calibration batch was seen: nothing to match statistics on")
        changed = {}
        for name in self.found.moves:
            norm = self.reference.get_submodule(name)
            state = _corrected(norm, self.found.mean(name).beside(norm))
            put(self.quantized.get_submodule(name), state)
            changed.update({f"{name}.{key}": value for key, value in state.items()})
        return changed


def _correctable(norm: nn.Module) -> bool:
    if isinstance(norm, BatchNorm):
        return norm.track_running_stats
    plain = isinstance(norm, nn.LayerNorm) and "2d" not in type(norm).__name__
    return plain and isinstance(norm.bias, Tensor) and norm.bias.dim() == 1


@contextmanager
def _before_each_norm(
    model: nn.Module, act: Callable[[str, nn.Module, Tensor], None]
) -> Iterator[None]:
    """Call act(name, norm, input) right before every normalisation runs."""

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda norm, args: act(name, norm, args[0])

    handles = [
        norm.register_forward_pre_hook(hook(name))
        for name, norm in model.named_modules()
        if _correctable(norm)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _moments(norm: nn.Module, x: Tensor) -> Moments:
    """Of a BatchNorm's input; of a LayerNorm's output."""
    if isinstance(norm, nn.LayerNorm):
        y = F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        return moments(y, -1)
    return moments(x, 1)


def _move(reference: Moments, quantized: Moments) -> Move:
    var_f, var_q = reference.var, quantized.var
    tiny = torch.finfo(torch.float32).tiny  # a channel that is constant has nothing to match
    varies = (var_f > tiny) & (var_q > tiny)
    ratio = torch.where(varies, var_q / var_f, 1.0)
    return Move(reference.mean, quantized.mean, ratio.log())


def _corrected(norm: nn.Module, move: Move) -> dict[str, Tensor]:
    """The float network's tensors of `norm`, changed so that they undo `move`."""
    if isinstance(norm, nn.LayerNorm):  # y' = (y - mean_q) std_f / std_q + mean_f
        a = (-move.log_ratio / 2).exp()
        bias = (norm.bias.double() - move.mean_q) * a + move.mean_f
        return {"weight": (norm.weight * a).to(norm.weight), "bias": bias.to(norm.bias)}
    assert isinstance(norm, BatchNorm)  # see _correctable
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None and var is not None
    return {
        "running_mean": (mean + (move.mean_q - move.mean_f)).to(mean),
        "running_var": (var * move.log_ratio.exp()).to(var),
    }


def put(norm: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Overwrite these tensors of a normalisation, in place."""
    for key, value in state.items():
        getattr(norm, key).copy_(value)
