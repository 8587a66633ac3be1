"""Read pickles of numpy arrays in Python's own containers, without running code.

A pickle is a program: it names functions, anywhere in Python, and calls them. The only names that
an array needs are known, so all others are refused before anything is imported or called.
"""

import io
import pickle
from typing import Any

import numpy as np


class ForbiddenNameError(Exception):
    """A pickle names something that is not part of a numpy array."""


def load(blob: bytes) -> Any:
    """Arrays, dicts, lists, strings and numbers of a pickle; Python 2's strings come as bytes.

    Raises:
        ValueError: the pickle holds code, or is damaged. The message goes on from the file's name.
    """
    try:
        return ArrayUnpickler(io.BytesIO(blob), encoding="bytes").load()
    except ForbiddenNameError as error:
        raise ValueError(
            f"is a pickle that holds code: it asks for {error}, arrays need no such thing. "
            "Nothing of it was run. Fetch the file anew from its source"
        ) from None
    except Exception as error:  # a damaged pickle can fail in any instruction
        raise ValueError(f"is no readable pickle ({error!r}). Fetch it anew") from error


class ArrayUnpickler(pickle.Unpickler):
    """Builds numpy arrays and Python's own containers; imports nothing, calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in KNOWN:
            raise ForbiddenNameError(f"{module}.{name}")
        return KNOWN[module, name]


def _encode(text: str, encoding: str | bytes) -> bytes:
    """What `_codecs.encode` does in pickles of bytes; no other codec is looked up."""
    if encoding not in ("latin1", b"latin1"):
        raise ForbiddenNameError(f"_codecs.encode with {encoding!r}")
    return text.encode("latin1")


_reconstruct = np.empty(0).__reduce__()[0]

# What pickles of arrays name, by numpy 1 and 2, and what stands for it here.
KNOWN: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("_codecs", "encode"): _encode,
}
