"""Text classifiers of the `transformers` library, from a local folder or from its hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipelines.models.by_length import ByLength
from pipelines.models.checkpoint import require_data_folder
from pipelines.models.network import Network


@dataclass(frozen=True)
class TransformersModel:
    """What AutoModelForSequenceClassification and AutoTokenizer load; safetensors only, no code.

    Attributes:
        name: for people; without a checkpoint a folder, or a name of the hub; null: the
            checkpoint's.
        checkpoint: folder with config.json, *.safetensors and the tokenizer's files; null: by name.
        max_length: of a sentence in tokens; longer ones are cut.
    """

    name: str | None
    checkpoint: str | None
    max_length: int

    def __post_init__(self) -> None:
        if self.max_length < 3:
            raise ValueError(
                f"model.max_length={self.max_length} must be at least 3: a sentence has a token "
                "before and one behind it"
            )

    def check(self) -> None:
        """Raise if the folder is not there or files are missing in it, or none is named."""
        if self.checkpoint is not None:
            complete_folder(self.checkpoint)
        elif self.name is None:
            raise ValueError(
                "which text model? Give model.name=NAME of the hub, such as "
                "textattack/bert-base-uncased-SST-2, or a folder: model.checkpoint=FOLDER"
            )

    def load(self, store: object) -> Network:
        """The network in float32. `store` is not used: nothing is computed here.

        Raises:
            ConnectionError: the hub has no such model, or cannot be reached.
            ValueError: the folder holds no trained classifier, or it has no tokenizer with padding.
        """
        self.check()
        given, name = self.checkpoint, str(self.name)
        local = given is not None or Path(name).expanduser().is_dir()
        source = str(complete_folder(given or name)) if local else name
        with _quiet():
            model, tokenizer = _loaded(source, local)
        pad = tokenizer.pad_token_id
        if pad is None or getattr(tokenizer, "backend_tokenizer", None) is None:
            raise ValueError(
                f"the tokenizer of {source} is a {type(tokenizer).__name__}, which has no padding "
                "token or no serialised form (tokenizer.json): take a BERT-like model"
            )
        module = ByLength(model, pad)
        self._try(module, source)
        config = {
            "tokenizer": tokenizer.backend_tokenizer.to_str(),
            "max_length": self.max_length,
            "pad": pad,
        }
        return Network.of(module, Path(self.name or source).name, config)

    def _try(self, module: ByLength, source: str) -> None:
        """Run one sentence of max_length tokens."""
        ids = torch.full((1, self.max_length), 0 if module.pad else 1)
        try:
            with torch.inference_mode():
                module.eval()(ids)
        except (IndexError, RuntimeError) as err:
            limit = getattr(module.model.config, "max_position_embeddings", "?")
            raise ValueError(
                f"model {source} does not take a sentence of {self.max_length} tokens (its config "
                f"says max_position_embeddings={limit}): {err}. Set model.max_length lower"
            ) from err


def complete_folder(checkpoint: str) -> Path:
    """The folder's path.

    Raises:
        FileNotFoundError: it is not there, or lacks config.json or a file of weights.
    """
    path = Path(checkpoint).expanduser()
    if path.is_dir():
        names = sorted(entry.name for entry in path.iterdir())
        if "config.json" not in names or not any(n.endswith(".safetensors") for n in names):
            raise FileNotFoundError(
                f"{path} does not hold both config.json and *.safetensors; in it: "
                f"{', '.join(names[:8]) or 'nothing'}. Pickled weights are not read: convert them "
                "with transformers' save_pretrained. Correct model.checkpoint="
            )
        return path
    require_data_folder(path, "FOLDER")
    raise FileNotFoundError(
        f"checkpoint {path} is {'a file' if path.exists() else 'not there'}: a text model is a "
        "folder with config.json, *.safetensors and the tokenizer's files. Correct "
        "model.checkpoint="
    )


def _loaded(source: str, local: bool) -> tuple[Any, Any]:
    """(model, tokenizer); every weight of the model comes from the files."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    given = {"local_files_only": local, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **given)
        model, found = AutoModelForSequenceClassification.from_pretrained(
            source, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **given
        )
    except Exception as err:  # hub, HTTP, disk, config and shape errors share no class
        reason = next(iter(str(err).splitlines()), "")[:300].rstrip(".")
        if local:
            raise ValueError(f"{source} cannot be loaded by transformers: {reason}") from err
        raise ConnectionError(
            f"the model {source!r} could not be had ({type(err).__name__}: {reason}). With a "
            "network: is the name right? Without one: give a folder, model.checkpoint=FOLDER"
        ) from err
    absent = sorted({*found["missing_keys"], *(str(k) for k in found["mismatched_keys"])})
    if absent:
        raise ValueError(
            f"{source} has no weights for {', '.join(absent[:5])}{', ...' if absent[5:] else ''}: "
            "they would be random. Is it a model that was trained to classify sentences?"
        )
    return model, tokenizer


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and hints of transformers' own."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
