"""Stage: what a task keeps of a network's outputs on the evaluation images.

Every figure of the result is computed from that.
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

    TOGETHER: ClassVar[bool] = True

    def run(
        self,
        module: Keyed[nn.Module],
        reference: Keyed[nn.Module | None],
        data: Keyed[ImageData],
        machine: Machine,
    ) -> Artifact:
        """Tensors: those of the task, [n, ...]. `reference`: the float network to compare with."""
        collect = CollectOutputs(data.value, module.value, reference.value)
        machine.test("evaluate", collect, data.value.test_dataloader())
        return Artifact(collect.outputs, {})
