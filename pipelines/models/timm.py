"""timm models with pretrained weights, weights from a file, or random weights."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import timm
import timm.data
import timm.models
import torch

from pipelines.models.checkpoint import existing
from pipelines.models.network import Network
from pipelines.models.state_dict import load_into, read


@dataclass(frozen=True)
class TimmModel:
    """A model of timm's registry, e.g. "resnet50" or, with a weights' tag, "resnet50.a1_in1k".

    Attributes:
        name: as in `timm.list_models()`, with or without a pretrained tag.
        pretrained: use timm's weights (downloaded once, then cached by timm).
        checkpoint: file with timm's key names, used instead of timm's weights.
        num_classes: width of the last layer; None: the model's default.
        seed: seed for random weights, used if there are no others.
    """

    name: str
    pretrained: bool
    checkpoint: str | None
    num_classes: int | None
    seed: int

    def check(self) -> None:
        """Raise if the name is unknown, the file is missing, or timm has no such weights."""
        require_known(self.name)
        if self.checkpoint is not None:
            existing(self.checkpoint)
        elif self.pretrained:
            self._require_pretrained()

    def _require_pretrained(self) -> None:
        weights = timm.models.get_pretrained_cfg(self.name)
        if weights is None or not weights.has_weights:
            raise ValueError(
                f"timm has no pretrained weights for {self.name!r}. Set model.checkpoint=FILE, or "
                "model.pretrained=false for random weights"
            )
        if self.num_classes not in (None, weights.num_classes):
            raise ValueError(
                f"model.num_classes={self.num_classes}, but the pretrained weights of "
                f"{self.name!r} have {weights.num_classes} classes: the last layer "
                "would be random. Set model.checkpoint=FILE, or remove model.num_classes"
            )

    def load(self, store: object) -> Network:
        """The network, named after its weights: "resnet50.a1_in1k", ".random" or ".<file's stem>".

        `store` is unused.

        Raises:
            ConnectionError: the pretrained weights could not be loaded.
        """
        self.check()
        download = self.pretrained and self.checkpoint is None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            module = self._download() if download else self._create(pretrained=False)
        weights = timm.models.get_pretrained_cfg(self.name).tag if download else "random"
        if self.checkpoint is not None:
            path = existing(self.checkpoint)
            load_into(module, read(path), str(path))
            weights = path.stem
        name = f"{self.name.partition('.')[0]}.{weights}" if weights else self.name
        return Network.of(module, name, timm.data.resolve_model_data_config(module))

    def _create(self, pretrained: bool) -> torch.nn.Module:
        module: torch.nn.Module = timm.create_model(
            self.name, pretrained=pretrained, num_classes=self.num_classes
        )
        return module

    def _download(self) -> torch.nn.Module:
        try:
            return self._create(pretrained=True)
        except Exception as err:  # hub, HTTP, disk and file errors share no class
            reason = next(iter(str(err).splitlines()), "")[:300].rstrip(".")
            raise ConnectionError(
                f"the pretrained weights of {self.name!r} could not be loaded "
                f"({type(err).__name__}: {reason}). Try again; without an internet connection, use "
                "a file, model.checkpoint=FILE, or model.pretrained=false for random weights"
            ) from err


def require_known(name: str) -> None:
    """Raise a ValueError with the nearest valid names unless timm knows `name`."""
    known = [*timm.list_models(), *timm.list_models(include_tags=True)]
    if name in known:
        return
    renamed = timm.models.get_deprecated_models().get(name)
    if renamed:
        raise ValueError(f"timm has renamed {name!r}: use model.name={renamed}")
    arch = name.partition(".")[0]
    if arch in known:
        near = [each for each in known if each.startswith(f"{arch}.")]
    else:
        near = [each for each in known if name and each.startswith(name)][:3]
        near += difflib.get_close_matches(name, known, n=5)
    raise ValueError(
        f"timm {timm.__version__} has no model {name!r}. Nearest: "
        f"{', '.join(dict.fromkeys(near)) or 'none'}. "
        "List them with: python -c 'import timm; print(timm.list_models())'"
    )
