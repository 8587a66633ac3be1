"""The label-free Hessian: how much the outputs of a network mind a change of one of its tensors.

    diag(J^T J),    J = d outputs / d z

bounds the Hessian of a task's loss without any label (EPTQ, arXiv 2309.11531, section 3.1).
Hutchinson: with random signs v on the outputs, its expectation is that of (d(v . outputs) / dz)^2.
Where there are no more outputs than draws, one output at a time (with a random sign) gives the
exact sum instead of an estimate.

Letters: b images, m outputs of an image, L tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn


def parts(outputs: Any) -> Sequence[Tensor]:
    """The tensors of what a network gives: one, or several."""
    return outputs if isinstance(outputs, list | tuple) else (outputs,)


def flat(outputs: Any) -> Tensor:
    """All outputs of each image, [b, m]."""
    return torch.cat([part.flatten(1) for part in parts(outputs)], 1)


def probes(f: Tensor, draws: int, generator: torch.Generator) -> Iterator[tuple[Tensor, float]]:
    """(v [b, m], weight) such that the weighted sum of (v . f)'s squared gradients is wanted.

    Args:
        f: outputs [b, m].
        draws: at most so many.
        generator: of the signs, on the CPU.
    """
    m = f.shape[1]
    if m <= draws:
        for output in range(m):
            v = torch.zeros_like(f)
            v[:, output] = random_signs(f[:, output], generator)
            yield v, 1.0
        return
    for _ in range(draws):
        yield random_signs(f, generator), 1.0 / draws


def random_signs(like: Tensor, generator: torch.Generator) -> Tensor:
    """1 and -1, each with probability 1/2, of the shape and type of `like`, where it is."""
    drawn = torch.randint(0, 2, like.shape, generator=generator, dtype=torch.int8)
    return drawn.to(like) * 2 - 1


def laid_out(x: Tensor) -> Tensor:
    """Images with the channels of a pixel side by side: on a processor gradients are faster so."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def out_of_place(model: nn.Module) -> nn.Module:
    """A copy in which no activation overwrites its input, so that inputs can be looked at."""
    copy = deepcopy(model)
    for module in copy.modules():
        if getattr(module, "inplace", False):
            setattr(module, "inplace", False)  # noqa: B010
    return copy


@contextmanager
def tapped(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """While active, which is for one run, the outputs of the named modules by name.

    Raises:
        ValueError: a module runs twice: its last output alone is not what the others depend on.
    """
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if name in seen:
                raise ValueError(
                    f"{name} runs more than once on a batch, so its outputs cannot be told apart: "
                    "take a method other than eptq, and grid.search=mse"
                )
            if isinstance(output, Tensor):
                seen[name] = output

        return hook

    once = dict.fromkeys(names)
    handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in once]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def diagonals(
    f: Tensor,
    tensors: Mapping[str, Tensor],
    draws: int,
    generator: torch.Generator,
    tolerance: float = 0.0,
) -> dict[str, Tensor]:
    """diag(J^T J) of the outputs f [b, m] for each of the tensors, in the tensor's shape.

    A tensor that holds one slice an image gives the image's own J. A weight that all images share
    gives the sum over images of diag(J^T J), up to noise of the signs: products of two images have
    the expectation 0.

    Args:
        f: outputs with their graph.
        tensors: that f was computed from.
        draws: random sign vectors; exact where f has no more than so many columns.
        generator: of the signs.
        tolerance: stop drawing once a draw changes the mean by less than this fraction; 0: never.
    """
    kinds = {name: torch.promote_types(t.dtype, torch.float32) for name, t in tensors.items()}
    sums = {name: torch.zeros_like(t, dtype=kinds[name]) for name, t in tensors.items()}
    exact, used = f.shape[1] <= draws, 0
    for v, weight in probes(f, draws, generator):
        grads = torch.autograd.grad(
            (v * f).sum(), list(tensors.values()), retain_graph=True, allow_unused=True
        )
        before = {name: s.sum() for name, s in sums.items()} if tolerance and not exact else {}
        for (_, total), grad in zip(sums.items(), grads, strict=True):
            if grad is not None:
                total.addcmul_(grad.to(total), grad.to(total), value=weight)
        used += 1
        if before and used > 1 and _settled(before, sums, used, tolerance):
            break
    return sums if exact else {name: total * (draws / used) for name, total in sums.items()}


def _settled(
    before: Mapping[str, Tensor], sums: Mapping[str, Tensor], used: int, tolerance: float
) -> bool:
    """The means over used - 1 and over `used` draws are nearly the same for every tensor."""
    old = torch.stack(list(before.values())) / (used - 1)
    new = torch.stack([s.sum() for s in sums.values()]) / used
    return bool(((new - old).abs() <= tolerance * new.abs()).all())


def attention(diagonal: Tensor) -> Tensor:
    """The score of each image: maximum over channels of the mean over positions, [b].

    Args:
        diagonal: [b, channels, ...], or [b, ..., channels] for three dimensions (tokens).
    """
    if diagonal.dim() == 3:
        diagonal = diagonal.transpose(1, 2)
    return diagonal.flatten(2).mean(2).amax(1) if diagonal.dim() > 2 else diagonal.amax(1)
