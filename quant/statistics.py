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

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

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
            _set(norm, before.get(name, {}))  # a norm may run more than once
            move = self._note(name, norm, given[name][runs[name]].beside(x), _moments(norm, x))
            runs[name] += 1
            state = _corrected(self.reference.get_submodule(name), move)
            before[name] = {key: getattr(norm, key).clone() for key in state}
            _set(norm, state)

        for name, found in given.items():
            if len(found) > 1 and isinstance(self.reference.get_submodule(name), nn.LayerNorm):
                self.found.several.add(name)
        try:
            with _before_each_norm(self.quantized, correct):
                self.quantized(images)
        finally:
            for name, state in before.items():
                _set(self.quantized.get_submodule(name), state)

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
            _set(self.quantized.get_submodule(name), state)
            changed.update({f"{name}.{key}": value for key, value in state.items()})
        return changed


@dataclass(eq=False)
class Averages:
    """Sums of what BatchNorms saw in each of their runs, by name, in float64 on the CPU."""

    sums: dict[str, Tensor] = field(default_factory=dict)  # [2, channels]: mean, variance
    runs: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, found: Tensor, runs: int = 1) -> None:
        """Add the sum over so many runs of one norm."""
        self.sums[name] = self.sums[name] + found if name in self.sums else found
        self.runs[name] += runs

    def __add__(self, other: Averages) -> Averages:
        total = Averages(dict(self.sums), Counter(self.runs))
        for name, found in other.sums.items():
            total.add(name, found, other.runs[name])
        return total

    @torch.no_grad()
    def put(self, module: nn.Module) -> None:
        """Make the averages the running statistics of the norms in `module`."""
        for name, found in self.sums.items():
            norm = module.get_submodule(name)
            mean, var = found / self.runs[name]
            _set(norm, {"running_mean": mean, "running_var": var})


@contextmanager
def reestimating(module: nn.Module) -> Iterator[Averages]:
    """While active, BatchNorms forget their running statistics and average those of all batches.

    Gives the sums that the averages at the end are made of, so that others may be added to them.
    """
    named = dict(module.named_modules())
    norms = {n: m for n, m in named.items() if isinstance(m, BatchNorm) and m.track_running_stats}
    if not norms:
        raise ValueError("batchnorm=reestimate needs a BatchNorm; use batchnorm=match or none")
    seen = Averages()

    def note(name: str) -> Callable[..., None]:
        def hook(norm: BatchNorm, *args: object) -> None:
            assert norm.running_mean is not None and norm.running_var is not None  # see above
            seen.add(name, torch.stack([norm.running_mean, norm.running_var]).double().cpu())

        return hook

    momenta = [norm.momentum for norm in norms.values()]
    handles = [norm.register_forward_hook(note(name)) for name, norm in norms.items()]
    for norm in norms.values():
        norm.reset_running_stats()
        norm.momentum = 1.0  # those of its last run alone
        norm.train()
    try:
        yield seen
        seen.put(module)
    finally:
        for handle in handles:
            handle.remove()
        for norm, momentum in zip(norms.values(), momenta, strict=True):
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
