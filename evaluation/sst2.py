"""SST-2: Socher et al., Recursive Deep Models for Semantic Compositionality Over a Sentiment
Treebank, EMNLP 2013; or other labelled sentences in TSV files."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from evaluation.classification import ClassificationData
from evaluation.samples import Samples, part
from evaluation.sentences import read_tsv
from evaluation.task import Outputs, View

FOLDERS = ("sst2", "SST-2")  # usual names of the subfolder with the files
CALIBRATION, EVALUATION = "train.tsv", ("dev.tsv", "dev*.tsv", "test.tsv")


@dataclass(frozen=True, eq=False)
class Tokens:
    """(token ids [max_length] int64, label) of a sentence.

    Attributes:
        tokenizer: truncates to max_length, does not pad.
        max_length: number of ids that every sentence is padded to.
        pad: id of the padding token.
    """

    tokenizer: Tokenizer
    max_length: int
    pad: int

    @staticmethod
    def of(data_config: Mapping[str, Any]) -> "Tokens":
        """From a text model's data config: tokenizer (its JSON), max_length, pad."""
        tokenizer = Tokenizer.from_str(data_config["tokenizer"])
        tokenizer.no_padding()
        tokenizer.enable_truncation(data_config["max_length"])
        return Tokens(tokenizer, data_config["max_length"], data_config["pad"])

    def __call__(self, sentence: str, label: int) -> tuple[Tensor, int]:
        ids = self.tokenizer.encode(sentence).ids
        padded = torch.full((self.max_length,), self.pad)
        padded[: len(ids)] = torch.tensor(ids)
        return padded, label

    def truncates(self, sentence: str) -> bool:
        """Whether the sentence has more than max_length tokens."""
        return bool(self.tokenizer.encode(sentence).overflowing)


class Sst2(ClassificationData):
    """Labelled sentences.

    `root` and `calibration_root` are one of

    - a TSV file with the columns `sentence` and `label`,
    - a folder with `train.tsv` (calibration) and the first existing of `dev.tsv`, `dev*.tsv`,
      `test.tsv` (evaluation), or the parent of such a folder named `sst2` or `SST-2`.

    Calibration sentences come from `train.tsv` in `calibration_root` (null: in `root`), or from its
    evaluation file if there is none.

    Attributes:
        truncated: number of truncated sentences of "calibration" and "evaluation".
    """

    kind = "sentences"

    def __init__(
        self,
        root: str | None,
        calibration_root: str | None,
        batch_size: int,
        workers: int,
        skip_bad: bool,
        images: int | None,
        classes: int,
    ) -> None:
        super().__init__(root, calibration_root, batch_size, workers, skip_bad, images)
        if classes < 2:
            raise ValueError(f"data.classes={classes} must be at least 2")
        self.classes = classes
        self.truncated: dict[str, int] = {}

    def pools(self) -> tuple[Samples, Samples]:
        if not self.root:
            raise ValueError(
                "data.root is not set: point it to the folder with train.tsv and dev.tsv, "
                "data.root=/path/to/sst2 (or set the environment variable OBLIQ_DATA)"
            )
        evaluation = evaluation_file(Path(self.root).expanduser())
        calibration = calibration_file(Path(self.calibration_root or self.root).expanduser())
        sentences = read_tsv(evaluation, self.network_names)
        if calibration == evaluation:
            return sentences, sentences
        return read_tsv(calibration, self.network_names), sentences

    def view(self, data_config: Mapping[str, Any]) -> View:
        return Tokens.of(data_config)

    def prepare(
        self,
        data_config: Mapping[str, Any],
        calibration_images: int | None,
        seed: int,
        calibration_batch_size: int,
        copies: int = 0,
        most: int = 0,
    ) -> None:
        """As `ImageData.prepare`; also counts truncated sentences and warns about them.

        Raises:
            ValueError: as `ImageData.prepare`; or `copies` is not 0.
        """
        if copies:
            raise ValueError(
                f"calibrate.augmented_copies={copies}: sentences cannot be shifted or mirrored "
                "like images. Remove this setting; calibrate.images=N uses more sentences"
            )
        super().prepare(data_config, calibration_images, seed, calibration_batch_size, most=most)
        tokens = Tokens.of(data_config)
        uses = {"calibration": self.calibration, "evaluation": self.evaluation}
        self.truncated = {use: _truncated(samples, tokens) for use, samples in uses.items()}
        for use, count in self.truncated.items():
            if count:
                warnings.warn(
                    f"{count} of {len(uses[use])} {use} sentences have more than "
                    f"{tokens.max_length} tokens and are truncated: increase model.max_length if "
                    "the network supports longer inputs",
                    stacklevel=2,
                )

    def details(self, outputs: Outputs) -> dict[str, Any]:
        """Number of truncated sentences."""
        return {f"Sentences cut to {self._data_config['max_length']} tokens": self.truncated}


def _truncated(samples: Samples, tokens: Tokens) -> int:
    bad = samples.bad()
    readable = (name for name in samples.ids if name not in bad)
    return sum(tokens.truncates(samples.decode(samples.blob(name))) for name in readable)


def evaluation_file(root: Path) -> Path:
    """`root` itself if it is a file, else the first of EVALUATION in the folder.

    Raises:
        ValueError: there is none, or a pattern matches several files.
    """
    if root.is_file():
        return root
    folder = part(root, FOLDERS)
    for name in EVALUATION:
        found = sorted(folder.glob(name))
        if len(found) > 1:
            raise ValueError(
                f"{folder} holds {', '.join(p.name for p in found)}: which one is the evaluation "
                "set? Set data.root=FILE and data.calibration_root=FOLDER"
            )
        if found:
            return found[0]
    there = sorted(p.name for p in folder.iterdir())[:8] if folder.is_dir() else []
    raise ValueError(
        f"{folder} {'holds' if folder.is_dir() else 'is not a folder and so holds'} none of "
        f"{', '.join(EVALUATION)}; it holds: {', '.join(there) or 'nothing'}. Point "
        "data.root (or data.calibration_root) to a folder with one of these files"
    )


def calibration_file(root: Path) -> Path:
    """`root` itself if it is a file, else its `train.tsv`, else its evaluation file."""
    train = part(root, FOLDERS) / CALIBRATION
    return train if train.is_file() else evaluation_file(root)
