"""Package versions, and fingerprints of network and data."""

from __future__ import annotations

import functools
import hashlib
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from evaluation.images import ImageData
from pipelines.machine.disk import checksum
from pipelines.models.network import Network

PACKAGES = (
    "torch",
    "torchvision",
    "Pillow",
    "numpy",
    "scipy",
    "opencv-python",
    "timm",
    "transformers",
    "tokenizers",
    "ultralytics",
    "faster-coco-eval",
    "onnxruntime",
    "lightning",
    "hydra-core",
    "wandb",
    "obliq",
)


@functools.cache
def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that may change a figure; None: not installed.

    None of them is imported.
    """
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def computed_with(stages: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """The libraries that have computed the results of each stage in other versions than these.

    Args:
        stages: versions by library, by stage, as the store has them.

    Returns:
        {stage: {library: version}}; libraries that are as they are here are left out.
    """
    here = {"python": platform.python_version()}
    found = {
        stage: {
            name: version
            for name, version in used.items()
            if version != here.setdefault(name, _version(name) or "not installed")
        }
        for stage, used in stages.items()
    }
    return {stage: other for stage, other in found.items() if other}


def fingerprints(model: Any, network: Network, data: ImageData) -> dict[str, Any]:
    """Checksums that identify the network and the data.

    Args:
        model: source of the network; its `checkpoint` is included if it has one.
        network: the loaded network.
        data: the data set, prepared and checked.

    Returns:
        network: sha256 of weights, definition and input format (see `models.network`).
        checkpoint: sha256 of the file or of the files in a folder; None without a checkpoint.
        calibration, evaluation: sha256 of images, labels and transform (see `ImageData`).
    """
    given = getattr(model, "checkpoint", None)
    return {
        "network": network.key,
        "checkpoint": _checkpoint(Path(given).expanduser()) if given else None,
        "calibration": data.calibration_key,
        "evaluation": data.evaluation_key,
    }


def _checkpoint(path: Path) -> str:
    """sha256 of a file, or of the lines "SHA256  NAME" of a folder's files, ordered by name."""
    if path.is_file():
        return checksum(path)
    files = sorted(file for file in path.iterdir() if file.is_file())
    lines = "".join(f"{checksum(file)}  {file.name}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
