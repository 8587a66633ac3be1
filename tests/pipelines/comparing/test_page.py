"""The page of many runs in a browser, without a network."""

import json
import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipelines.comparing import discovery, page

EXAMPLE = json.loads((Path(__file__).parents[1] / "example_results.json").read_text())
HOSTILE = "<script>document.title='ran'</script><img src=x onerror=\"document.title='ran'\">$x_{$\\"
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def write(folder, **changes):
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(EXAMPLE | changes))


def made(tmp_path):
    """The page of all runs in the folder."""
    path = tmp_path / "page.html"
    page.write(discovery.find([tmp_path]), path)
    return path


@pytest.fixture
def browse(tmp_path):
    """browse(page, script) -> the page's elements after its scripts, and then this one, have run.

    With a script the page's policy is taken off, which would not let it run.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("no Chromium is installed")

    def elements(path, script=None):
        if script is not None:
            text = POLICY.sub("", path.read_text())
            path = tmp_path / "driven.html"
            path.write_text(text.replace("</body>", f"<script>{script}</script></body>"))
        done = subprocess.run(
            [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
             f"--user-data-dir={tmp_path / 'profile'}", path.as_uri()],
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert "<html" in done.stdout, done.stderr
        return done.stdout

    return elements


def column(dom, table, index):
    """Texts of one column of the table with a class or id."""
    (body,) = re.findall(rf'<table[^>]*"{table}[ "].*?<tbody>(.*?)</tbody>', dom, re.DOTALL)
    rows = re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL)
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL) for row in rows]
    return [unescape(re.sub("<[^>]*>", "", row[index])) for row in cells]


class Addresses(HTMLParser):
    """Everything that a browser would fetch, or a reader could click on."""

    def __init__(self):
        super().__init__()
        self.loaded, self.links = [], []

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "data", "action", "srcset"):
                (self.links if tag == "a" else self.loaded).append(value)


def test_nothing_is_loaded_from_anywhere(tmp_path):
    write(tmp_path / "a")
    (tmp_path / "a" / "report.html").write_text("a report")
    text = made(tmp_path).read_text()
    found = Addresses()
    found.feed(text)
    assert all(address.startswith("#") for address in found.loaded)
    assert found.links == ["a/report.html"]
    assert not re.search(r"@import|url\((?!#)", text)
    assert "default-src 'none'" in text


def test_a_folder_named_like_a_script_is_a_link_to_a_folder(tmp_path):
    write(tmp_path / "javascript:alert(1)//")
    (tmp_path / "javascript:alert(1)" / "report.html").write_text("a report")
    found = Addresses()
    found.feed(made(tmp_path).read_text())
    assert found.links == ["javascript%3Aalert%281%29/report.html"]


def test_no_string_of_the_results_reaches_the_page_as_markup(tmp_path, browse):
    strings = dict.fromkeys(("model", "data", "method", "inputs", "experiment"), HOSTILE)
    metrics = {HOSTILE: 80.0}
    layer = EXAMPLE["layers"][0] | {"name": HOSTILE + "</script><script>document.title='ran'"}
    write(tmp_path / "a", **strings, metric=HOSTILE, float=metrics, quantized=metrics,
          command=[f"x={HOSTILE}"], layers=[layer], baseline={"method": HOSTILE})  # fmt: skip
    write(tmp_path / "b", **strings | {"method": "rtn"}, metric=HOSTILE, float=metrics,
          quantized=metrics, layers=[layer])  # fmt: skip
    (tmp_path / "failed").mkdir()
    (tmp_path / "failed" / "error.log").write_text(HOSTILE)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "results.json").write_text(json.dumps(EXAMPLE | {"speedup": HOSTILE}))
    path = made(tmp_path)
    for dom in (browse(path), browse(path, "")):  # the second time without the policy's help
        assert "<title>Quantized runs: " in dom and "<title>ran" not in dom
        assert "<img" not in dom
        assert column(dom, "compared", 0) == [layer["name"]]


def test_a_click_on_a_column_sorts_by_its_value_missing_last(tmp_path, browse):
    for name, speedup in (("a", 9.5), ("b", 1234.0), ("c", None), ("d", 100.0)):
        write(tmp_path / name, speedup=speedup, seed=ord(name))
    path = made(tmp_path)
    heads = "[...document.querySelectorAll('.runs th')]"
    press = f"{heads}.find(h => h.textContent == 'speed-up').firstChild.click();"
    head = re.findall(r"<th[^>]*>(.*?)</th>", path.read_text())
    at = head.index("speed-up")
    assert column(browse(path, ""), "runs", at) == ["~9.5×", "~1,234×", "–", "~100×"]
    assert column(browse(path, press), "runs", at) == ["~9.5×", "~100×", "~1,234×", "–"]
    assert column(browse(path, press + press), "runs", at) == ["~1,234×", "~100×", "~9.5×", "–"]


def test_two_runs_chosen_on_the_page_are_compared_by_layer(tmp_path, browse):
    first, second = EXAMPLE["layers"][:2]
    write(tmp_path / "a", method="x", layers=[first | {"loss": 2.0}, second | {"loss": 5.0}])
    write(tmp_path / "b", method="y", layers=[first | {"loss": 1.0}, second | {"loss": 5.0}])
    write(tmp_path / "c", method="z", layers=[first | {"loss": 3.0, "name": "other"}])
    path = made(tmp_path)
    dom = browse(path)  # with the policy, which must let the page's own script run
    assert column(dom, "compared", 0) == [first["name"], second["name"]]
    assert column(dom, "compared", 6) == ["0.5", "1"]
    assert "B's layer loss is 0.707 times A's (geometric mean over 2 layers)" in dom
    choose = "const b = document.getElementById('second'); b.value = 2;"
    dom = browse(path, choose + "b.dispatchEvent(new Event('change'));")
    assert column(dom, "compared", 0) == [first["name"], second["name"], "other"]
    assert column(dom, "compared", 5) == ["–", "–", "3"]
    assert "These two runs have no layer in common." in dom


def test_runs_without_results_stand_on_the_page_with_the_reason(tmp_path):
    write(tmp_path / "a")
    (tmp_path / "b" / "config").mkdir(parents=True)
    (tmp_path / "b" / "config" / "hydra.yaml").write_text("hydra: {overrides: {task: [bits=3]}}")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "results.json").write_text("{}")
    text = made(tmp_path).read_text()
    assert "3 runs: 1 done, 1 started, 1 damaged" in text
    for said in ("bits=3", "still running, or was stopped", "lacks model, method, float"):
        assert said in text


def test_a_page_without_any_results_is_a_page(tmp_path, browse):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "error.log").write_text("ValueError: no")
    dom = browse(made(tmp_path))
    assert "No run has results." in dom and "ValueError: no" in dom
