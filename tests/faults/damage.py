"""Files of the store are cut off, overwritten, emptied, removed, or have one bit flipped."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.faults import stored
from tests.faults.points import Moment
from tests.faults.trials import Line, Unbroken

KINDS = ("tensors.safetensors", "record.json", "done.json")
UNFINISHED = {  # where there is a checkpoint: its files, and how far the run had come
    "Calibrate": ("Calibrate/*.partial/sums-*", 0.6),
    "allocate/MeasureChanges": ("MeasureChanges/*.partial/changes-*", 0.75),
    "TrainRounding": ("TrainRounding/*.partial/*.ckpt", 0.6),
}


def truncate(path: Path, draw: random.Random) -> None:
    """Keep a part of it."""
    content = path.read_bytes()
    path.write_bytes(content[: draw.randrange(max(len(content), 1))])


def flip(path: Path, draw: random.Random) -> None:
    """One bit of one byte."""
    content = bytearray(path.read_bytes())
    if content:
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def zeros(path: Path, draw: random.Random) -> None:
    """The end of it is zeros, as a power cut may leave it."""
    content = path.read_bytes()
    kept = content[: draw.randrange(max(len(content), 1))]
    path.write_bytes(kept + bytes(len(content) - len(kept)))


def empty(path: Path, draw: random.Random) -> None:
    """Nothing in it."""
    path.write_bytes(b"")


def remove(path: Path, draw: random.Random) -> None:
    """It is gone."""
    path.unlink()


def garbage(path: Path, draw: random.Random) -> None:
    """Something else in it."""
    path.write_bytes(draw.randbytes(max(64, path.stat().st_size)))


DAMAGES: tuple[Callable[[Path, random.Random], None], ...] = (
    truncate,
    flip,
    zeros,
    empty,
    remove,
    garbage,
)


def hurt(path: Path, damage: Callable[[Path, random.Random], None], draw: random.Random) -> str:
    """Damage a file; says what was done."""
    before = path.read_bytes()
    damage(path, draw)
    if path.exists() and path.read_bytes() == before:  # zeros over zeros
        flip(path, draw)
    return f"{damage.__name__} {path.parent.parent.name}/{path.name}"


def one_of_each(store: Path, draw: random.Random, only: Iterable[str] = ()) -> list[Path]:
    """An artifact of every stage, or of these."""
    stages = sorted(p for p in store.iterdir() if p.name in only or not only)
    folders = [sorted(p.parent for p in stage.glob("*/done.json")) for stage in stages]
    return [draw.choice(found) for found in folders if found]


def artifacts(unbroken: Unbroken, rounds: int, only: Iterable[str] = (), say=print) -> Line:
    """Each round damages a file of one artifact of every stage."""
    line = Line("a file of an artifact damaged")
    for number in range(rounds):
        draw = unbroken.random(f"damage {number}")
        store = unbroken.new_store(f"damage{number}", "*")
        chosen = one_of_each(store, draw, only)
        sound = stored.whole(store)
        done = {
            folder: hurt(
                folder / KINDS[(number + i) % 3], DAMAGES[(number + i // 3) % len(DAMAGES)], draw
            )
            for i, folder in enumerate(chosen)
        }
        before = {k: v for k, v in sound.items() if store / k not in chosen}
        ended = unbroken.runs.run(store)
        after = stored.whole(store)
        wrong = unbroken.wrong(ended, store)
        wrong += [f"{k} was computed again" for k, v in before.items() if after.get(k) != v]
        for folder, what in done.items():
            name = str(folder.relative_to(store))
            served = [f"{name} was taken as it was"] if after.get(name) == sound[name] else []
            line.add(what, wrong + served)
            say(f"  {what}: {wrong + served or 'recovered'}")
    line.repeated = "what was damaged"
    return line


def checkpoints(unbroken: Unbroken, damages=DAMAGES, say=print) -> Line:
    """A run is killed in the middle of a stage, and what it would go on from is damaged."""
    line = Line("partial sums or a checkpoint damaged")
    for where, (files, part) in UNFINISHED.items():
        at = Moment(where, round(part * unbroken.moments[where]))
        killed = unbroken.new_store("half", "TrainDigits")
        assert unbroken.runs.run(killed, at=at).status == -9
        for damage in damages:
            draw = unbroken.random(f"{where} {damage.__name__}")
            store = killed.with_name("half-damaged")
            shutil.rmtree(store, ignore_errors=True)
            shutil.copytree(killed, store)
            found = sorted(store.glob(files))
            assert found, f"no checkpoint of {where} at {at}"
            what = "; ".join(hurt(path, damage, draw) for path in found)
            wrong = unbroken.wrong(unbroken.runs.run(store), store)
            line.add(what, wrong)
            say(f"  {what}: {wrong or 'recovered'}")
    line.repeated = "the unfinished stage"
    return line


def locks(unbroken: Unbroken, say=print) -> Line:
    """Lock files with something in them, of processes that are gone, or removed."""
    line = Line("lock files damaged")
    for damage in (garbage, remove):
        draw = unbroken.random(f"locks {damage.__name__}")
        store = unbroken.new_store(f"locks-{damage.__name__}", "*")
        for folder in one_of_each(store, draw):
            shutil.rmtree(folder)
        for path in sorted(store.rglob("*.lock")):
            damage(path, draw)
        stale = store / "running" / "1-1.lock"
        stale.parent.mkdir(exist_ok=True)
        stale.write_bytes(draw.randbytes(99))
        wrong = unbroken.wrong(unbroken.runs.run(store), store)
        line.add(damage.__name__, wrong)
        say(f"  locks, {damage.__name__}: {wrong or 'recovered'}")
    line.repeated = "nothing"
    return line
