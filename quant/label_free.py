"""The label-free Hessian: how sensitive a network's outputs are to a change of one of its tensors.

    diag(J^T J),    J = d outputs / d z

bounds the Hessian of the task loss without labels (EPTQ, arXiv 2309.11531, section 3.1).
Hutchinson's estimator: with random signs v on the outputs, it is the expectation of
(d(v . outputs) / dz)^2. With no more outputs than draws, one output at a time (with a random sign)
gives the exact sum instead.

Letters: b images, m outputs per image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn


def tensors_of(outputs: Any) -> Sequence[Tensor]:
    """The output tensors of a network that returns one tensor, or a list or tuple of them."""
    return outputs if isinstance(outputs, list | tuple) else (outputs,)


def flat(outputs: Any) -> Tensor:
    """All outputs of each image, [b, m]."""
    return torch.cat([tensor.flatten(1) for tensor in tensors_of(outputs)], 1)


def probes(f: Tensor, draws: int, generator: torch.Generator) -> Iterator[tuple[Tensor, float]]:
    """Pairs (v [b, m], weight): the weighted sum of squared gradients of v . f gives diag(J^T J).

    Exact if m <= draws, else an unbiased estimate.

    Args:
        f: outputs [b, m].
        draws: maximum number of pairs.
        generator: source of the signs, on the CPU.
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
    """Random 1 and -1, equally likely, with the shape, dtype and device of `like`."""
    bits = torch.randint(0, 2, like.shape, generator=generator, dtype=torch.int8)
    return bits.to(like) * 2 - 1


def channels_last(x: Tensor) -> Tensor:
    """Images in channels-last memory format, which speeds up gradients on CPUs."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def out_of_place(model: nn.Module) -> nn.Module:
    """A copy of `model` without in-place activations, so that their inputs stay readable."""
    copy = deepcopy(model)
    for module in copy.modules():
        if getattr(module, "inplace", False):
            setattr(module, "inplace", False)  # noqa: B010
    return copy


@contextmanager
def tapped(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Capture the outputs of the named modules, by name, during one forward pass.

    Raises:
        ValueError: a module runs more than once, so it has no single output.
    """
    outputs: dict[str, Tensor] = {}

    def capture(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if name in outputs:
                raise ValueError(
                    f"module {name} runs more than once on a batch, so it has no single output: "
                    "use a method other than eptq, and grid.search=mse"
                )
            if isinstance(output, Tensor):
                outputs[name] = output

        return hook

    unique = dict.fromkeys(names)
    handles = [model.get_submodule(name).register_forward_hook(capture(name)) for name in unique]
    try:
        yield outputs
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
    """diag(J^T J) of the outputs f [b, m] for each tensor, in the tensor's shape.

    A tensor with one slice per image yields each image's own J. A weight shared by all images
    yields the sum of diag(J^T J) over images, up to noise from the signs: cross terms between
    images have expectation 0.

    Args:
        f: outputs with their autograd graph.
        tensors: the tensors that f was computed from, by name.
        draws: number of random sign vectors; the result is exact if f has at most `draws` columns.
        generator: source of the signs, on the CPU.
        tolerance: stop early once a draw changes the mean of every tensor by at most this fraction;
            0 uses all draws.
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
    """Whether the mean over `used` draws is close to that over used - 1, for every tensor."""
    old = torch.stack(list(before.values())) / (used - 1)
    new = torch.stack([s.sum() for s in sums.values()]) / used
    return bool(((new - old).abs() <= tolerance * new.abs()).all())


def attention(diagonal: Tensor) -> Tensor:
    """Attention score of each image [b]: maximum over channels of the mean over positions.

    Args:
        diagonal: [b, channels], [b, channels, h, w], or [b, tokens, channels].
    """
    if diagonal.dim() == 3:
        diagonal = diagonal.transpose(1, 2)
    return diagonal.flatten(2).mean(2).amax(1) if diagonal.dim() > 2 else diagonal.amax(1)
