"""The marks of code blocks, and what must not escape the tests of the pages."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from tests.docs.blocks import LANGUAGES, MARKS, NEEDS, PAGES, ROOT, blocks

COMMAND = re.compile(r"^\s*(\$ )?(obliq|obliq-report|python|make|pip|export) \S")
SHELL = "sh"

# Blocks of commands that are only composed, by what they need. A higher number needs a reason.
COMPOSED = {
    "README.md": 2,
    "docs": {
        "account": 1, "checkout": 2, "cluster": 1, "data": 1, "folder": 6, "gpus": 2, "hours": 13,
        "install": 3, "long": 3, "network": 1, "slurm": 1,
    },
}  # fmt: skip

every_page = pytest.mark.parametrize(
    "page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES]
)


@every_page
def test_blocks_name_a_known_language_and_known_marks(page):
    for block in blocks(page):
        where = block.where
        assert block.language in LANGUAGES, f"{where}: one of {', '.join(LANGUAGES)}"
        assert set(block.marks) <= set(MARKS), f"{where}: some of {', '.join(MARKS)}"
        assert not block.marks or block.language in (SHELL, "python"), where
        assert "needs" not in block.marks or block.needs in NEEDS, f"{where}: of {', '.join(NEEDS)}"
        assert block.language != "tsv" or block.file, where
        assert not block.file.startswith(("/", "..")), where


@every_page
def test_no_command_hides_in_a_block_that_is_not_run(page):
    for block in blocks(page):
        if block.language == SHELL:
            assert block.commands, f"{block.where}: no command in it"
        elif block.language != "python":
            found = [line for line in block.text.splitlines() if COMMAND.match(line)]
            assert not found, f"{block.where}: put {found[0]!r} into a block of commands"


def composed_only(pages):
    commands = [block for page in pages for block in blocks(page) if block.language == SHELL]
    left = Counter(x.needs or "long" for x in commands if x.needs or "long" in x.marks)
    print(f"{left.total()} of {len(commands)} blocks of commands are composed only: {dict(left)}")
    return left


def test_blocks_that_are_not_run_are_counted():
    assert composed_only(PAGES[1:]) == COMPOSED["docs"]


def test_most_of_the_readme_is_run():
    assert composed_only(PAGES[:1]).total() <= COMPOSED["README.md"]


def page_of(tmp_path, text):
    path = tmp_path / "page.md"
    path.write_text(text)
    return path


def test_blocks_are_read_with_their_marks(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.docs.blocks.ROOT", tmp_path)
    marks = "<!-- needs: gpus; status: 2 -->"
    text = f"`a.txt`:\n\nb\n{marks}\n```sh\n# hi\nobliq bits=3 \\\n  seed=1\n```\n"
    text = f"{text}\n`conf/x.yaml`:\n\n````python\n```\n````\n"
    first, second = blocks(page_of(tmp_path, text))
    assert first.marks == {"needs": "gpus", "status": "2"} and first.needs == "gpus"
    assert first.commands == [(7, "obliq bits=3   seed=1")]
    assert first.where == "page.md:5"
    assert (second.language, second.text, second.marks) == ("python", "```\n", {})
    assert (first.file, second.file) == ("", "conf/x.yaml")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("```sh\nobliq\n", "not closed"),
        ("<!-- long -->\n\n```sh\nobliq\n```\n", "line above a block"),
        ("Try:\n\n    obliq bits=3\n", "put commands between"),
    ],
)
def test_what_would_escape_is_an_error(tmp_path, text, reason):
    with pytest.raises(ValueError, match=reason):
        blocks(page_of(tmp_path, text))
