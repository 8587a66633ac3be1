"""SST-2: Socher et al., Recursive Deep Models for Semantic Compositionality Over a Sentiment
Treebank, EMNLP 2013; and other labelled sentences in TSV files."""

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

FOLDERS = ("sst2", "SST-2")  # names under which the files usually lie inside one folder
CALIBRATION, EVALUATION = "train.tsv", ("dev.tsv", "dev*.tsv", "test.tsv")


@dataclass(frozen=True, eq=False)
class Tokens:
    """(token ids [max_length] int64, label) of a sentence.

    Attributes:
        tokenizer: gives the ids of a sentence, no more than max_length of them.
        max_length: every sentence is padded to so many ids.
        pad: the id that padding consists of.
    """

    tokenizer: Tokenizer
    max_length: int
    pad: int

    @staticmethod
    def of(data_config: Mapping[str, Any]) -> "Tokens":
        """As a text model's data config says: tokenizer (its JSON), max_length, pad."""
        tokenizer = Tokenizer.from_str(data_config["tokenizer"])
        tokenizer.no_padding()
        tokenizer.enable_truncation(data_config["max_length"])
        return Tokens(tokenizer, data_config["max_length"], data_config["pad"])

    def __call__(self, sentence: str, label: int) -> tuple[Tensor, int]:
        found = self.tokenizer.encode(sentence).ids
        padded = torch.full((self.max_length,), self.pad)
        padded[: len(found)] = torch.tensor(found)
        return padded, label

    def cuts(self, sentence: str) -> bool:
        """Has the sentence more tokens than are kept?"""
        return bool(self.tokenizer.encode(sentence).overflowing)


class Sst2(ClassificationData):
    """Sentences with a label each.

    `root` and `calibration_root` are one of

    - a TSV file with the columns `sentence` and `label`,
    - a folder with `train.tsv` (calibration) and one of `dev.tsv`, `dev*.tsv`, `test.tsv`
      (evaluation), in this order; or one that holds such a folder as `sst2` or `SST-2`.

    Calibration draws from the training part of `calibration_root`, or of `root` if that is null;
    where there is no such part, from the evaluation sentences there.

    Attributes:
        cut: how many sentences are longer than the network takes, by their use.
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
        self.cut: dict[str, int] = {}

    def pools(self) -> tuple[Samples, Samples]:
        if not self.root:
            raise ValueError(
                "data.root is not set: give the folder that holds train.tsv and dev.tsv, "
                "data.root=/path/to/sst2 (or set the environment variable OBLIQ_DATA)"
            )
        evaluation = evaluation_file(Path(self.root).expanduser())
        calibration = calibration_file(Path(self.calibration_root or self.root).expanduser())
        found = read_tsv(evaluation)
        return (found if calibration == evaluation else read_tsv(calibration)), found

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
        """As for images; warns where sentences are cut, and counts them.

        Raises:
            ValueError: copies are asked for; and see `ImageData.prepare`.
        """
        if copies:
            raise ValueError(
                f"calibrate.copies={copies}: a sentence cannot be moved or mirrored as an image "
                "can. Leave it out, and choose more sentences with calibrate.images"
            )
        super().prepare(data_config, calibration_images, seed, calibration_batch_size, most=most)
        tokens = Tokens.of(data_config)
        uses = {"calibration": self.calibration, "evaluation": self.evaluation}
        self.cut = {use: _cut(samples, tokens) for use, samples in uses.items()}
        for use, count in self.cut.items():
            if count:
                warnings.warn(
                    f"{count} of {len(uses[use])} {use} sentences have more than "
                    f"{tokens.max_length} tokens and are cut: set model.max_length higher if the "
                    "network takes more",
                    stacklevel=2,
                )

    def details(self, outputs: Outputs) -> dict[str, Any]:
        """How many sentences were cut."""
        return {f"Sentences cut to {self._data_config['max_length']} tokens": self.cut}


def _cut(samples: Samples, tokens: Tokens) -> int:
    bad = samples.bad()
    readable = (name for name in samples.ids if name not in bad)
    return sum(tokens.cuts(samples.decode(samples.blob(name))) for name in readable)


def evaluation_file(root: Path) -> Path:
    """The file itself, or the first of EVALUATION in the folder.

    Raises:
        ValueError: there is none, or one cannot tell which.
    """
    if root.is_file():
        return root
    folder = part(root, FOLDERS)
    for name in EVALUATION:
        found = sorted(folder.glob(name))
        if len(found) > 1:
            raise ValueError(
                f"{folder} holds {', '.join(p.name for p in found)}: which one is to be evaluated "
                "on? Give the file itself, data.root=FILE with data.calibration_root=FOLDER"
            )
        if found:
            return found[0]
    there = sorted(p.name for p in folder.iterdir())[:8] if folder.is_dir() else []
    raise ValueError(
        f"{folder} {'holds' if folder.is_dir() else 'is no folder, so it holds'} none of "
        f"{', '.join(EVALUATION)}; in it: {', '.join(there) or 'nothing'}. Give a folder that "
        "does, data.root=FOLDER"
    )


def calibration_file(root: Path) -> Path:
    """The file itself, `train.tsv` in the folder, else what would be evaluated on there."""
    train = part(root, FOLDERS) / CALIBRATION
    return train if train.is_file() else evaluation_file(root)
