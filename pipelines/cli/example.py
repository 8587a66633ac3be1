"""The announcement of the embedded example, which runs if no model and data are chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def about(
    given: Sequence[str], settings: Mapping[str, Any], method: str, folder: Path
) -> list[str]:
    """Lines for the terminal; only one if there are overrides.

    Args:
        given: overrides as typed, none of which chooses a model or data.
        settings: all settings, resolved.
        method: name of the method.
        folder: output folder.
    """
    if given:
        return ["No model= and data= are given: this is the embedded example (digits)."]
    width = f"{settings['bits']} bits"
    return [
        "No model= and data= are given, so this is the embedded example. It trains a small network",
        f"on scikit-learn's digits, quantizes its weights to {width} by {method}, and compares it",
        "with the float network and with OBQ. It takes about a minute, the first time.",
        f"Files:      {folder}",
        "Your own:   obliq model=timm model.name=resnet18 data=imagenet data.root=FOLDER",
        "More:       obliq --help",
    ]
