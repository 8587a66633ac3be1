"""Code blocks of the Markdown pages, and what stands above them.

A mark is an HTML comment on the line above a block, `<!-- long -->` or `<!-- needs: gpus -->`;
several are separated by semicolons. MARKS lists all of them. A block that is a file in full has
its name above it, on a line of its own: `conf/method/mine.yaml`:
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

LANGUAGES = {
    "sh": "commands, each of which is run",
    "python": "executed; all blocks of a page share their names, in order",
    "yaml": "parsed",
    "json": "parsed",
    "tsv": "a file",
    "text": "output and formulas; must not look like a command",
}
MARKS = {
    "long": "takes more than seconds: composed always, run by -m long",
    "needs": "something that a test does not have: composed, not run",
    "status": "the exit status that the last command of the block has",
}
NEEDS = {
    "data": "the weights and images of OBLIQ_DATA; run by -m long where it is set",
    "hours": "OBLIQ_DATA, and hours",
    "folder": "a folder of the reader's, such as /path/to/imagenet",
    "network": "downloads",
    "gpus": "several GPUs",
    "slurm": "a Slurm cluster",
    "cluster": "a Ray cluster",
    "account": "a W&B account",
    "checkout": "a checkout with its .venv (make)",
    "install": "an environment to install packages into",
}

FENCE = re.compile(r"^(`{3,})(\S*)[^`]*$")
MARK = re.compile(r"^<!-- (.+) -->$")
FILE = re.compile(r"^`([\w./-]+\.\w+)`:$")
OLD_STYLE = re.compile(r"^ {4}(obliq|python|make|pip|export)\b")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: its file.
        line: number of the line of its fence, from 1.
        language: as the fence names it.
        text: what it holds, ending with a newline.
        marks: by name; "" as the value of those that have none.
        file: what the block is in full; "" for a part of something, or for commands.
    """

    page: Path
    line: int
    language: str
    text: str
    marks: Mapping[str, str]
    file: str = ""

    @property
    def where(self) -> str:
        """ "docs/store.md:17"."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def needs(self) -> str:
        """What a test does not have, "" for nothing."""
        return self.marks.get("needs", "")

    @property
    def commands(self) -> list[tuple[int, str]]:
        """(line number, command) of a block of commands; a trailing backslash joins lines."""
        found: list[tuple[int, str]] = []
        start, text = 0, ""
        for number, line in enumerate(self.text.splitlines(), self.line + 1):
            start = start or number
            text += line.removesuffix("\\")
            if line.endswith("\\"):
                continue
            if text.strip() and not text.lstrip().startswith("#"):
                found.append((start, text.strip()))
            start, text = 0, ""
        return found


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page.

    Raises:
        ValueError: a fence is not closed, a mark stands above no block, or commands are indented
            instead of fenced.
    """
    found: list[Block] = []
    marks: dict[str, str] = {}
    file = ""
    opened: tuple[int, str, str] | None = None
    inside: list[str] = []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fence, mark = FENCE.match(line), MARK.match(line)
        if opened:
            start, ticks, language = opened
            if line.strip() == ticks:
                text = "\n".join(inside) + "\n"
                found.append(Block(page, start, language, text, marks, file))
                opened, inside, marks, file = None, [], {}, ""
            else:
                inside.append(line)
        elif fence:
            opened = number, fence[1], fence[2]
        elif marks:
            raise ValueError(f"{page}:{number}: a mark must stand on the line above a block")
        elif mark:
            parts = (part.partition(":") for part in mark[1].split(";"))
            marks = {name.strip(): value.strip() for name, _, value in parts}
        elif OLD_STYLE.match(line):
            raise ValueError(f"{page}:{number}: put commands between ```sh and ```")
        elif line.strip():
            named = FILE.match(line)
            file = named[1] if named else ""
    if opened or marks:
        raise ValueError(f"{page}: the last block is not closed")
    return found
