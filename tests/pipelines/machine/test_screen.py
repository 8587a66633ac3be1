from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from pipelines.machine.screen import Screen


def screen(terminal):
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=80, highlight=False)
    return Screen(console), out


def plain(out):
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())


@pytest.mark.parametrize(
    "text", ["codes [b, c]", "[red]", "[/]", "a\\[b]", "data.root=[x]", "[1, 2]"]
)
def test_text_with_brackets_is_printed_as_it_is(text):
    show, out = screen(terminal=False)
    show.line(text)
    show.line(text, mark="[red]✗[/] ", style="dim")
    show.stage("calibrate", 1.0, False, text)
    assert out.getvalue().splitlines()[:2] == [text, f"✗ {text}"]
    assert out.getvalue().splitlines()[2].endswith(text)


def test_a_long_line_is_not_broken():
    show, out = screen(terminal=False)
    show.line("/a/very/long/path" * 20)
    assert out.getvalue() == "/a/very/long/path" * 20 + "\n"


def test_nothing_but_lines_where_nobody_watches():
    show, out = screen(terminal=False)
    with show.busy("loading"), show.bar("calibrate", 3) as advance:
        advance(1)
    assert out.getvalue() == ""


def test_bars_nest_show_their_names_and_vanish():
    show, out = screen(terminal=True)
    with show.bar("quantize [a]", 2) as outer:
        with show.bar("inputs of conv1", 4) as inner:
            inner(2)
            show._progress.refresh()
            assert len(show._progress.tasks) == 2
        outer(1)
        assert len(show._progress.tasks) == 1
    text = plain(out)
    assert "quantize [a]" in text and "inputs of conv1" in text and "2/4" in text
    assert not show._progress.tasks and not show._progress.live.is_started
    with show.bar("again", 1) as advance:
        advance(1)


def test_an_error_inside_a_bar_stops_it():
    show, _ = screen(terminal=True)
    with pytest.raises(ValueError, match="no"), show.bar("a", 2), show.bar("b", 2):
        raise ValueError("no")
    assert not show._progress.tasks and not show._progress.live.is_started


def test_a_stage_says_its_time_or_that_it_came_from_the_store():
    show, out = screen(terminal=False)
    show.stage("quantize", 12.34, False, "6 layers")
    show.stage("quantize", 12.34, True)
    first, second = out.getvalue().splitlines()
    assert first.split() == ["✓", "quantize", "12.3", "s", "6", "layers"]
    assert "from the store" in second and "12.3" not in second
