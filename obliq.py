"""Post-training quantization of PyTorch networks.

    >>> import obliq
    >>> q = obliq.quantize(model, loader, bits=4, act_bits=8)
    >>> q.model(images)               # computes what was quantized
    >>> q.layers                      # a table: bits, loss, loss / rtn
    >>> q.save("my.safetensors")
    >>> model = obliq.load("my.safetensors", into=model)
    >>> obliq.export(q, "my.onnx")

`obliq` on the command line runs the same stages on data sets, compares with OBQ and writes a
report.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pipelines.interface.result import Quantized

__all__ = ["evaluate", "export", "load", "quantize"]


def quantize(
    model: nn.Module,
    images: Iterable[Any] | Tensor,
    *,
    bits: int = 4,
    act_bits: int | None = None,
    method: str = "row_parallel",
    precision: str = "uniform",
    batch_size: int = 64,
    settings: Mapping[str, Any] | None = None,
    store: str | PathLike[str] | None = None,
    progress: bool = True,
) -> Quantized:
    """Quantize a network on calibration images, by the stages of the command line.

    Args:
        model: a network with one input and outputs [b, classes], alone or as `logits`, `out` or the
            first tensor of a dict, tuple or dataclass; called in eval mode and left as it is.
            Detectors and networks for segmentation are quantized by the command line.
        images: calibration inputs as the network takes them, already preprocessed: a data loader, a
            list of batches [b, ...], or one tensor [n, ...]. Labels in it are ignored. The first
            1024 are taken unless `calibrate.images` or `calibrate.max_images` say otherwise.
        bits: bits of the weights, 1 to 16.
        act_bits: bits of the layers' inputs, 1 to 16; None leaves them in floating point.
        method: "row_parallel", "gptq", "obq", "rtn", "eptq", ...; see `obliq --help-all`.
        precision: "uniform", or "mixed": the search sets the layers' bits.
        batch_size: inputs per batch.
        settings: any other setting of the command line, by its name:
            {"quantize.inputs": "sequential", "grid.symmetric": True}.
        store: a folder that keeps the results of all stages, so that another call with the same
            network and images continues from them; None: nothing is kept.
        progress: show the stages and progress bars on stderr.

    Returns:
        the quantized network, its layers as a table, and its state to save.

    Raises:
        ValueError: a setting, the images or the network's outputs do not fit; the message says
            what to do. Nothing is computed before the settings are checked.
    """
    from pipelines.interface import quantize as interface

    named = {"precision": precision, "bits": bits, "act_bits": act_bits}
    every = {**named, "calibrate.batch_size": batch_size, **(settings or {})}
    return interface.quantize(model, images, method, every, store, progress)


def load(path: str | PathLike[str], into: nn.Module | None = None) -> nn.Module:
    """A quantized network from a file, or from the output folder of a run.

    Args:
        path: what `Quantized.save` wrote, the `model.safetensors` of a run, or the run's folder.
        into: the float network that was quantized, with any weights; it is not changed. None: the
            network is built as the run built it; needs the run's folder.

    Returns:
        a network in eval mode whose weights and activations are bit by bit those of the run.

    Raises:
        OSError: there is no such file.
        ValueError: the file is damaged or belongs to another network.
    """
    from pipelines.interface import loading

    return loading.load(path, into)


def export(
    source: Quantized | str | PathLike[str],
    path: str | PathLike[str],
    *,
    into: nn.Module | None = None,
    example: Tensor | None = None,
    opset: int | None = None,
) -> dict[str, Any]:
    """Write a quantized network for other programs.

    Args:
        source: the result of `quantize`, a file that it saved, or the output folder of a run.
        path: the file. Its ending tells the format: ".onnx" (integer weights, activations between
            QuantizeLinear and DequantizeLinear, any batch size), ".pt2" (a program of
            torch.export), ".safetensors" (a state dict with dequantized weights, under the
            network's own names).
        into: the float network, as for `load`.
        example: an input [b, ...]; needed where the file does not tell its size.
        opset: of the ONNX file; None: the lowest one that has integers as small as the codes.

    Returns:
        "file" and "bytes"; of an ONNX file also "opset", "weights" ({layer: integer type}),
        "float_weights" ({layer: reason}), "integer_layers" of "layers" that onnxruntime computes
        with integers on this machine, "inputs" and "outputs".

    Raises:
        OSError: the file cannot be read or written.
        ValueError: the ending, the opset or the network do not fit.
    """
    from pipelines.interface import export as interface

    return interface.export(source, path, into, example, opset)


def evaluate(
    model: nn.Module,
    data: Iterable[Any],
    *,
    reference: nn.Module | None = None,
    batch_size: int = 64,
    progress: bool = True,
) -> dict[str, float]:
    """Accuracy of a classifier, and its distance from the float network.

    Args:
        model: the network, e.g. `q.model`: inputs [b, ...] -> logits [b, classes].
        data: (inputs [b, ...], labels [b]) batches; with a `reference`, labels may be absent.
        reference: the float network.
        batch_size: inputs per batch.
        progress: show a progress bar on stderr.

    Returns:
        "top1" and "top5" in percent where there are labels; with a reference also "drop" (points)
        with its 95 % interval "drop_low" and "drop_high", "agreement" (percent), "kl" (nats) and
        "sqnr_db".

    Raises:
        ValueError: the data fit neither the network nor each other.
    """
    from pipelines.interface import evaluate as interface

    return interface.evaluate(model, data, reference, batch_size, progress)
