"""The code that a result depends on: which edit changes its key, and which does not."""

from __future__ import annotations

import importlib
import itertools
import sys
import zipfile

import pytest

from pipelines.store import code

# A user's package, and a file beside it: who imports whom, in every way there is.
FILES = {
    "zoo/__init__.py": "",
    "zoo/stage.py": '"""A stage."""\nfrom . import near\nfrom .near import f\nimport zoo.dotted\n',
    "zoo/near.py": "from .deep import thing\ndef f(x):\n    return x + thing\n",
    "zoo/deep/__init__.py": "from .. import above\nthing = 1\n",
    "zoo/above.py": "y = 1\n",
    "zoo/dotted.py": "def g():\n    from zoo import late\n    import importlib\n"
    "    importlib.import_module('zoo.named')\n    importlib.import_module('.relative', 'zoo')\n"
    "    return late\n",
    "zoo/late.py": "z = 1\n",
    "zoo/named.py": "z = 1\n",
    "zoo/relative.py": "from zoo.star import *\n",
    "zoo/star.py": "import beside\n",
    "beside.py": "q = 1\n",
    "zoo/stranger.py": "s = 1\n",
}


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """Write files over FILES, and give the closure of zoo.stage."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def closure(changed=None):
        for name, text in {**FILES, **(changed or {})}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        for name in [n for n in sys.modules if n.partition(".")[0] in ("zoo", "beside")]:
            monkeypatch.delitem(sys.modules, name)
        importlib.invalidate_caches()
        code.forget()
        return code.closure(["zoo.stage"])

    yield closure
    code.forget()


REACHED = [name for name in FILES if name != "zoo/stranger.py"]


@pytest.mark.parametrize("name", REACHED)
def test_an_edit_of_any_module_that_can_be_reached_is_seen(zoo, name):
    before = zoo()
    assert before == zoo()
    after = zoo({name: FILES[name] + "edited = 1\n"})
    assert before != after
    module = name.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    assert before[module] != after[module]


def test_an_edit_of_a_module_that_nobody_imports_is_none(zoo):
    assert zoo() == zoo({"zoo/stranger.py": "s = 2\n"})


@pytest.mark.parametrize(
    "text",
    [
        '"""Another text."""\nfrom . import near\nfrom .near import f\nimport zoo.dotted\n',
        "from . import near  # a remark\n\n\nfrom .near import (\n    f,\n)\nimport zoo.dotted\n",
    ],
)
def test_comments_docstrings_and_formatting_are_not_code(zoo, text):
    assert zoo() == zoo({"zoo/stage.py": text})


def test_an_added_import_brings_in_what_it_imports(zoo):
    assert "zoo.stranger" not in zoo()
    assert "zoo.stranger" in zoo({"zoo/star.py": "import zoo.stranger\n"})


def test_libraries_count_by_version_and_the_standard_library_by_pythons(zoo):
    found = zoo({"zoo/star.py": "import json, PIL.Image\nfrom numpy import linalg\n"})
    assert {"python", "dist pillow", "dist numpy"} <= set(found)
    assert not {"json", "PIL", "PIL.Image", "numpy"} & set(found)
    assert found["dist numpy"].startswith(importlib.metadata.version("numpy"))


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install the distribution Plug-In with a module plug_in: (version, source) -> closure."""
    site = tmp_path / "site-packages"
    number = itertools.count()

    def install(version="1.0", source="a = 1\n", checksum="x", named="plug_in"):
        info = site / "Plug_In-1.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        (site / "plug_in.py").write_text(source)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: Plug-In\nVersion: {version}\n"
        )
        (info / "top_level.txt").write_text("plug_in\n")
        (info / "RECORD").write_text(
            f"plug_in.py,sha256={checksum},5\nPlug_In-1.dist-info/INSTALLER,sha256={next(number)},1\n"
        )
        monkeypatch.delitem(sys.modules, "plug_in", raising=False)
        importlib.invalidate_caches()
        code.forget()
        return code.closure([named])

    monkeypatch.syspath_prepend(site)
    yield install
    code.forget()


def test_another_version_or_other_files_of_a_distribution_are_seen(installed, tmp_path):
    (tmp_path / "site-packages" / "user_of_plug.py").parent.mkdir(exist_ok=True)
    before = installed()
    assert before["dist plug-in"].startswith("1.0 ")
    assert installed() == before, "who installed it moves nothing"
    assert installed(version="1.1") != before
    assert installed(checksum="y") != before, "installed again from other source, same version"
    assert installed(source="a = 2\n") != before, "named directly, and edited in place"


def test_a_compiled_module_counts_by_its_bytes(zoo, tmp_path):
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    before = zoo({"zoo/star.py": "import compiled\n", f"compiled{suffix}": "\x00one"})
    after = zoo({"zoo/star.py": "import compiled\n", f"compiled{suffix}": "\x00two"})
    assert before["compiled"] != after["compiled"]


def test_a_module_inside_an_archive_is_read(tmp_path, monkeypatch):
    def closure(source):
        archive = tmp_path / f"{len(source)}.zip"
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("zipped.py", source)
        monkeypatch.syspath_prepend(archive)
        monkeypatch.delitem(sys.modules, "zipped", raising=False)
        code.forget()
        return code.closure(["zipped"])

    assert closure("a = 1\n")["zipped"] != closure("a = 22\n")["zipped"]


def test_stages_of_ours_are_followed_to_the_mathematics():
    found = code.closure(["pipelines.stages.solving.solve", "quant.methods.gptq"])
    assert {"quant.elimination", "quant.problem", "quant.grid", "dist torch"} <= set(found)
    assert "quant.methods.obq" not in found


def test_of_what_a_distribution_requires_that_counts_which_is_compiled():
    found = code.closure(["torchvision"])
    assert {"dist torchvision", "dist torch", "dist numpy", "dist pillow"} <= set(found)
    assert "dist requests" not in found and "dist typing-extensions" not in found


def test_code_is_read_once_in_a_process(zoo, tmp_path):
    before = zoo()
    (tmp_path / "zoo" / "late.py").write_text("z = 2\n")
    assert code.closure(["zoo.dotted"])["zoo.late"] == before["zoo.late"], "it runs the old one"
    code.forget()
    assert code.closure(["zoo.dotted"])["zoo.late"] != before["zoo.late"]


def test_the_users_own_modules_are_told_with_their_files(zoo, tmp_path):
    zoo()
    found = code.own(["zoo.stage", "quant.grid", "torch"])
    assert found["beside"] == tmp_path / "beside.py"
    assert {name.partition(".")[0] for name in found} == {"zoo", "beside"}


@pytest.mark.parametrize(
    ("top", "name"), [("PIL", "pillow"), ("sklearn", "scikit-learn"), ("torch", "torch")]
)
def test_the_distribution_of_a_package_is_found_whatever_it_is_called(top, name):
    assert code._installed(top) == name


def test_what_is_imported_for_types_alone_never_runs(zoo):
    block = "if typing.TYPE_CHECKING:\n    import zoo.stranger\n"
    assert "zoo.stranger" not in zoo({"zoo/star.py": f"import typing\n{block}"})
    assert "zoo.stranger" in zoo({"zoo/star.py": f"import typing\n{block}else:\n    y = 1\n"})
