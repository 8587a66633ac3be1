"""Start, watch and end the processes of a run.

The process that the user started only watches. If another one fails, the rest are ended, whatever
they wait for, and the first error is raised. Nothing here needs torch.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipelines.machine import clock

GRACE = 5.0  # seconds that a process has to end by itself
SETTLE = 1.0  # seconds to wait for other failures, one of which may be the cause
INTERRUPTED = 130  # exit status after SIGINT, as in shells
OUTPUT_CHARS = 2000  # how much of a dead process's output to show


@dataclass(frozen=True)
class ProcessRank:
    """One of the processes of a run.

    Attributes:
        rank: 0 ... world - 1; rank 0 writes the results.
        world: number of processes.
        folder: temporary folder that the processes share; "" for a single process.
    """

    rank: int = 0
    world: int = 1
    folder: str = ""


class MemberError(Exception):
    """The failure of one of the processes.

    Attributes:
        trace: the traceback of that process.
    """

    def __init__(self, text: str, trace: str = "") -> None:
        super().__init__(text)
        self.trace = trace


def spawn(processes: int, work: Callable[..., None], *args: Any) -> None:
    """Run work(process, *args) in new processes; `work` and `args` must be picklable.

    Raises:
        MemberError: the first error of any process; `work` may raise one with a text of its own.
        KeyboardInterrupt: this process or one of the new ones was interrupted.
    """
    context = get_context("spawn")
    with TemporaryDirectory(prefix="obliq-") as folder:
        members = [
            context.Process(target=_member, args=(ProcessRank(rank, processes, folder), work, args))
            for rank in range(processes)
        ]
        try:
            with _sigint_ignored():  # the members handle it once they can end without a traceback
                for member in members:
                    member.start()
            _watch(members, Path(folder))
        finally:
            _end(members)


def _watch(members: Sequence[Any], folder: Path) -> None:
    running = {member.sentinel: member for member in members}
    until = None
    while running:
        left = None if until is None else max(0.0, until - clock.seconds())
        ended = connection.wait(list(running), left)
        for sentinel in ended:
            running.pop(sentinel).join()
        if until is None and any(member.exitcode for member in members):
            until = clock.seconds() + SETTLE
        elif until is not None and not ended:
            break
    if until is not None:
        raise _cause(members, folder)


def _cause(members: Sequence[Any], folder: Path) -> BaseException:
    """The first failure, which may have caused the others."""
    count = len(members)
    for rank, member in enumerate(members):
        if member.exitcode is not None and member.exitcode < 0:
            name = signal.Signals(-member.exitcode).name
            return MemberError(
                f"process {rank + 1} of {count} was killed by {name}, possibly for lack of memory: "
                "use fewer processes (machine.devices=N) or smaller batches"
                + _last_output(folder, rank)
            )
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.failed")]
    if reports:
        first = min(reports, key=lambda report: report["time"])
        where = f"Process {first['rank'] + 1} of {count}\n"
        return MemberError(first["text"], where + first["trace"])
    if any(member.exitcode == INTERRUPTED for member in members):
        return KeyboardInterrupt()
    rank, status = next((i, m.exitcode) for i, m in enumerate(members) if m.exitcode)
    output = _last_output(folder, rank)
    return MemberError(f"process {rank + 1} of {count} ended with status {status}{output}")


def _last_output(folder: Path, rank: int) -> str:
    """The end of a process's redirected output."""
    with suppress(OSError):
        text = (folder / f"{rank}.output").read_text(encoding="utf-8", errors="replace").strip()
        return f". Its output: {text[-OUTPUT_CHARS:]}" if text else ""
    return ""


def _end(members: Sequence[Any]) -> None:
    started = [member for member in members if member.pid is not None]
    for member in started:
        if member.is_alive():
            with suppress(ProcessLookupError):
                os.kill(member.pid, signal.SIGINT)
    until = clock.seconds() + GRACE
    for member in started:
        member.join(max(0.0, until - clock.seconds()))
        if member.is_alive():
            member.kill()
            member.join()


def _member(process: ProcessRank, work: Callable[..., None], args: Sequence[Any]) -> None:
    """The main function of a process."""
    signal.signal(signal.SIGINT, _interrupt_once)
    _follow_parent()
    if process.rank:
        _redirect_output(Path(process.folder) / f"{process.rank}.output")
    status = 0
    try:
        work(process, *args)
    except KeyboardInterrupt:
        status = INTERRUPTED
    except BaseException as err:
        _report(process, err)
        status = 1
    if status:
        os._exit(status)  # at once: cleanup may wait for other processes


def _report(process: ProcessRank, err: BaseException) -> None:
    trace = err.trace if isinstance(err, MemberError) else ""
    trace = trace or "".join(traceback.format_exception(err))
    text = str(err) if isinstance(err, MemberError) else f"{type(err).__name__}: {err}"
    report = {"rank": process.rank, "time": clock.now(), "text": text, "trace": trace}
    path = Path(process.folder) / f"{process.rank}.failed"
    with suppress(OSError):  # the exit status remains
        path.with_suffix(".new").write_text(json.dumps(report), encoding="utf-8")
        path.with_suffix(".new").replace(path)


def _interrupt_once(number: int, frame: object) -> None:
    """Handle only the first SIGINT: the terminal sends one, the watching process another."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _follow_parent() -> None:
    """End when the watching process ends, however it does."""
    parent = parent_process()

    def wait() -> None:
        if parent is not None:
            connection.wait([parent.sentinel])
            os.kill(os.getpid(), signal.SIGINT)
            clock.sleep(GRACE)
            os._exit(INTERRUPTED)

    threading.Thread(target=wait, daemon=True).start()


def _redirect_output(path: Path) -> None:
    """Redirect this process's output to a file, such as warnings that rank 0 prints too."""
    with path.open("wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)


@contextmanager
def _sigint_ignored() -> Iterator[None]:
    """Ignore SIGINT within this context; processes started in it inherit that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
