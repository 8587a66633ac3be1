"""Check the words of the command line before Hydra does: name the nearest valid ones."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from pipelines.cli import quoting, strays

CONF = Path(__file__).parents[2] / "conf"
SEVERAL = re.compile(r"Ambiguous value for argument '(.*)'\n|Sweep parameters '(.*)' requires")
EXTRAS = {"joblib": "joblib", "submitit_local": "slurm", "submitit_slurm": "slurm"}  # of launchers


def check(words: Sequence[str], more: bool = False) -> None:
    """Every word must be `name=value`; `group=name` must name a file of that group.

    Args:
        words: without options.
        more: an option brings in other settings (--config-dir and the like), so that names and
            files which are not known here may be known there.

    Raises:
        ValueError: a word is something else; the nearest names are given.
    """
    for before, word in zip([None, *words], words, strict=False):
        if word.startswith("~"):
            continue
        if "=" not in word:
            raise ValueError(strays.told(word, before, CONF, _top_level()))
        if not more:
            _check_word(word)


def _check_word(word: str) -> None:
    key, _, value = word.lstrip("+").partition("=")
    group = key.split("@")[0]
    own = "." not in group and not group.startswith("hydra/")  # plugins bring files of theirs
    if not own or not (CONF / group).is_dir():
        return _check_key(group)
    if not any(sign in value for sign in "([{$"):  # choice(a,b), glob(*), ${...}
        for name in (part.strip(" '\"") for part in value.split(",")):
            if name == "null":  # of the defaults list, not of the command line
                raise ValueError(
                    f"{group}=null: leave {group}= out. Valid: {', '.join(_names(group))}"
                )
            if name and not (CONF / group / f"{name}.yaml").is_file():
                raise ValueError(_unknown(group, name))


def known(key: str) -> bool:
    """Whether there is a setting or a group of this name, or of what is before its first dot."""
    return key.split(".")[0].split("/")[0] in _top_level()


def several(text: str) -> str | None:
    """What to type, where Hydra says in `text` that one run got several values of a setting."""
    found = re.match(
        r"Ambiguous value for argument '(.*)'\n|Sweep parameters '(.*)' requires", text
    )
    if found is None:
        return None
    word = found[1] or found[2]
    name, _, value = word.partition("=")
    one_list = f"for one list {quoting.typed(f'{name}=[{value}]')}, " if found[1] else ""
    return (
        f"{word} gives several values: for a run of each of them add -m, {one_list}"
        f"for one text {quoting.typed(f'{name}={quoting.text(value)}')}"
    )


def missing_extra(text: str) -> str | None:
    """What to install, where Hydra says in `text` that it lacks the settings of a launcher."""
    for name, extra in EXTRAS.items():
        if f"hydra/launcher/{name}'" in text:
            return (
                f"hydra/launcher={name} is not installed: pip install 'obliq[{extra}]', or leave "
                "launcher= out to run one job after the other"
            )
    return None


def missing(key: str) -> str:
    """What to say about a setting that must be given and is not."""
    text = f"{key} has no value: give {key}=VALUE"
    files = sorted((CONF / key.split(".")[0]).glob("*.yaml"))
    wanting = [f for f in files if f"{key.split('.')[-1]}: ???" in f.read_text(encoding="utf-8")]
    first = wanting[0].read_text(encoding="utf-8").splitlines()[0] if wanting else ""
    return f"{text}. {first.removeprefix('# ')}" if first.startswith("# ") else text


def unknown_setting(key: str, known: Sequence[str]) -> str:
    """What to say about a setting that does not exist, among those `known` beside it."""
    parent, _, last = key.rpartition(".")
    names = [name for name in known if not name.startswith("_")]
    where = f" Settings of {parent}: {', '.join(sorted(names))}" if names and parent else ""
    return f"unknown setting {key!r}{_nearest(last, names)}{where}"


def _check_key(key: str) -> None:
    top, names = key.split(".")[0].split("/")[0], _top_level()
    if not known(key):
        raise ValueError(
            f"unknown setting {top!r}{_nearest(top, names)} Settings: {', '.join(names)}"
        )


def _top_level() -> list[str]:
    """The groups, and the keys at the left margin of run.yaml."""
    lines = (CONF / "run.yaml").read_text(encoding="utf-8").splitlines()
    keys = [line.split(":")[0] for line in lines if line[:1].isalpha() and ":" in line]
    groups = [folder.name for folder in CONF.iterdir() if folder.is_dir()]
    return sorted({*keys, *groups} - {"defaults", "__pycache__"})


def _names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def _unknown(group: str, name: str) -> str:
    names = _names(group)
    extra = ""
    if group == "model":
        extra = ". Any other timm network: model=timm model.name=NAME"
    return f"unknown {group} {name!r}{_nearest(name, names)} Valid: {', '.join(names)}{extra}"


def _nearest(name: str, known: Sequence[str]) -> str:
    near = get_close_matches(name, known, n=3, cutoff=0.4)
    return f": did you mean {' or '.join(near)}?" if near else "."
