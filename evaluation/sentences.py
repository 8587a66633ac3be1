"""Labelled sentences in TSV files with the columns `sentence` and `label`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluation.class_names import plain
from evaluation.image_files import UTF16, read
from evaluation.samples import Samples

COLUMNS = ("sentence", "label")
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, eq=False)
class Sentences:
    """Encoded sentence of the id "dev.tsv:17", which is in line 17 of that file."""

    rows: Mapping[str, bytes]

    def __call__(self, name: str) -> bytes:
        return self.rows[name]


def decode_sentence(blob: bytes) -> str:
    """Decode UTF-8 and strip whitespace.

    Raises:
        ValueError: the text is not UTF-8, or blank.
    """
    text = blob.decode("utf-8").strip()
    if not text:
        raise ValueError("the sentence is empty")
    return text


def read_tsv(path: Path, names: Sequence[str] = ()) -> Samples:
    """Index the sentences of a file in order; other columns are ignored.

    Sentences are not decoded yet, so that unreadable ones can be skipped later.

    Args:
        names: of the network's classes, in the order of its outputs; a label may be one of them.

    Raises:
        ValueError: a column is missing, a line has the wrong number of columns, or a label is
            neither an integer nor one of the names.
    """
    content = read(path)
    if content.startswith(UTF16):
        raise ValueError(f"{path} is UTF-16: save it as UTF-8")
    known = {plain(name): index for index, name in enumerate(names)}
    lines = [line.rstrip(b"\r") for line in content.removeprefix(BOM).split(b"\n")]
    header = [name.decode("utf-8", "replace").strip() for name in lines[0].split(b"\t")]
    if not set(COLUMNS) <= set(header):
        raise ValueError(
            f"{path}: the first line must name the columns {' and '.join(COLUMNS)}, separated by "
            f"tabs, but has {', '.join(header)[:80]!r}"
        )
    sentence_at, label_at = (header.index(name) for name in COLUMNS)
    rows: dict[str, bytes] = {}
    labels: list[int] = []
    wrong: list[str] = []
    for number, line in enumerate(lines[1:], start=2):
        cells = line.split(b"\t")
        if not line:  # blank, as after the last newline
            continue
        if len(cells) != len(header):
            wrong.append(f"line {number} has {len(cells)} columns instead of {len(header)}")
            continue
        label = cells[label_at].decode("utf-8", "replace").strip()
        if (index := known.get(plain(label))) is None:
            try:
                index = int(label)
            except ValueError:
                either = f" nor one of {', '.join(names[:5])}" if names else ""
                wrong.append(
                    f"line {number} has the label {label[:40]!r}, which is not an integer{either}"
                )
                continue
        labels.append(index)
        rows[f"{path.name}:{number}"] = cells[
            sentence_at
        ].strip()  # so that equal sentences have equal bytes
    if wrong:
        more = f"; and {len(wrong) - 5} more lines" if len(wrong) > 5 else ""
        raise ValueError(f"{path}: {'; '.join(wrong[:5])}{more}. Correct the file")
    return Samples(
        ids=tuple(rows),
        labels=tuple(labels),
        blob=Sentences(rows),
        decode=decode_sentence,
        sizes=tuple(map(len, rows.values())),
    )
