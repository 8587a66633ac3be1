"""Labelled sentences of a TSV file: a header that names the columns `sentence` and `label`."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from evaluation.samples import Samples

COLUMNS = ("sentence", "label")
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, eq=False)
class Sentences:
    """Bytes of the sentence with the id "dev.tsv:17", which stands in line 17."""

    rows: Mapping[str, bytes]

    def __call__(self, name: str) -> bytes:
        return self.rows[name]


def decode_sentence(blob: bytes) -> str:
    """UTF-8 without the spaces around it.

    Raises:
        ValueError: not UTF-8, or nothing but spaces.
    """
    text = blob.decode("utf-8").strip()
    if not text:
        raise ValueError("the sentence is empty")
    return text


def read_tsv(path: Path) -> Samples:
    """The sentences of a file, in its order; other columns than the two are not looked at.

    Sentences are not decoded yet, so that unreadable ones can be found and left out later.

    Raises:
        ValueError: a column is missing, a line has other columns, or a label is no whole number.
    """
    content = path.read_bytes()
    lines = [line.rstrip(b"\r") for line in content.removeprefix(BOM).split(b"\n")]
    header = [name.decode("utf-8", "replace").strip() for name in lines[0].split(b"\t")]
    if not set(COLUMNS) <= set(header):
        raise ValueError(
            f"{path}: the first line must name the columns {' and '.join(COLUMNS)}, with a tab "
            f"between them, but is {', '.join(header)[:80]!r}"
        )
    at, label_at = (header.index(name) for name in COLUMNS)
    rows: dict[str, bytes] = {}
    labels: list[int] = []
    wrong: list[str] = []
    for number, line in enumerate(lines[1:], start=2):
        cells = line.split(b"\t")
        if not line:  # as at the end of the file
            continue
        if len(cells) != len(header):
            wrong.append(f"line {number} has {len(cells)} columns instead of {len(header)}")
            continue
        try:
            labels.append(int(cells[label_at]))
        except ValueError:
            given = cells[label_at].decode("utf-8", "replace")[:40]
            wrong.append(f"line {number} has the label {given!r}, no whole number")
            continue
        rows[f"{path.name}:{number}"] = cells[at].strip()  # so that equal ones are equal bytes
    if wrong:
        more = f"; and {len(wrong) - 5} more lines" if len(wrong) > 5 else ""
        raise ValueError(f"{path}: {'; '.join(wrong[:5])}{more}. Correct the file")
    return Samples(
        ids=tuple(rows),
        labels=tuple(labels),
        blob=Sentences(rows),
        decode=decode_sentence,
        sizes=tuple(map(len, rows.values())),
        container=hashlib.sha256(content).hexdigest(),
    )
