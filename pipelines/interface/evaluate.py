"""Metrics of a network in memory, and its distance from the float network."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from evaluation.evaluator import CollectOutputs
from evaluation.tensors import TensorData, collected
from pipelines.machine.screen import Screen


def evaluate(
    model: nn.Module,
    data: Iterable[Any],
    reference: nn.Module | None,
    batch_size: int,
    progress: bool,
) -> dict[str, float]:
    """See `obliq.evaluate`."""
    tensors, labels = collected(data, None)
    if labels is None and reference is None:
        raise ValueError(
            "the data have no labels: give batches (inputs, labels), or the float network as "
            "reference="
        )
    task = TensorData(tensors, labels, batch_size)
    screen = Screen() if progress else Screen.nowhere()
    outputs = _outputs(task, model, screen)
    figures = dict(task.metrics(outputs)) if labels is not None else {}
    if reference is None:
        return figures
    expected = _outputs(task, reference, screen)
    if labels is not None:
        drop = task.drop(expected, outputs)
        low, high = drop["ci95"]
        figures |= {"drop": drop["points"], "drop_low": low, "drop_high": high}
    return {**figures, **task.fidelity(expected, outputs)}


def _outputs(task: TensorData, model: nn.Module, screen: Screen) -> dict[str, Tensor]:
    """What the task needs of all outputs; the network is left in its mode."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    modes = {module: module.training for module in model.modules()}
    collect, loader = CollectOutputs(task, model.eval()), task.inputs_loader()
    try:
        task.check_network(model, type(model).__name__, next(iter(loader))[0][:1].to(device))
        with torch.inference_mode(), screen.bar("evaluate", len(loader)) as advance:
            for number, (x, y) in enumerate(loader):
                collect.test_step((x.to(device), y), number)
                advance(1)
    finally:
        for module, training in modes.items():
            module.training = training
    collect.join(collect.parts)
    return collect.outputs
