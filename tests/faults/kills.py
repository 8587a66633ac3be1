"""SIGKILL at any moment, then the same command again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.faults import stored
from tests.faults.points import Moment
from tests.faults.runs import Ended
from tests.faults.trials import RESUMING, Line, Unbroken, batches, begun

DELAY = 0.05  # seconds after a moment, at most: stages take about so long here


@dataclass
class Repeated:
    """What was computed more than once, at most, over all trials."""

    stages: int = 0
    batches: int = 0

    def __str__(self) -> str:
        return f"{self.stages} unfinished stage or layer, {self.batches} batches of it"


def moments(unbroken: Unbroken, count: int) -> list[Moment]:
    """So many random moments; every place has its turn before one has a second."""
    draw = unbroken.random("kills")
    found: list[Moment] = []
    while len(found) < count:
        places = sorted(unbroken.moments.items())
        draw.shuffle(places)
        for where, number in places[: count - len(found)]:
            delay = draw.choice([0.0, draw.uniform(0, DELAY)])
            found.append(Moment(where, draw.randint(1, number), delay))
    return found


def seeds(moment: Moment) -> tuple[str, ...]:
    """Stages that need not be computed for a run to get to this moment."""
    return () if moment.where in ("start", "prepare", "prepare/TrainDigits") else ("TrainDigits",)


def strike(unbroken: Unbroken, moment: Moment, store: Path, folder: Path | None = None) -> Ended:
    """A run that is killed there; without the delay if it has ended before."""
    ended = unbroken.runs.run(store, folder=folder, at=moment)
    if ended.status == 0:
        ended = unbroken.runs.run(store, folder=folder, at=Moment(moment.where, moment.number))
    return ended


def trial(unbroken: Unbroken, moment: Moment, name: str, repeated: Repeated) -> list[str]:
    """What is wrong after a kill and the same command again."""
    store = unbroken.new_store(name, *seeds(moment))
    killed = strike(unbroken, moment, store)
    if killed.status != -9:
        return [f"was not killed: status {killed.status} {killed.text[-300:]}"]
    survived = stored.whole(store)
    again = unbroken.runs.run(store, folder=Path(killed.request.folder))
    wrong = unbroken.wrong(again, store)
    after = stored.whole(store)
    wrong += [f"{k} was computed again" for k, v in survived.items() if after.get(k) != v]
    once = begun(unbroken.ended)
    if seeds(moment):
        del once["prepare/TrainDigits"]
    twice = begun(killed, again) - once
    stages = sum(n for where, n in twice.items() if where.split("/")[-1][0].isupper())
    repeated.stages = max(repeated.stages, stages)
    wrong += [f"begun again: {dict(twice)}"] if stages > 1 else []
    for where, most in RESUMING.items():
        more = batches(where, killed, again) - batches(where, unbroken.ended)
        repeated.batches = max(repeated.batches, more)
        wrong += [f"{more} batches of {where} again"] if more > most else []
    return wrong


def many(unbroken: Unbroken, count: int, say=print) -> Line:
    """The line of the table."""
    line, repeated = Line("SIGKILL at a random moment"), Repeated()
    for number, moment in enumerate(moments(unbroken, count)):
        wrong = trial(unbroken, moment, f"kill{number}", repeated)
        name = f"{moment.where} {moment.number}/{unbroken.moments[moment.where]}"
        line.add(f"{name} +{1000 * moment.delay:.0f} ms", wrong)
        say(f"  killed at {name} +{1000 * moment.delay:.0f} ms: {wrong or 'recovered'}")
    line.repeated = str(repeated)
    return line
