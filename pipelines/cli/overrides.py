"""Check overrides before Hydra does, to suggest the nearest valid names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from pipelines.cli import quoting, strays

CONF = Path(__file__).parents[2] / "conf"
SEVERAL = re.compile(r"Ambiguous value for argument '(.*)'\n|Sweep parameters '(.*)' requires")
EXTRAS = {"joblib": "joblib", "submitit_local": "slurm", "submitit_slurm": "slurm"}  # by launcher


def check(overrides: Sequence[str], more: bool = False) -> None:
    """Check that every override is `name=value`, and that `group=name` names a file of the group.

    Args:
        overrides: the command line without options.
        more: --config-dir or a similar option adds configuration files, whose names are unknown
            here: check only the form.

    Raises:
        ValueError: an override is invalid; the message suggests the nearest names.
    """
    for before, override in zip([None, *overrides], overrides, strict=False):
        if override.startswith("~"):
            continue
        if "=" not in override:
            raise ValueError(strays.message(override, before, CONF, _top_level()))
        if not more:
            _check_name(override)


def _check_name(override: str) -> None:
    key, _, value = override.lstrip("+").partition("=")
    group = key.split("@")[0]
    own = "." not in group and not group.startswith("hydra/")  # plugins have files of their own
    if not own or not (CONF / group).is_dir():
        return _check_key(group)
    if not any(sign in value for sign in "([{$"):  # choice(a,b), glob(*), ${...}
        for name in (part.strip(" '\"") for part in value.split(",")):
            if name == "null":  # valid in a defaults list only
                raise ValueError(f"{group}=null: omit {group}=. Valid: {', '.join(_names(group))}")
            if name and not (CONF / group / f"{name}.yaml").is_file():
                raise ValueError(_unknown(group, name))


def known(key: str) -> bool:
    """Whether the part of `key` before its first dot is a top-level setting or a group."""
    return key.split(".")[0].split("/")[0] in _top_level()


def several(text: str) -> str | None:
    """What to type, if `text` is Hydra's error about several values for a single run; else None."""
    found = SEVERAL.match(text)
    if found is None:
        return None
    override = found[1] or found[2]
    name, _, value = override.partition("=")
    one_list = f"for one list {quoting.typed(f'{name}=[{value}]')}, " if found[1] else ""
    return (
        f"{override} has several values: for one run per value add -m, {one_list}"
        f"for one text {quoting.typed(f'{name}={quoting.text(value)}')}"
    )


def missing_extra(text: str) -> str | None:
    """What to install, if `text` is Hydra's error about a missing launcher; else None."""
    for name, extra in EXTRAS.items():
        if f"hydra/launcher/{name}'" in text:
            return (
                f"hydra/launcher={name} is not installed: pip install 'obliq[{extra}]', or omit "
                "launcher= to run one job after the other"
            )
    return None


def missing(key: str) -> str:
    """The message for a mandatory setting without a value."""
    text = f"{key} has no value: set {key}=VALUE"
    files = sorted((CONF / key.split(".")[0]).glob("*.yaml"))
    mandatory = [f for f in files if f"{key.split('.')[-1]}: ???" in f.read_text(encoding="utf-8")]
    first = mandatory[0].read_text(encoding="utf-8").splitlines()[0] if mandatory else ""
    return f"{text}. {first.removeprefix('# ')}" if first.startswith("# ") else text


def unknown_setting(key: str, known: Sequence[str]) -> str:
    """The message for a setting that does not exist; `known` are the others of its section."""
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
    """The configuration groups and the top-level keys of run.yaml."""
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
