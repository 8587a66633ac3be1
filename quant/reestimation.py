"""Estimating BatchNorm's running statistics anew after quantization.

What they were is forgotten; they become the cumulative average over the calibration set through the
quantized network. Source: SAPTQ, arXiv 2509.05576; OBC's code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from quant.statistics import BatchNorm, put


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
            put(norm, {"running_mean": mean, "running_var": var})


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
