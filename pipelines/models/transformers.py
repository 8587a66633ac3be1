"""Text classifiers of the `transformers` library, from a local folder or the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipelines.models.by_length import ByLength
from pipelines.models.checkpoint import require_data_folder
from pipelines.models.naming import named
from pipelines.models.network import Network


@dataclass(frozen=True)
class TransformersModel:
    """A model for AutoModelForSequenceClassification and AutoTokenizer.

    Only safetensors are read, and no remote code is run.

    Attributes:
        name: name in messages and reports; without a checkpoint, also a folder or a model id on the
            Hub; null, or a name that belongs to other weights: the checkpoint's (see `naming`).
        checkpoint: folder with config.json, *.safetensors and the tokenizer's files; null: `name`.
        max_length: maximum number of tokens; longer sentences are truncated.
    """

    name: str | None
    checkpoint: str | None
    max_length: int

    def __post_init__(self) -> None:
        if self.max_length < 3:
            raise ValueError(
                f"model.max_length={self.max_length} must be at least 3, since the tokenizer adds "
                "a token before and one after the sentence"
            )

    def check(self) -> None:
        """Raise if no model is named, or the folder or files in it are missing."""
        if self.checkpoint is not None:
            complete_folder(self.checkpoint)
        elif self.name is None:
            raise ValueError(
                "which text model? Give model.name=NAME of the hub, such as "
                "textattack/bert-base-uncased-SST-2, or a folder: model.checkpoint=FOLDER"
            )

    def load(self, store: object) -> Network:
        """The network in float32; `store` is unused.

        Raises:
            ConnectionError: the Hub has no such model, or cannot be reached.
            ValueError: the model is not a trained classifier, or its tokenizer cannot pad.
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
                "token or no serialised form (tokenizer.json): use a BERT-like model"
            )
        for part in model.modules():  # where the files lie is no part of the network's key
            if hasattr(part, "name_or_path"):
                part.config._name_or_path = part.name_or_path = ""
        module = ByLength(model, pad)
        self._try(module, source)
        config = {
            "tokenizer": tokenizer.backend_tokenizer.to_str(),
            "max_length": self.max_length,
            "pad": pad,
        }
        return Network.of(module, named(self.name, self.checkpoint), config)

    def _try(self, module: ByLength, source: str) -> None:
        """Check that the network accepts max_length tokens."""
        ids = torch.full((1, self.max_length), 0 if module.pad else 1)
        try:
            with torch.inference_mode():
                module.eval()(ids)
        except (IndexError, RuntimeError) as err:
            limit = getattr(module.model.config, "max_position_embeddings", "?")
            raise ValueError(
                f"model {source} does not accept {self.max_length} tokens (its config has "
                f"max_position_embeddings={limit}): {err}. Decrease model.max_length"
            ) from err


def complete_folder(checkpoint: str) -> Path:
    """The path of a checkpoint folder.

    Raises:
        FileNotFoundError: the folder does not exist, or has no config.json or no safetensors.
    """
    path = Path(checkpoint).expanduser()
    if path.is_dir():
        names = sorted(entry.name for entry in path.iterdir())
        if "config.json" not in names or not any(n.endswith(".safetensors") for n in names):
            raise FileNotFoundError(
                f"{path} does not hold both config.json and *.safetensors; it holds: "
                f"{', '.join(names[:8]) or 'nothing'}. Pickled weights are not read: convert them "
                "with transformers' save_pretrained, or correct model.checkpoint="
            )
        return path
    require_data_folder(path, "FOLDER")
    raise FileNotFoundError(
        f"checkpoint {path} {'is a file' if path.exists() else 'does not exist'}: a text model is "
        "a folder with config.json, *.safetensors and the tokenizer's files. Correct "
        "model.checkpoint="
    )


def _loaded(source: str, local: bool) -> tuple[Any, Any]:
    """(model, tokenizer), with every weight loaded from the files."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    arguments = {"local_files_only": local, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **arguments)
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            source, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **arguments
        )
    except Exception as err:  # hub, HTTP, disk, config and shape errors share no class
        reason = next(iter(str(err).splitlines()), "")[:300].rstrip(".")
        if local:
            raise ValueError(f"{source} cannot be loaded by transformers: {reason}") from err
        raise ConnectionError(
            f"the model {source!r} could not be loaded ({type(err).__name__}: {reason}). Check "
            "model.name; without an internet connection, use a folder, model.checkpoint=FOLDER"
        ) from err
    absent = sorted({*loading["missing_keys"], *(str(k) for k in loading["mismatched_keys"])})
    if absent:
        raise ValueError(
            f"{source} has no weights for {', '.join(absent[:5])}{', ...' if absent[5:] else ''}: "
            "they would be random. Use a model that was trained for sequence classification"
        )
    return model, tokenizer


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress transformers' progress bars and hints."""
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
