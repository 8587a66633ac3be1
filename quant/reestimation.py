"""Re-estimating BatchNorm's running statistics after quantization.

The old values are discarded; the new ones are mean and variance of everything that the BatchNorm
gets over the calibration set, pooled over the positions of all images: they do not depend on how
images are batched. What a BatchNorm gets depends on those before it, so passes over the images are
repeated until nothing changes; the first one settles the first BatchNorm, the second the next.
Source: SAPTQ, arXiv 2509.05576, and OBC's code, which average the statistics of batches instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from quant.moments import Moments, moments
from quant.statistics import BatchNorm, overwrite

SETTLED = 1e-3  # of a channel's deviation: statistics that change by less in a pass are final
PASSES = 12


@dataclass(eq=False)
class Pooled:
    """Moments of all inputs of each BatchNorm so far, by name; different batches can be summed."""

    inputs: dict[str, Moments] = field(default_factory=dict)

    def add(self, name: str, batch: Moments) -> None:
        """Add what one BatchNorm got in one run."""
        self.inputs[name] = self.inputs[name] + batch if name in self.inputs else batch

    def __add__(self, other: Pooled) -> Pooled:
        total = Pooled(dict(self.inputs))
        for name, batch in other.inputs.items():
            total.add(name, batch)
        return total

    @torch.no_grad()
    def write_to(self, module: nn.Module) -> float:
        """Overwrite the running statistics of the norms in `module`.

        Returns:
            The largest change of a norm: root mean square over its channels of the change of the
            mean and of the deviation, in units of the new deviation.
        """
        changes = [0.0]
        for name, seen in self.inputs.items():
            norm = module.get_submodule(name)
            assert isinstance(norm, BatchNorm)
            assert norm.running_mean is not None and norm.running_var is not None
            var = seen.var * (seen.n / max(seen.n - 1, 1))  # unbiased, as torch estimates it
            deviation = (var + norm.eps).sqrt().to(norm.running_mean.device)
            before = (norm.running_var.double() + norm.eps).sqrt()
            moved = (norm.running_mean.double() - seen.mean.to(deviation.device)) / deviation
            scaled = before / deviation - 1
            changes.append(float(torch.maximum(moved.abs(), scaled.abs()).square().mean().sqrt()))
            overwrite(norm, {"running_mean": seen.mean, "running_var": var})
        return max(changes)


@contextmanager
def observing(module: nn.Module) -> Iterator[Pooled]:
    """While active, pools what every BatchNorm of `module` gets; nothing else changes.

    Raises:
        ValueError: no BatchNorm in `module` tracks running statistics.
    """
    named = dict(module.named_modules())
    norms = {n: m for n, m in named.items() if isinstance(m, BatchNorm) and m.track_running_stats}
    if not norms:
        raise ValueError("batchnorm=reestimate needs a BatchNorm; use batchnorm=match or none")
    seen = Pooled()

    def record(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda norm, args: seen.add(name, moments(args[0], 1))

    handles = [norm.register_forward_pre_hook(record(name)) for name, norm in norms.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def running_statistics(module: nn.Module) -> dict[str, Tensor]:
    """Running mean and variance of every BatchNorm, by state-dict name."""
    return {
        f"{name}.{key}": getattr(m, key).detach().clone()
        for name, m in module.named_modules()
        if isinstance(m, BatchNorm) and m.track_running_stats
        for key in ("running_mean", "running_var")
    }
