"""Package versions, and fingerprints of network and data."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from evaluation.images import ImageData
from pipelines.machine.disk import checksum
from pipelines.models.network import Network

PACKAGES = (
    "torch",
    "torchvision",
    "lightning",
    "timm",
    "transformers",
    "numpy",
    "hydra-core",
    "wandb",
    "obliq",
)


def versions() -> dict[str, str]:
    """Versions of Python and of packages that may affect figures."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


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


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
