"""Any timm model, with pretrained weights, weights from a file, or random ones."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import timm
import timm.data
import timm.models
import torch

from pipelines.models.checkpoint import existing
from pipelines.models.network import Network
from pipelines.models.state_dict import fit, read


@dataclass(frozen=True)
class TimmModel:
    """A model of the timm registry, e.g. "resnet50" or, with the weights' tag, "resnet50.a1_in1k".

    Attributes:
        name: as in `timm.list_models()`, with or without a pretrained tag.
        pretrained: get timm's weights (downloaded once, then from its cache).
        checkpoint: file with timm's key names, used instead of timm's weights if given.
        num_classes: width of the last layer; None: as the name says.
        seed: of the random weights, used where there are no others.
    """

    name: str
    pretrained: bool
    checkpoint: str | None
    num_classes: int | None
    seed: int

    def check(self) -> None:
        """Raise if the name is unknown, the file missing, or timm has no such weights."""
        require_known(self.name)
        if self.checkpoint is not None:
            existing(self.checkpoint)
        elif self.pretrained:
            self._require_pretrained()

    def _require_pretrained(self) -> None:
        weights = timm.models.get_pretrained_cfg(self.name)
        if weights is None or not weights.has_weights:
            raise ValueError(
                f"timm has no pretrained weights for {self.name!r}. Give model.checkpoint=FILE, or "
                "model.pretrained=false for random weights"
            )
        if self.num_classes not in (None, weights.num_classes):
            raise ValueError(
                f"model.num_classes={self.num_classes}, but the pretrained weights of "
                f"{self.name!r} have {weights.num_classes} classes: the last layer "
                "would be random. Give model.checkpoint=FILE, or leave model.num_classes out"
            )

    def load(self, store: object) -> Network:
        """The network, named after its weights: "resnet50.a1_in1k", ".random" or ".<file's stem>".

        `store` is not used: nothing is computed here.

        Raises:
            ConnectionError: the pretrained weights could not be had.
        """
        self.check()
        download = self.pretrained and self.checkpoint is None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            module = self._download() if download else self._create(pretrained=False)
        weights = timm.models.get_pretrained_cfg(self.name).tag if download else "random"
        if self.checkpoint is not None:
            path = existing(self.checkpoint)
            fit(module, read(path), str(path))
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
                f"the pretrained weights of {self.name!r} could not be had "
                f"({type(err).__name__}: {reason}). With a network: try again. Without one: give "
                "a file with model.checkpoint=FILE, or model.pretrained=false for random weights"
            ) from err


def require_known(name: str) -> None:
    """Raise a ValueError with the nearest valid names unless timm knows `name`."""
    known = [*timm.list_models(), *timm.list_models(include_tags=True)]
    if name in known:
        return
    renamed = timm.models.get_deprecated_models().get(name)
    if renamed:
        raise ValueError(f"timm has renamed {name!r}: give model.name={renamed}")
    arch = name.partition(".")[0]
    if arch in known:
        near = [each for each in known if each.startswith(f"{arch}.")]
    else:
        near = [each for each in known if name and each.startswith(name)][:3]
        near += difflib.get_close_matches(name, known, n=5)
    raise ValueError(
        f"timm {timm.__version__} knows no model {name!r}. Nearest: "
        f"{', '.join(dict.fromkeys(near)) or 'none'}. "
        "List them with: python -c 'import timm; print(timm.list_models())'"
    )
