"""A float network to quantize, and the key of its results in the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.store import fingerprint

DATA_KEYS = ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")
TEXT_KEYS = ("tokenizer", "max_length", "pad")  # the tokenizer is JSON, not a path


@dataclass(frozen=True, eq=False)
class Network:
    """A float network and the preprocessing of its input. Create it with `Network.of`.

    Attributes:
        module: images [b, 3, h, w], or token ids [b, L], -> logits [b, classes]; eval mode,
            float32, CPU.
        name: name in messages and reports, e.g. "cifar10_resnet20" or "resnet50.a1_in1k".
        data_config: arguments of `timm.data.create_transform` (DATA_KEYS), or those of a text model
            (TEXT_KEYS).
        key: sha256 of everything that determines the network's output: its tensors, attributes and
            classes, the code of these, what built it, the name and the data config.
    """

    module: nn.Module
    name: str
    data_config: dict[str, Any]
    key: str

    @classmethod
    def of(
        cls, module: nn.Module, name: str, data_config: Mapping[str, Any], build: Any = None
    ) -> Network:
        """Convert `module` to float32, CPU and eval mode (in place) and compute its key.

        All parameters require gradients afterwards: some stages train them.

        Args:
            module: the network.
            name, data_config: see `Network`.
            build: what has built it, with its arguments.

        Raises:
            ValueError: data_config is invalid, or a weight is NaN or infinite.
            UntellableError: an attribute has no content that can be told.
        """
        config = validated(data_config, name)
        module = module.to("cpu", torch.float32).eval()
        for parameter in module.parameters():
            parameter.requires_grad_(parameter.is_floating_point())  # also of frozen ones
        require_finite(module.state_dict(), f"model {name}")
        return cls(module, name, config, fingerprint.content([module, name, config, build]))


def validated(data_config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """data_config with tuples instead of lists, so that YAML and timm result in the same one.

    Raises:
        ValueError: a key is missing or unknown, or input_size is not (channels, height, width).
    """
    keys = TEXT_KEYS if "tokenizer" in data_config else DATA_KEYS
    missing = [key for key in keys if key not in data_config]
    unknown = [key for key in data_config if key not in keys]
    origin = "timm's names" if keys is DATA_KEYS else "of a text model"
    if missing or unknown:
        raise ValueError(
            f"data_config of model {name}: missing {missing or 'nothing'}, unknown "
            f"{unknown or 'nothing'}. It needs exactly {', '.join(keys)} ({origin})."
        )
    if keys is TEXT_KEYS:
        return dict(data_config)
    config = {k: tuple(v) if isinstance(v, list) else v for k, v in data_config.items()}
    if len(config["input_size"]) != 3:
        raise ValueError(
            f"data_config.input_size={config['input_size']} of model {name} must be "
            "[channels, height, width], e.g. [3, 224, 224]"
        )
    return config


def require_finite(state: Mapping[str, Tensor], origin: str) -> None:
    """Raise a ValueError that names the tensors of `state` with NaN or infinite values."""
    bad = [name for name, value in state.items() if not bool(torch.isfinite(value).all())]
    if bad:
        raise ValueError(
            f"{origin}: NaN or infinite values in {len(bad)} of {len(state)} tensors: "
            f"{', '.join(bad[:5])}{', ...' if len(bad) > 5 else ''}. Such a network cannot be "
            "quantized: did the training diverge, or fp16 overflow?"
        )
