"""Forward passes that pause at an operation and resume later.

Quantizing layers one after the other on the outputs of the quantized layers before them needs the
inputs of each layer in turn. Starting every time from the network's input would take N passes for N
layers; a pass that pauses at each layer takes one. The pass runs in a thread of its own, which
hands every torch operation to the caller of `advance`; the caller executes it, with its own
precision and threads.
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
    """Raised by an operation, or by a mode that intercepts it, to pause; it is retried later."""


class _Abandoned(BaseException):
    """Unwinds the thread of a pass that was closed."""


class SteppedForward:
    """One forward pass of `module` on `inputs`, started by the first `advance`.

    Attributes:
        done: the pass has ended, failed or been closed.
    """

    def __init__(self, module: nn.Module, *inputs: Tensor) -> None:
        self.module, self.inputs = module, inputs
        self.done = False
        self._operation: tuple[Any, tuple[Any, ...], dict[str, Any]] | None = None
        self._requests: SimpleQueue[Any] = SimpleQueue()
        self._replies: SimpleQueue[Any] = SimpleQueue()
        self._alive: weakref.WeakValueDictionary[int, Tensor] = weakref.WeakValueDictionary()
        self._created = 0
        self._thread: threading.Thread | None = None

    def advance(self) -> None:
        """Run up to the next operation that raises `Stop`, or to the end.

        Raises:
            Exception: any error that the pass raises.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
            self._next()
        while self._operation is not None:
            func, args, kwargs = self._operation
            reply: tuple[Any, Exception | None]
            try:
                reply = (func(*args, **kwargs), None)
            except Stop:
                return
            except Exception as err:
                reply = (None, err)
            self._track(reply[0])
            self._operation = None
            del args, kwargs
            self._replies.put(reply)
            del reply
            self._next()

    def bytes(self) -> int:
        """Memory held by the inputs and by the tensors that the pass has created and still uses."""
        held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in self.inputs}
        for tensor in list(self._alive.values()):
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return sum(held.values())

    def close(self) -> None:
        """Abandon the pass and release its tensors."""
        if self._thread is not None and not self.done:
            self._operation, self.done = None, True
            self._replies.put((None, _Abandoned()))
            self._thread.join()
        self.inputs = ()

    def _next(self) -> None:
        """Wait for the pass to request an operation, or to end."""
        request = self._requests.get()
        if isinstance(request, _End):
            self.done, self.inputs = True, ()
            if request.error is not None:
                raise request.error
        else:
            self._operation = request

    def _track(self, result: Any) -> None:
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                self._created += 1
                self._alive[self._created] = tensor

    def _run(self) -> None:
        """Run the module; called in the thread of the pass."""
        error = None
        try:
            with torch.no_grad(), _Delegating(self):
                self.module(*self.inputs)
        except _Abandoned:
            return
        except Exception as err:
            error = err
        self._requests.put(_End(error))
        del error

    def request(self, operation: tuple[Any, tuple[Any, ...], dict[str, Any]]) -> Any:
        """Have an operation executed and return its result; called in the thread of the pass."""
        if self.done:
            raise _Abandoned
        self._requests.put(operation)
        del operation
        result, error = self._replies.get()
        if error is None:
            return result
        try:
            raise error
        finally:
            del error  # its traceback holds this frame, and all tensors of the frames above


class _End:
    def __init__(self, error: Exception | None) -> None:
        self.error = error


class _Delegating(TorchFunctionMode):
    def __init__(self, stepped: SteppedForward) -> None:
        super().__init__()
        self.stepped = stepped

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "__name__", "") == "__get__":  # attributes such as x.shape
            return func(*args, **(kwargs or {}))
        return self.stepped.request((func, args, kwargs or {}))
