"""What a run without a model and data is going to do, said before it does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def about(
    words: Sequence[str], settings: Mapping[str, Any], method: str, folder: Path
) -> list[str]:
    """Lines for the screen; a single one where settings of the example are given.

    Args:
        words: settings, as typed; they choose neither model nor data.
        settings: all, resolved.
        method: name of the method.
        folder: where the files will be.
    """
    if words:
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
