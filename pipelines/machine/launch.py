"""Several processes of one run: started together, watched, and ended together.

The process that a person started only watches. Where one of the others fails, the rest are ended,
whatever they wait for, and the first error is told. Nothing here needs torch.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

GRACE = 5.0  # seconds that a process has to end by itself
LATER = 1.0  # seconds in which the others may turn out to have failed first
INTERRUPTED = 130  # exit status, as shells have it
TOLD = 2000  # characters, at most, of what a process printed before it died


@dataclass(frozen=True)
class ProcessRank:
    """Which one of the processes of a run.

    Attributes:
        rank: 0 ... world - 1; 0 is the one that writes.
        world: how many there are.
        folder: of their own, for as long as they run; "" for a single one.
    """

    rank: int = 0
    world: int = 1
    folder: str = ""


class MemberError(Exception):
    """What one of the processes failed of.

    Attributes:
        trace: its traceback.
    """

    def __init__(self, text: str, trace: str = "") -> None:
        super().__init__(text)
        self.trace = trace


def together(processes: int, work: Callable[..., None], *args: Any) -> None:
    """Run work(place, *args) in so many new processes at once; all must be picklable.

    Raises:
        MemberError: the first error of any of them; `work` may raise one itself, with its own text.
        KeyboardInterrupt: this process, or one of them, was interrupted.
    """
    context = get_context("spawn")
    with TemporaryDirectory(prefix="obliq-") as folder:
        members = [
            context.Process(target=_member, args=(ProcessRank(rank, processes, folder), work, args))
            for rank in range(processes)
        ]
        try:
            with _deaf():  # they listen as soon as they can end without a word
                for member in members:
                    member.start()
            _watch(members, Path(folder))
        finally:
            _end(members)


def _watch(members: Sequence[Any], folder: Path) -> None:
    running = {member.sentinel: member for member in members}
    until = None
    while running:
        left = None if until is None else max(0.0, until - time.monotonic())
        ended = connection.wait(list(running), left)
        for sentinel in ended:
            running.pop(sentinel).join()
        if until is None and any(member.exitcode for member in members):
            until = time.monotonic() + LATER
        elif until is not None and not ended:
            break
    if until is not None:
        raise _cause(members, folder)


def _cause(members: Sequence[Any], folder: Path) -> BaseException:
    """What went wrong first: others may have failed because of it."""
    count = len(members)
    for rank, member in enumerate(members):
        if member.exitcode is not None and member.exitcode < 0:
            name = signal.Signals(-member.exitcode).name
            return MemberError(
                f"process {rank + 1} of {count} was ended by {name} (for want of memory, perhaps): "
                "take fewer processes, machine.devices=N, or smaller batches" + _said(folder, rank)
            )
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.failed")]
    if reports:
        first = min(reports, key=lambda report: report["time"])
        where = f"Process {first['rank'] + 1} of {count}\n"
        return MemberError(first["text"], where + first["trace"])
    if any(member.exitcode == INTERRUPTED for member in members):
        return KeyboardInterrupt()
    rank, status = next((i, m.exitcode) for i, m in enumerate(members) if m.exitcode)
    said = _said(folder, rank)
    return MemberError(f"process {rank + 1} of {count} ended with status {status}{said}")


def _said(folder: Path, rank: int) -> str:
    """The end of what a process printed that has no screen."""
    with suppress(OSError):
        text = (folder / f"{rank}.output").read_text(encoding="utf-8", errors="replace").strip()
        return f". It said: {text[-TOLD:]}" if text else ""
    return ""


def _end(members: Sequence[Any]) -> None:
    started = [member for member in members if member.pid is not None]
    for member in started:
        if member.is_alive():
            with suppress(ProcessLookupError):
                os.kill(member.pid, signal.SIGINT)
    until = time.monotonic() + GRACE
    for member in started:
        member.join(max(0.0, until - time.monotonic()))
        if member.is_alive():
            member.kill()
            member.join()


def _member(place: ProcessRank, work: Callable[..., None], args: Sequence[Any]) -> None:
    """One of the processes, from its start to its end."""
    signal.signal(signal.SIGINT, _interrupt_once)
    _follow_parent()
    if place.rank:
        _silence(Path(place.folder) / f"{place.rank}.output")
    status = 0
    try:
        work(place, *args)
    except KeyboardInterrupt:
        status = INTERRUPTED
    except BaseException as err:
        _report(place, err)
        status = 1
    if status:
        os._exit(status)  # at once: what is left to tidy up may wait for other processes


def _report(place: ProcessRank, err: BaseException) -> None:
    trace = err.trace if isinstance(err, MemberError) else ""
    trace = trace or "".join(traceback.format_exception(err))
    text = str(err) if isinstance(err, MemberError) else f"{type(err).__name__}: {err}"
    report = {"rank": place.rank, "time": time.time(), "text": text, "trace": trace}
    path = Path(place.folder) / f"{place.rank}.failed"
    with suppress(OSError):  # then the exit status must do
        path.with_suffix(".new").write_text(json.dumps(report), encoding="utf-8")
        path.with_suffix(".new").replace(path)


def _interrupt_once(number: int, frame: object) -> None:
    """A terminal sends its Ctrl-C to all processes, and the watching one sends another."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _follow_parent() -> None:
    """End soon after the watching process, however that ends."""
    parent = parent_process()

    def wait() -> None:
        if parent is not None:
            connection.wait([parent.sentinel])
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(GRACE)
            os._exit(INTERRUPTED)

    threading.Thread(target=wait, daemon=True).start()


def _silence(path: Path) -> None:
    """Send what this process prints to a file: warnings, say, that the first one prints too."""
    with path.open("wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)


@contextmanager
def _deaf() -> Iterator[None]:
    """Ctrl-C does nothing meanwhile, nor in a process started meanwhile until it asks for it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
