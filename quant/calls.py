"""Interception of `linear` and `conv2d` calls; only this file knows their geometry.

A layer's input is read where its weight is used, at the call of `linear` or `conv2d`, not at the
module's input. So convolutions that pad their own input ("same" padding) and weights that are
transformed before use are handled correctly, whatever the module class. No graph is traced.

Letters: g groups, r output rows per group, c input columns per group, n positions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

LINEAR, CONV = F.linear, F.conv2d
ATTENTION = F.multi_head_attention_forward
PIECE = 2**21  # elements in one piece of an unfolded input


@dataclass(frozen=True)
class Call:
    """The arguments of one call of `linear` or `conv2d`."""

    x: Tensor
    weight: Tensor
    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1
    groups: int = 1

    @staticmethod
    def of(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
        """Parse the call `func(*args, **kwargs)`."""
        names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
        arguments = {**dict(zip(names, args, strict=False)), **kwargs}
        geometry = {k: arguments[k] for k in names[3:] if k in arguments} if func is CONV else {}
        return Call(arguments["input"], arguments["weight"], **geometry)

    def unfold(self) -> Tensor:
        """The input as a matrix X [g, c, n] with output = W X + bias."""
        return torch.cat(list(self.pieces()), dim=2)

    def pieces(self) -> Iterator[Tensor]:
        """`unfold` in pieces along n small enough for the CPU cache: far fewer page faults."""
        x, w = self.x.detach(), self.weight
        if w.dim() == 2:
            X = x.reshape(-1, x.shape[-1]).T[None]
            yield from torch.split(X, max(1, PIECE // X.shape[1]), dim=2)
            return
        if x.dim() == 3:
            x = x[None]
        taps = w[0, 0].numel()
        for part in torch.split(x, max(1, PIECE // (taps * x[0].numel()))):
            columns = self._columns(part)
            b, _, positions = columns.shape
            X = columns.reshape(b, self.groups, -1, positions).permute(1, 2, 0, 3)
            yield X.reshape(self.groups, -1, b * positions)

    def sampled(self, count: int, seeds: Sequence[int]) -> Iterator[Tensor]:
        """`pieces`, restricted to `count` random positions per image (all if there are no more).

        The image is split into `count` equal parts, and one position is drawn from each.

        Args:
            count: positions per image, at least 1.
            seeds: one seed per image; the choice depends on nothing else.
        """
        x = self.x.detach()
        x = x[None] if self.weight.dim() == 4 and x.dim() == 3 else x
        total, width = self._positions(x)
        if total <= count:
            yield from self.pieces()
            return
        at = torch.stack([_stratified(count, total, s) for s in seeds]).to(x.device)  # [b, count]
        image = torch.arange(len(x), device=x.device)
        if self.weight.dim() == 2:
            yield x.flatten(1, -2)[image[:, None], at].flatten(0, 1).T[None]
            return
        x, padding = self._padded(x)
        x = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))
        rows, columns = (
            (start * step)[..., None] + torch.arange(k, device=x.device) * gap
            for start, step, k, gap in zip(
                (at // width, at % width),
                pair(self.stride),
                self.weight.shape[2:],
                pair(self.dilation),
                strict=True,
            )
        )  # [b, count, taps down], [b, count, taps right]
        patches = x[image[:, None, None, None], :, rows[..., None], columns[:, :, None]]
        yield patches.permute(4, 2, 3, 0, 1).reshape(self.groups, -1, at.numel())

    def _positions(self, x: Tensor) -> tuple[int, int]:
        """Output positions per image and per row of the output."""
        if self.weight.dim() == 2:
            return (1 if x.dim() == 2 else int(torch.Size(x.shape[1:-1]).numel())), 1
        x, padding = self._padded(x[:1])
        down, right = (
            (size + 2 * pad - gap * (k - 1) - 1) // step + 1
            for size, pad, gap, k, step in zip(
                x.shape[2:],
                padding,
                pair(self.dilation),
                self.weight.shape[2:],
                pair(self.stride),
                strict=True,
            )
        )
        return down * right, right

    @property
    def margins(self) -> tuple[int, int, int, int]:
        """Padding of a convolution's input in pixels, (top, left, bottom, right).

        With "same", an odd pixel goes to the bottom or right, as in torch.
        """
        if self.padding == "same":
            kernel, dilation = tuple(self.weight.shape[2:]), pair(self.dilation)
            down, right = (d * (k - 1) for k, d in zip(kernel, dilation, strict=True))
            return down // 2, right // 2, down - down // 2, right - right // 2
        return pair(0 if isinstance(self.padding, str) else self.padding) * 2

    def _padded(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """x and the padding left to apply: "same" padding is applied here."""
        top, left, bottom, right = self.margins
        if self.padding == "same":
            return F.pad(x, (left, right, top, bottom)), (0, 0)
        return x, (top, left)

    def _columns(self, x: Tensor) -> Tensor:
        """The patch under the kernel at each position, [b, in * taps, positions]."""
        kernel, dilation = tuple(self.weight.shape[2:]), pair(self.dilation)
        x, padding = self._padded(x)
        if kernel == (1, 1) and padding == (0, 0):
            down, right = pair(self.stride)
            return x[:, :, ::down, ::right].flatten(2)
        return F.unfold(x, kernel, dilation=dilation, padding=padding, stride=self.stride)


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    """The values, with lists and tuples among them flattened by one level."""
    for value in values:
        yield from value if isinstance(value, list | tuple) else (value,)


def _stratified(count: int, total: int, seed: int) -> Tensor:
    """`count` of `total` positions, one drawn from each of `count` equal parts."""
    draw = torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return ((torch.arange(count) + draw) * (total / count)).long().clamp(max=total - 1)


def pair(value: Any) -> tuple[int, int]:
    """A convolution's argument as (down, right); an int stands for both."""
    if isinstance(value, int):
        return value, value
    first, second = (*value, *value)[:2]
    return int(first), int(second)


class SeesCalls(TorchFunctionMode, ABC):
    """While active, `called` runs every function of torch, those inside attention too."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not ATTENTION:
            return self.called(func, args, kwargs)
        own = {**func.__globals__, "has_torch_function": lambda tensors: False}  # no own dispatch
        inner = FunctionType(func.__code__, own, func.__name__, func.__defaults__, func.__closure__)
        with self:
            return inner(*args, **kwargs)

    @abstractmethod
    def called(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run `func`; returns its result."""


class Calls(SeesCalls):
    """While active, reports every use of the given parameters to `receive`.

    Args:
        parameters: parameters by name.
        receive: called with the parameter's name, the operation's name, and the Call (None if the
            operation is not `linear` or `conv2d` with the parameter as its weight).
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        receive: Callable[[str, str, Call | None], None],
    ) -> None:
        super().__init__()
        self.names = {id(p): name for name, p in parameters.items()}
        self.receive = receive

    def called(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Report uses among the arguments and run `func` unchanged."""
        call = Call.of(func, args, kwargs) if func is LINEAR or func is CONV else None
        if call is not None and (name := self.names.get(id(call.weight))):
            self.receive(name, func.__name__, call)
        result = func(*args, **kwargs)
        if any(isinstance(x, Tensor) for x in _flat([result])):  # skips reads such as weight.shape
            for item in _flat([*args, *kwargs.values()]):
                name = self.names.get(id(item))
                if name and not (call and item is call.weight):
                    self.receive(name, getattr(func, "__name__", str(func)), None)
        return result
