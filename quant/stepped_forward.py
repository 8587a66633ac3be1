"""Forward passes that stop at an operation and go on later.

Layers that are quantized one after the other, each on what the quantized layers before it give,
need the inputs of one layer after the other. From the first layer on for each of N layers that is N
passes; a pass that waits where it has come to is one. The pass lives in a thread of its own, which
asks for every torch operation; who advances it does them, in its own precision and on its threads.
"""

from __future__ import annotations

import threading
import weakref
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class Stop(Exception):  # noqa: N818  (not an error)
    """Raised by an operation, or by a mode that sees it, to be done when the walk goes on."""


class _Abandoned(BaseException):
    """Unwinds the thread of a walk that nobody goes on with."""


class SteppedForward:
    """One forward pass of `module` on `inputs`, begun by the first `advance`."""

    def __init__(self, module: nn.Module, *inputs: Tensor) -> None:
        self.module, self.inputs = module, inputs
        self.done = False
        self._operation: tuple[Any, tuple[Any, ...], dict[str, Any]] | None = None
        self._asked: SimpleQueue[Any] = SimpleQueue()
        self._answered: SimpleQueue[Any] = SimpleQueue()
        self._alive: weakref.WeakValueDictionary[int, Tensor] = weakref.WeakValueDictionary()
        self._made = 0
        self._thread: threading.Thread | None = None

    def advance(self) -> None:
        """Go on to the next operation that raises `Stop`, or to the end.

        Raises:
            Exception: whatever the pass fails of.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._pass, daemon=True)
            self._thread.start()
            self._next()
        while self._operation is not None:
            func, args, kwargs = self._operation
            answer: tuple[Any, Exception | None]
            try:
                answer = (func(*args, **kwargs), None)
            except Stop:
                return
            except Exception as err:
                answer = (None, err)
            self._note(answer[0])
            self._operation = None
            del args, kwargs
            self._answered.put(answer)
            del answer
            self._next()

    def bytes(self) -> int:
        """What the tensors take that the pass has made and still needs, and its inputs."""
        held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in self.inputs}
        for tensor in list(self._alive.values()):
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return sum(held.values())

    def close(self) -> None:
        """Leave the pass where it is; its tensors are given back."""
        if self._thread is not None and not self.done:
            self._operation, self.done = None, True
            self._answered.put((None, _Abandoned()))
            self._thread.join()
        self.inputs = ()

    def _next(self) -> None:
        """Wait for what the pass asks for."""
        asked = self._asked.get()
        if isinstance(asked, _End):
            self.done, self.inputs = True, ()
            if asked.error is not None:
                raise asked.error
        else:
            self._operation = asked

    def _note(self, result: Any) -> None:
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                self._made += 1
                self._alive[self._made] = tensor

    def _pass(self) -> None:
        """In the thread."""
        error = None
        try:
            with torch.no_grad(), _Asking(self):
                self.module(*self.inputs)
        except _Abandoned:
            return
        except Exception as err:
            error = err
        self._asked.put(_End(error))
        del error

    def ask(self, operation: tuple[Any, tuple[Any, ...], dict[str, Any]]) -> Any:
        """In the thread: the result of an operation."""
        if self.done:
            raise _Abandoned
        self._asked.put(operation)
        del operation
        result, error = self._answered.get()
        if error is None:
            return result
        try:
            raise error
        finally:
            del error  # its traceback holds this frame, and all tensors of those above


class _End:
    def __init__(self, error: Exception | None) -> None:
        self.error = error


class _Asking(TorchFunctionMode):
    def __init__(self, walk: SteppedForward) -> None:
        super().__init__()
        self.walk = walk

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "__name__", "") == "__get__":  # x.shape and the like
            return func(*args, **(kwargs or {}))
        return self.walk.ask((func, args, kwargs or {}))
