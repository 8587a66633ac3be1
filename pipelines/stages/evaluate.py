"""Stage: run a network on the evaluation images and store what the task needs of its outputs.

All reported metrics are computed from these tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from evaluation.evaluator import CollectOutputs
from evaluation.images import ImageData
from pipelines.machine.machine import Machine
from pipelines.store.artifacts import Artifact, Keyed


@dataclass(frozen=True)
class Evaluate:
    """Run a network over the evaluation set."""

    ON_ALL_RANKS: ClassVar[bool] = True

    def run(
        self,
        module: Keyed[nn.Module],
        reference: Keyed[nn.Module | None],
        data: Keyed[ImageData],
        machine: Machine,
    ) -> Artifact:
        """Tensors: the task's, [n, ...]. `reference`: float network to compare with, or None."""
        collect = CollectOutputs(data.value, module.value, reference.value)
        machine.test("evaluate", collect, data.value.test_dataloader())
        return Artifact(collect.outputs, {})
