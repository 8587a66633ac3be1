"""Values as users type them, read by Hydra's own parser."""

from __future__ import annotations

import re
import shlex

import pytest

from pipelines.cli.quoting import quoted, text, typed
from pipelines.run import _fault


def value(word):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_override(word).value()


@pytest.mark.parametrize(
    "given",
    [
        "/my/photos (2024)/val",
        "a=b.pt",
        "why (try 2)",
        "~/photos",
        "/data/Müller & Söhne/#1!",
        "it's",
        'say "no"',
        """it's "both" """.strip(),
        r"C:\my photos (2)",
        "(ends in a backslash)\\",
        r"a\'b (c)",
        r"""both " and \' and \\' (d)""",
        "{braces}/[brackets]",
        "f(x)",
        "50 % (of 2;3)",
        "two\nlines",
    ],
)
def test_a_value_arrives_as_it_was_typed(given):
    (word,) = quoted([f"tracking.notes={given}"], _fault)
    assert value(word) == given
    assert quoted([word], _fault) == [word], "what is quoted already stays"
    assert value(f"x={text(given)}") == given


@pytest.mark.parametrize(
    "word",
    [
        "bits=3",
        "bits=2,3",
        "bits=choice(2,3)",
        "damping=tag(log,interval(0.001,0.1))",
        "data.root=/a b/c.d",
        "tags=[a b,c]",
        "+precision.overrides={layer1.0.conv1: 8}",
        "model.checkpoint=null",
        "data.root=",
        "~tags",
        "x=${seed}",
        "note='a (b)'",
    ],
)
def test_what_hydra_can_read_is_left_alone(word):
    assert quoted([word], _fault) == [word]


def test_elements_of_a_list_are_quoted_one_by_one():
    (word,) = quoted(["tags=[why (2),b,c=d]"], _fault)
    assert value(word) == ["why (2)", "b", "c=d"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["data.root=/a (1),/b"], """One text: "data.root='/a (1),/b'". Several"""),
        (["data.root=/a (1),/b"], """-m "data.root='/a (1)',/b\""""),
        (["tags=[a", "b=[c]"], 'lacks its ]: a space ends an argument. Type "tags=[a b=[c]"'),
        (["tags=[a"], 'lacks its ]: a space ends an argument. Type "tags=[a]"'),
        (["bits=choice(2,3"], """If it is text, type "bits='choice(2,3'\""""),
        (["x='a"], """If it is text, type "x='a'\""""),
        (["x={a: (}"], "x={a: (} cannot be read"),
        (["precision.overrides.a/b=8"], "is no name of a setting"),
    ],
)
def test_what_could_mean_two_things_is_not_guessed(words, expected):
    with pytest.raises(ValueError, match=re.escape(expected)) as caught:
        quoted(words, _fault)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("word", ["x='a (b)'", "x=$HOME (1)", 'x="a"', "x=`a`", "x=a!"])
def test_what_one_is_told_to_type_is_this_word_in_a_shell(word):
    assert shlex.split(typed(word)) == [word]
