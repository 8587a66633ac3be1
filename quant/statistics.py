"""Correcting normalisation statistics after quantization; weights and affine parameters stay.

- `reestimate` (SAPTQ, arXiv 2509.05576; OBC's code): forget BatchNorm's running statistics and take
  their cumulative average over the calibration set through the quantized network.
- `match`: correct only what quantization moved. On the same images, with batch means m and
  variances v before a BatchNorm in the float network (f) and in the quantized one (q),

      mean = mean_f + average of (m_q - m_f),    var = var_f * exp(average of log(v_q / v_f))

  with the float network's running statistics on the right, so calibration images that differ a
  little from the training images do no harm. Every layer is corrected batch by batch while the
  images pass, so later layers see corrected inputs.
  A LayerNorm has no statistics: there, mean and standard deviation of each output channel
  are matched to the float network's through its affine parameters (OBC's "statistics correction").
  One that runs several times on a batch (on rows of one length each, say) is matched on all its
  outputs so far together: a few positions alone say nothing of a deviation.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quant.moments import Moments, moments

BatchNorm = nn.modules.batchnorm._BatchNorm
MODES = ("match", "reestimate", "none")


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


class Matcher:
    """Collects over batches how far quantization moved the statistics, and moves them back."""

    def __init__(self, reference: nn.Module, quantized: nn.Module) -> None:
        """Two networks of one structure in eval mode; `finish` changes `quantized`."""
        self.reference, self.quantized = reference, quantized
        self.moves: dict[str, Move] = {}
        self.runs: Counter[str] = Counter()  # of each norm, over all batches
        self.pooled: dict[str, tuple[Moments, Moments]] = {}  # of each LayerNorm: float, quantized
        self.several: set[str] = set()  # LayerNorms that ran more than once on a batch

    @torch.no_grad()
    def step(self, images: Tensor) -> None:
        """Run one batch through both networks."""
        seen: defaultdict[str, deque[Moments]] = defaultdict(deque)
        before: dict[str, dict[str, Tensor]] = {}

        def note(name: str, norm: nn.Module, x: Tensor) -> None:
            seen[name].append(_moments(norm, x))
            if len(seen[name]) > 1 and isinstance(norm, nn.LayerNorm):
                self.several.add(name)

        def correct(name: str, norm: nn.Module, x: Tensor) -> None:
            """Note this batch's move; undo it, so that later layers see corrected inputs."""
            _set(norm, before.get(name, {}))  # a norm may run more than once
            move = self._note(name, norm, seen[name].popleft(), _moments(norm, x))
            state = _corrected(self.reference.get_submodule(name), move)
            before[name] = {key: getattr(norm, key).clone() for key in state}
            _set(norm, state)

        with _before_each_norm(self.reference, note):
            self.reference(images)
        try:
            with _before_each_norm(self.quantized, correct):
                self.quantized(images)
        finally:
            for name, state in before.items():
                _set(self.quantized.get_submodule(name), state)

    def _note(self, name: str, norm: nn.Module, reference: Moments, quantized: Moments) -> Move:
        """Add one run to the sums; what is to be undone at this run."""
        move = _move(reference, quantized)
        self.moves[name] = self.moves[name] + move if name in self.moves else move
        self.runs[name] += 1
        if isinstance(norm, nn.LayerNorm):
            if name in self.pooled:
                reference, quantized = (
                    self.pooled[name][0] + reference,
                    self.pooled[name][1] + quantized,
                )
            self.pooled[name] = reference, quantized
        return _move(*self.pooled[name]) if name in self.several else move

    @torch.no_grad()
    def finish(self) -> dict[str, Tensor]:
        """Correct the quantized network; return the corrected tensors by state-dict name."""
        if not self.runs and any(map(_correctable, self.quantized.modules())):
            raise ValueError("no calibration batch was seen: nothing to match statistics on")
        changed = {}
        for name, move in self.moves.items():
            move = _move(*self.pooled[name]) if name in self.several else move / self.runs[name]
            state = _corrected(self.reference.get_submodule(name), move)
            _set(self.quantized.get_submodule(name), state)
            changed.update({f"{name}.{key}": value for key, value in state.items()})
        return changed


@contextmanager
def reestimating(module: nn.Module) -> Iterator[None]:
    """While active, BatchNorms forget their running statistics and average those of all batches."""
    norms = [m for m in module.modules() if isinstance(m, BatchNorm) and m.track_running_stats]
    if not norms:
        raise ValueError("batchnorm=reestimate needs a BatchNorm; use batchnorm=match or none")
    momenta = [m.momentum for m in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the cumulative average
        norm.train()
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()


def running_statistics(module: nn.Module) -> dict[str, Tensor]:
    """Running mean and variance of every BatchNorm, by state-dict name."""
    return {
        f"{name}.{key}": getattr(m, key).detach().clone()
        for name, m in module.named_modules()
        if isinstance(m, BatchNorm) and m.track_running_stats
        for key in ("running_mean", "running_var")
    }


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


def _set(norm: nn.Module, state: dict[str, Tensor]) -> None:
    for key, value in state.items():
        getattr(norm, key).copy_(value)
