"""Terminal output of a run: progress bars, and a line per finished stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("  {task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


@dataclass(eq=False)
class Screen:
    """The terminal. Bars disappear when done and are not shown without a terminal.

    Attributes:
        console: rich console for all output.
        brief: omit long output, such as tables, because other jobs write to the terminal too.
    """

    console: Console = field(default_factory=lambda: Console(stderr=True, highlight=False))
    brief: bool = False

    def __post_init__(self) -> None:
        self._progress = _bars(self.console)

    @classmethod
    def nowhere(cls) -> Screen:
        """A screen that shows nothing."""
        return cls(Console(quiet=True, force_terminal=False))

    def busy(self, name: str) -> AbstractContextManager[object]:
        """Show a spinner during a task without steps, unless a bar is shown.

        Bars must not be opened inside.
        """
        if not self.console.is_terminal or self._progress.tasks:
            return nullcontext()
        return self.console.status(f"{escape(name)} ...", spinner_style="dim")

    @contextmanager
    def bar(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """A progress bar of `total` steps; yields a function that advances it by n steps."""
        if not self.console.is_terminal:
            yield lambda n: None
            return
        if not self._progress.tasks:
            self._progress = _bars(self.console)
            self._progress.start()
        task = self._progress.add_task(escape(name), total=total)
        try:
            yield lambda n: self._progress.advance(task, n)
        finally:
            self._progress.remove_task(task)
            if not self._progress.tasks:
                self._progress.stop()

    def line(self, text: str, mark: str = "", style: str = "") -> None:
        """Print a line of plain text above the bars.

        Args:
            text: the line; printed literally, without rich markup.
            mark: rich markup to print before it.
            style: rich style of the text.
        """
        body = f"[{style}]{escape(text)}[/]" if style else escape(text)
        self.console.print(f"{mark}{body}", soft_wrap=True)

    def stage(self, name: str, seconds: float, cached: bool, detail: str = "") -> None:
        """Print the line of a finished stage."""
        took = "from the store" if cached else f"{seconds:.1f} s"
        text = f"  [green]✓[/] {name:<12} [dim]{took:>15}[/]  {escape(detail)}"
        self.console.print(text, soft_wrap=True)
