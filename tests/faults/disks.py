"""The disk of the store or of the output folder gets full, or can no longer be written."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.faults.points import Moment
from tests.faults.runs import Ended
from tests.faults.trials import Line, Unbroken

SIZE = "400m"  # more than preflight asks to be free
PLACES = {  # moment as a part of its place, and the folder that it befalls
    "start": ("start", 0.0, "out"),
    "calibration": ("Calibrate", 0.6, "store"),
    "a layer's solve": ("quantize/SolveLayer", 0.5, "store"),
    "training": ("TrainRounding", 0.6, "store"),
    "training, output folder": ("TrainRounding", 0.6, "out"),
    "report": ("report", 0.4, "out"),
}


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of its own.

    Raises:
        PermissionError: mounting is not allowed here.
    """
    folder.mkdir(parents=True)
    _mount("-t", "tmpfs", "-o", f"size={SIZE}", "none", str(folder))
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


@contextmanager
def full(folder: Path) -> Iterator[None]:
    """Not a byte is left."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(folder).free)
        while True:
            file.write(bytes(4096))
    try:
        yield
    finally:
        filler.unlink()


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nothing can be written; files that are open already can."""
    _mount("--bind", str(folder), str(folder))
    try:
        _mount("-o", "remount,ro,bind", str(folder))
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


FAULTS = {"disk full": full, "folder read-only": read_only}
SAID = {
    "disk full": ("no space left", "is full"),
    "folder read-only": ("cannot write", "cannot be written", "read-only"),
}


def each(unbroken: Unbroken, fault: str, places=tuple(PLACES), say=print) -> Line:
    """The fault at each of these moments; afterwards the same command again."""
    line = Line(fault)
    try:
        for name in places:
            wrong = trial(unbroken, fault, *PLACES[name])
            line.add(name, wrong)
            say(f"  {fault}, {name}: {wrong or 'recovered'}")
    except PermissionError as err:
        line.skipped = str(err)
    line.repeated = "the unfinished stage or layer"
    return line


def trial(unbroken: Unbroken, fault: str, where: str, part: float, which: str) -> list[str]:
    """What is wrong with the error, and with what comes after it."""
    name = f"{fault}-{where}-{which}".replace(" ", "-").replace("/", "-")
    disk = unbroken.folder / "disk"
    shutil.rmtree(disk, ignore_errors=True)
    at = Moment(where, max(1, round(part * unbroken.moments[where])))
    with small_disk(disk):
        store, out = unbroken.new_store(name, "TrainDigits"), unbroken.folder / f"{name}-out"
        if which == "out":
            out = disk / "out"
        else:
            store = shutil.copytree(store, disk / "store")
        run = unbroken.runs.start(store, folder=out, at=at, do="stop")
        if not run.wait_until_stopped():
            return [f"ended before {at}: {run.wait().text[-300:]}"]
        with FAULTS[fault](disk):
            os.kill(run.pid, signal.SIGCONT)
            wrong = complaints(run.wait(), SAID[fault], [disk, store, out])
        again = unbroken.runs.run(store, folder=out)
        return wrong + unbroken.wrong(again, store)


def complaints(ended: Ended, said: tuple[str, ...], folders: list[Path]) -> list[str]:
    """What is missing from a clear message."""
    found = [] if ended.status > 0 else [f"status {ended.status}"]
    found += ["a traceback"] if "Traceback" in ended.text else []
    lines = [line for line in ended.text.splitlines() if line.startswith("✗")]
    clear = [line for line in lines if any(word in line.lower() for word in said)]
    places = [*map(str, folders), "the output folder"]
    named = [line for line in clear if any(place in line for place in places)]
    if not named or not any(word in " ".join(named) for word in ("OBLIQ_CACHE", "hydra.run.dir")):
        found.append(f"does not say what, where and what to do: {ended.text[-600:]!r}")
    return found


def _mount(*words: str) -> None:
    try:
        done = subprocess.run(["mount", *words], capture_output=True, text=True)
    except FileNotFoundError:
        raise PermissionError("there is no mount command") from None
    if done.returncode:
        raise PermissionError(f"mounting is not allowed here ({done.stderr.strip()})")
