"""Safe reading of pickles that hold numpy arrays in built-in containers.

A pickle is a program that can import and call any function. Arrays need only a few known names;
all others are refused before anything is imported or called.
"""

import io
import pickle
from typing import Any

import numpy as np


class ForbiddenNameError(Exception):
    """A pickle refers to a name that no numpy array needs."""


def load(blob: bytes) -> Any:
    """Load arrays, dicts, lists, strings and numbers; strings of Python 2 are returned as bytes.

    Raises:
        ValueError: the pickle contains code, or is damaged. The caller puts the file name in front
            of the message.
    """
    try:
        return ArrayUnpickler(io.BytesIO(blob), encoding="bytes").load()
    except ForbiddenNameError as error:
        raise ValueError(
            f"is a pickle that contains code: it refers to {error}, which no array needs. "
            "None of it was run. Download the file again from its original source"
        ) from None
    except Exception as error:  # a damaged pickle can fail in any instruction
        raise ValueError(f"is not a readable pickle ({error!r}). Download it again") from error


class ArrayUnpickler(pickle.Unpickler):
    """Builds numpy arrays and built-in containers; imports and calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in KNOWN:
            raise ForbiddenNameError(f"{module}.{name}")
        return KNOWN[module, name]


def _encode(text: str, encoding: str | bytes) -> bytes:
    """`_codecs.encode` as pickled bytes use it; all other codecs are refused."""
    if encoding not in ("latin1", b"latin1"):
        raise ForbiddenNameError(f"_codecs.encode with {encoding!r}")
    return text.encode("latin1")


_reconstruct = np.empty(0).__reduce__()[0]

# Names in pickles of arrays by numpy 1 and 2, and the objects that they resolve to here.
KNOWN: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("_codecs", "encode"): _encode,
}
