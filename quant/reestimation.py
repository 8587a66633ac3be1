"""Re-estimation of BatchNorm's running statistics after quantization.

The old statistics are replaced by the cumulative average over the calibration set, run through the
quantized network. Source: SAPTQ, arXiv 2509.05576; OBC's code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from quant.statistics import BatchNorm, overwrite


@dataclass(eq=False)
class Averages:
    """Batch statistics summed over the runs of each BatchNorm, by name, in float64 on the CPU."""

    sums: dict[str, Tensor] = field(default_factory=dict)  # [2, channels]: mean, variance
    runs: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, batch_sum: Tensor, runs: int = 1) -> None:
        """Add the statistics of one norm, summed over `runs` of its runs [2, channels]."""
        self.sums[name] = self.sums[name] + batch_sum if name in self.sums else batch_sum
        self.runs[name] += runs

    def __add__(self, other: Averages) -> Averages:
        total = Averages(dict(self.sums), Counter(self.runs))
        for name, batch_sum in other.sums.items():
            total.add(name, batch_sum, other.runs[name])
        return total

    @torch.no_grad()
    def write_to(self, module: nn.Module) -> None:
        """Overwrite the running statistics of the norms in `module` with the averages."""
        for name, total in self.sums.items():
            norm = module.get_submodule(name)
            mean, var = total / self.runs[name]
            overwrite(norm, {"running_mean": mean, "running_var": var})


@contextmanager
def reestimating(module: nn.Module) -> Iterator[Averages]:
    """While active, BatchNorms average the statistics of all batches from scratch.

    Yields the sums behind the averages, so that those of other processes can be added. On exit
    without an error the averages become the running statistics; modes and momenta are restored.

    Raises:
        ValueError: no BatchNorm in `module` tracks running statistics.
    """
    named = dict(module.named_modules())
    norms = {n: m for n, m in named.items() if isinstance(m, BatchNorm) and m.track_running_stats}
    if not norms:
        raise ValueError("batchnorm=reestimate needs a BatchNorm; use batchnorm=match or none")
    seen = Averages()

    def record(name: str) -> Callable[..., None]:
        def hook(norm: BatchNorm, *args: object) -> None:
            assert norm.running_mean is not None and norm.running_var is not None  # see above
            seen.add(name, torch.stack([norm.running_mean, norm.running_var]).double().cpu())

        return hook

    momenta = [norm.momentum for norm in norms.values()]
    handles = [norm.register_forward_hook(record(name)) for name, norm in norms.items()]
    for norm in norms.values():
        norm.reset_running_stats()
        norm.momentum = 1.0  # running statistics are then those of the last run alone
        norm.train()
    try:
        yield seen
        seen.write_to(module)
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
