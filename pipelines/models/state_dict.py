"""State dicts: read them from safetensors or torch files, and load them into a module."""

from __future__ import annotations

import pickle
import pickletools
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from pipelines.models.network import require_finite

WRAPPERS = ("state_dict", "model")  # keys under which training scripts nest the weights
PREFIXES = ("module.", "_orig_mod.")  # of all keys, by DataParallel and torch.compile
CONVERT = (
    "convert it once, in a separate Python process: "
    "safetensors.torch.save_file(model.state_dict(), 'FILE.safetensors'); "
    "then set model.checkpoint=FILE.safetensors"
)


def read(path: Path) -> dict[str, Tensor]:
    """Read tensors by name from a safetensors or torch file; the format is detected. Runs no code.

    The state dict may be nested under "state_dict" or "model". A prefix of all keys from
    DataParallel or torch.compile is removed.

    Raises:
        ValueError: the file is corrupt or truncated, contains code, or has no state dict.
    """
    with path.open("rb") as file:
        head = file.read(9)
    # A safetensors file starts with 8 bytes of length, which can be any bytes, and a brace.
    is_torch = head.startswith((b"PK", b"\x80")) and head[8:] != b"{"
    content = _read_torch(path) if is_torch else _read_safetensors(path)
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(
        isinstance(value, Tensor) for value in content.values()
    ):
        held = list(content)[:5] if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(
            f"checkpoint {path} holds no state dict: found {held}. Expected tensors by name, "
            f"at the top level or under one of {', '.join(WRAPPERS)}"
        )
    state = {str(name): value for name, value in content.items()}
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as err:
        raise ValueError(
            f"checkpoint {path} ({path.stat().st_size} bytes) is neither a complete safetensors "
            f"file nor a torch file: {err}. It is damaged or truncated: download it again"
        ) from err


def _read_torch(path: Path) -> object:
    try:
        with (
            path.open("rb") as file,  # given a path, torch goes by its suffix
            warnings.catch_warnings(action="ignore"),  # replaced by the errors below
        ):
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as err:
        refused = _refused(path, str(err))
        if not refused:
            raise _damaged(path, "it is not a pickle written by torch.save") from err
        raise ValueError(
            f"checkpoint {path} contains more than tensors: unpickling it would call "
            f"{', '.join(refused[:5])}, which is refused because such a file can run any code. If "
            f"you trust its source, {CONVERT}"
        ) from err
    except Exception as err:  # a damaged file may fail anywhere in torch's reader
        if "TorchScript" in str(err):
            raise ValueError(
                f"checkpoint {path} is a TorchScript archive, which contains code. If you trust "
                f"its source, load it with torch.jit.load and {CONVERT}"
            ) from err
        reason = str(err).partition("\n")[0].partition(". ")[0]
        raise _damaged(path, reason or type(err).__name__) from err


def _refused(path: Path, message: str) -> list[str]:
    """Names in the pickle that torch refuses, determined without unpickling anything."""
    try:
        with path.open("rb") as file:
            return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(file))
    except (ValueError, RuntimeError):  # not a zip archive: an older torch file or a bare pickle
        named = re.findall(r"GLOBAL (\w+(?:\.\w+)+)", message)
    return sorted(set(named)) or _first_global(path)


def _first_global(path: Path) -> list[str]:
    strings: list[str] = []
    with path.open("rb") as file:
        try:
            for code, argument, _ in pickletools.genops(file):
                if code.name in ("GLOBAL", "INST"):
                    return [str(argument).replace(" ", ".")]
                if code.name == "STACK_GLOBAL":
                    return [".".join(strings[-2:])]
                if isinstance(argument, str):
                    strings.append(argument)
        except ValueError:  # not a pickle
            pass
    return []


def _damaged(path: Path, reason: str) -> ValueError:
    return ValueError(
        f"checkpoint {path} ({path.stat().st_size} bytes) cannot be read as a torch file: "
        f"{reason[:300]}. It is damaged, truncated, or not a checkpoint: download it again"
    )


def load_into(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load all tensors of `state` into `module` in place, floats as float32.

    `num_batches_tracked` may be missing: inference does not use it.

    Raises:
        ValueError: names or shapes differ (the first five of each kind are listed), or a weight is
            NaN or infinite. The module is then unchanged.
    """
    own = module.state_dict()
    missing = [n for n in own if n not in state and not n.endswith("num_batches_tracked")]
    unexpected = [n for n in state if n not in own]
    differing = [
        f"{n} is {_signature(state[n])} instead of {_signature(own[n])}"
        for n in own
        if n in state and _signature(state[n]) != _signature(own[n])
    ]
    if missing or unexpected or differing:
        parts = {"missing": missing, "unexpected": unexpected, "of another shape": differing}
        differences = "\n".join(
            f"  {len(names)} {kind}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
            for kind, names in parts.items()
            if names
        )
        raise ValueError(
            f"the keys of {source} do not match the network ({len(state)} tensors in the file, "
            f"{len(own)} in the network):\n{differences}\n"
            "Choose the model= (and its model.name=) that the file was made for, or another "
            "model.checkpoint=. If only the last layer differs, so does the number of classes."
        )
    floats = {n: v.float() if v.is_floating_point() else v for n, v in state.items()}
    require_finite(floats, f"checkpoint {source}")
    module.load_state_dict(floats)


def _signature(value: Tensor) -> str:
    kind = "" if value.is_floating_point() else f"{value.dtype} ".removeprefix("torch.")
    return f"{kind}{list(value.shape)}"
