"""Correction of normalisation statistics after quantization.

Only the shift caused by quantization is corrected. On the same images, with batch means m and
variances v at a BatchNorm's input in the float (f) and in the quantized network (q),

    mean = mean_f + average of (m_q - m_f),    var = var_f * exp(average of log(v_q / v_f))

where mean_f and var_f are the float network's running statistics, so calibration images that differ
slightly from the training images do no harm. Weights and affine parameters do not change. Layers
are corrected within each batch as it passes, so later layers see corrected inputs.

A LayerNorm has no running statistics. Instead, its affine parameters are changed so that mean and
standard deviation of each output channel match the float network's (OBC's "statistics correction").
One that runs several times per batch (once per sequence length, say) is matched on all its outputs
so far: a few positions give no useful standard deviation.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from quant.moments import Moments, moments

BatchNorm = nn.modules.batchnorm._BatchNorm


@dataclass(frozen=True, eq=False)
class Shift:
    """How quantization shifted the channel statistics of one normalisation; shifts can be summed.

    Attributes:
        mean_f: channel means in the float network.
        mean_q: channel means in the quantized network.
        log_ratio: log of the variance ratio quantized / float.
    """

    mean_f: Tensor
    mean_q: Tensor
    log_ratio: Tensor

    def __add__(self, other: Shift) -> Shift:
        return Shift(
            self.mean_f + other.mean_f,
            self.mean_q + other.mean_q,
            self.log_ratio + other.log_ratio,
        )

    def __truediv__(self, n: int) -> Shift:
        return Shift(self.mean_f / n, self.mean_q / n, self.log_ratio / n)

    def to_device_of(self, norm: nn.Module) -> Shift:
        """The same shift on the device of `norm`."""
        device = next(iter(norm.state_dict().values())).device
        return Shift(*(t.to(device) for t in (self.mean_f, self.mean_q, self.log_ratio)))


@dataclass(eq=False)
class Shifts:
    """How quantization shifted all normalisations, by name; different batches can be summed.

    Attributes:
        sums: shifts summed over all runs.
        runs: number of runs of each norm, over all batches.
        pooled: moments of all outputs of each LayerNorm, in the float and the quantized network.
        repeated: LayerNorms that ran more than once on a batch.
        batches: number of batches.
    """

    sums: dict[str, Shift] = field(default_factory=dict)
    runs: Counter[str] = field(default_factory=Counter)
    pooled: dict[str, tuple[Moments, Moments]] = field(default_factory=dict)
    repeated: set[str] = field(default_factory=set)
    batches: int = 0

    def add(
        self, name: str, shift: Shift, pooled: tuple[Moments, Moments] | None, runs: int = 1
    ) -> None:
        """Add the shift of one norm, summed over `runs` of its runs."""
        self.sums[name] = self.sums[name] + shift if name in self.sums else shift
        self.runs[name] += runs
        if pooled is not None:
            before = self.pooled.get(name)
            both = zip(before, pooled, strict=True) if before else None
            self.pooled[name] = tuple(a + b for a, b in both) if both else pooled  # type: ignore[assignment]

    def __add__(self, other: Shifts) -> Shifts:
        total = Shifts(dict(self.sums), Counter(self.runs), dict(self.pooled), set(self.repeated))
        for name, shift in other.sums.items():
            total.add(name, shift, other.pooled.get(name), other.runs[name])
        total.repeated |= other.repeated
        total.batches = self.batches + other.batches
        return total

    def mean(self, name: str) -> Shift:
        """The shift to undo in one norm."""
        if name in self.repeated:
            return _shift(*self.pooled[name])
        return self.sums[name] / self.runs[name]


NormMoments = Mapping[str, Sequence[Moments]]
"""{norm: moments of each of its runs on one batch}."""


@torch.no_grad()
def norm_moments(network: nn.Module, images: Tensor) -> dict[str, list[Moments]]:
    """Moments at every correctable normalisation on one batch, by name, one entry per run."""
    found: defaultdict[str, list[Moments]] = defaultdict(list)

    def record(name: str, norm: nn.Module, x: Tensor) -> None:
        if (moments_of_run := _moments(norm, x)) is not None:
            found[name].append(moments_of_run)

    with _before_each_norm(network, record):
        network(images)
    return dict(found)


class Matcher:
    """Measures over batches how quantization shifted the statistics, then corrects them.

    Attributes:
        shifts: sums so far. Batches are independent unless `shifts.repeated` names a norm.
    """

    def __init__(self, reference: nn.Module, quantized: nn.Module) -> None:
        """Take two networks of the same structure, in eval mode; `finish` changes `quantized`."""
        self.reference, self.quantized = reference, quantized
        self.shifts = Shifts()

    @torch.no_grad()
    def step(self, images: Tensor, reference: NormMoments | None = None) -> None:
        """Process one batch.

        Args:
            images: the batch.
            reference: `norm_moments` of the float network on it, if known; None runs that network.
        """
        self.shifts.batches += 1
        expected = norm_moments(self.reference, images) if reference is None else reference
        runs: Counter[str] = Counter()
        before: dict[str, dict[str, Tensor]] = {}

        def correct(name: str, norm: nn.Module, x: Tensor) -> None:
            """Record this batch's shift and undo it, so that later layers see corrected inputs."""
            overwrite(norm, before.get(name, {}))  # a norm may run more than once
            quantized = _moments(norm, x)
            if quantized is None:
                return
            float_moments = expected[name][runs[name]].to_device_of(x)
            shift = self._record(name, norm, float_moments, quantized)
            runs[name] += 1
            state = _corrected(self.reference.get_submodule(name), shift)
            before[name] = {key: getattr(norm, key).clone() for key in state}
            overwrite(norm, state)

        for name, by_run in expected.items():
            if len(by_run) > 1 and isinstance(self.reference.get_submodule(name), nn.LayerNorm):
                self.shifts.repeated.add(name)
        try:
            with _before_each_norm(self.quantized, correct):
                self.quantized(images)
        finally:
            for name, state in before.items():
                overwrite(self.quantized.get_submodule(name), state)

    def _record(self, name: str, norm: nn.Module, reference: Moments, quantized: Moments) -> Shift:
        """Add one run to the sums; return the shift to undo in this run."""
        shift = _shift(reference, quantized)
        pooled = (reference, quantized) if isinstance(norm, nn.LayerNorm) else None
        self.shifts.add(name, shift, pooled)
        return self.shifts.mean(name) if name in self.shifts.repeated else shift

    @torch.no_grad()
    def finish(self) -> dict[str, Tensor]:
        """Correct the quantized network; return the corrected tensors by state-dict name.

        Raises:
            ValueError: there are norms to correct, but no batch was processed.
        """
        if not self.shifts.batches and any(map(_correctable, self.quantized.modules())):
            raise ValueError("no calibration batch was seen: nothing to match statistics on")
        changed = {}
        for name in self.shifts.sums:
            norm = self.reference.get_submodule(name)
            state = _corrected(norm, self.shifts.mean(name).to_device_of(norm))
            overwrite(self.quantized.get_submodule(name), state)
            changed.update({f"{name}.{key}": value for key, value in state.items()})
        return changed


