"""The marks of code blocks, and what must not escape the tests of the pages."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from tests.docs.blocks import LANGUAGES, MARKS, NEEDS, PAGES, ROOT, blocks

COMMAND = re.compile(r"^\s*(\$ )?(obliq|obliq-report|python|make|pip|export) \S")
SHELL = "sh"

# Blocks of commands that are only composed, at most; a higher number needs a reason.
COMPOSED = {"README.md": 8, "docs": 60}

every_page = pytest.mark.parametrize(
    "page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES]
)


@every_page
def test_blocks_name_a_known_language_and_known_marks(page):
    for block in blocks(page):
        where = block.where
        assert block.language in LANGUAGES, f"{where}: one of {', '.join(LANGUAGES)}"
        assert set(block.marks) <= set(MARKS), f"{where}: some of {', '.join(MARKS)}"
        assert set(block.marks) <= {"file"} or block.language in (SHELL, "python"), where
        assert "needs" not in block.marks or block.needs in NEEDS, f"{where}: of {', '.join(NEEDS)}"
        assert block.language != "tsv" or "file" in block.marks, where
        file = block.marks.get("file", "x")
        assert file and not file.startswith(("/", "..")), where


@every_page
def test_no_command_hides_in_a_block_that_is_not_run(page):
    for block in blocks(page):
        if block.language == SHELL:
            assert block.commands, f"{block.where}: no command in it"
        elif block.language != "python":
            found = [line for line in block.text.splitlines() if COMMAND.match(line)]
            assert not found, f"{block.where}: put {found[0]!r} into a block of commands"


@pytest.mark.parametrize("where", COMPOSED)
def test_most_blocks_of_commands_are_run(where):
    pages = [page for page in PAGES if (page.name == "README.md") == (where == "README.md")]
    commands = [x for page in pages for x in blocks(page) if x.language == SHELL]
    left = Counter(x.needs or "long" for x in commands if x.needs or "long" in x.marks)
    count = f"{where}: {left.total()} of {len(commands)} composed only: {dict(left)}"
    print(count)
    assert left.total() <= COMPOSED[where] and 2 * left.total() <= len(commands), count


def page_of(tmp_path, text):
    path = tmp_path / "page.md"
    path.write_text(text)
    return path


def test_blocks_are_read_with_their_marks(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.docs.blocks.ROOT", tmp_path)
    text = "a\n<!-- needs: gpus; status: 2 -->\n```sh\n# hi\nobliq bits=3 \\\n  seed=1\n```\n"
    first, second = blocks(page_of(tmp_path, f"{text}\n````python\n```\n````\n"))
    assert first.marks == {"needs": "gpus", "status": "2"} and first.needs == "gpus"
    assert first.commands == [(5, "obliq bits=3   seed=1")]
    assert first.where == "page.md:3"
    assert (second.language, second.text, second.marks) == ("python", "```\n", {})


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