def _correctable(norm: nn.Module) -> bool:
    if isinstance(norm, BatchNorm):
        return norm.track_running_stats
    if not isinstance(norm, nn.LayerNorm):
        return False
    return isinstance(norm.bias, Tensor) and norm.bias.dim() == 1


@contextmanager
def _before_each_norm(
    model: nn.Module, act: Callable[[str, nn.Module, Tensor], None]
) -> Iterator[None]:
    """While active, call act(name, norm, input) right before each correctable norm runs."""

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


def _moments(norm: nn.Module, x: Tensor) -> Moments | None:
    """Moments of a BatchNorm's input, or of a LayerNorm's output; None: it has no channels."""
    if not isinstance(norm, nn.LayerNorm):
        return moments(x, 1)
    dim = channel_dim(norm, x)
    return None if dim is None else moments(norm.forward(x).movedim(dim, -1), -1)


@torch.no_grad()
def channel_dim(norm: nn.LayerNorm, x: Tensor) -> int | None:
    """The dimension of the output of norm(x) that weight and bias go along.

    Subclasses move dimensions in code of their own (ConvNeXt, SqueezeBERT), so it is tried out:
    with a weight of 0 the output is the bias. None: the output is something else.
    """
    affine = {"weight": norm.weight.clone(), "bias": norm.bias.clone()}
    probe = torch.arange(1, len(norm.bias) + 1).to(norm.bias)
    overwrite(norm, {"weight": torch.zeros_like(probe), "bias": probe})
    try:
        y = norm.forward(x)
    finally:
        overwrite(norm, affine)
    return next(
        (
            dim
            for dim in range(y.dim())
            if y.shape[dim] == len(probe) and bool((y.movedim(dim, -1) == probe.to(y)).all())
        ),
        None,
    )


def _shift(reference: Moments, quantized: Moments) -> Shift:
    var_f, var_q = reference.var, quantized.var
    tiny = torch.finfo(torch.float32).tiny  # a constant channel has no variance to match
    varies = (var_f > tiny) & (var_q > tiny)
    ratio = torch.where(varies, var_q / var_f, 1.0)
    return Shift(reference.mean, quantized.mean, ratio.log())


def _corrected(norm: nn.Module, shift: Shift) -> dict[str, Tensor]:
    """Tensors of the float network's `norm`, changed to undo `shift`."""
    if isinstance(norm, nn.LayerNorm):  # y' = (y - mean_q) std_f / std_q + mean_f
        a = (-shift.log_ratio / 2).exp()
        bias = (norm.bias.double() - shift.mean_q) * a + shift.mean_f
        return {"weight": (norm.weight * a).to(norm.weight), "bias": bias.to(norm.bias)}
    assert isinstance(norm, BatchNorm)  # see _correctable
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None and var is not None
    return {
        "running_mean": (mean + (shift.mean_q - shift.mean_f)).to(mean),
        "running_var": (var * shift.log_ratio.exp()).to(var),
    }


def overwrite(norm: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Overwrite the tensors of a normalisation named in `state`, in place."""
    for key, value in state.items():
        getattr(norm, key).copy_(value)
