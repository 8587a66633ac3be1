"""Figures in the report's style, and their output as SVG (for files and pages) or pixels.

pyplot is not used: no global state, no display. Colours are legible on white and near-black; on a
page, `INK` becomes the text colour and `PAPER` transparent. A figure is laid out once and rendered
by its backends directly, since `savefig` repeats the layout and draws twice for each file.
"""

from __future__ import annotations

import io
import math
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
from PIL import Image

INK = "#010203"  # placeholder for the page's text colour
PAPER = "#fdfeff"  # placeholder for the page's background
METHOD, BASELINE, RTN = "#2f86d6", "#e07b39", "#8a8f98"
WIDTH = 9.0  # inches
DPI = 130  # resolution of raster output
ROW = 0.23  # inches per layer
LONGEST = 34  # maximum characters of a layer's name at its row
STYLE = {
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.left": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "grid.color": RTN,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.8,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "obliq",
    "path.simplify": True,
}
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def style() -> AbstractContextManager[None]:
    """Context in which matplotlib uses the report's style."""
    context: AbstractContextManager[None] = matplotlib.rc_context(STYLE)
    return context


def blank(height: float, width: float = WIDTH) -> Figure:
    """An empty figure; height and width in inches."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Label the rows of a plot with names, the first at the top, and add a vertical grid."""
    axes.set_yticks(range(len(names)), short(names))
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="x")
    axes.set_axisbelow(True)


def plain_log_ticks(axis: Axis, low: float, high: float) -> None:
    """A few ticks per decade of a log axis with plain labels: 0.2 rather than 2 x 10^-1."""
    span = np.log10(high / low)
    steps = (1, 1.5, 2, 3, 4, 5, 7) if span < 1 else (1, 2, 5) if span < 3 else (1,)
    decades = range(int(np.floor(np.log10(low))) - 1, int(np.ceil(np.log10(high))) + 1)
    ticks = [m * 10.0**d for d in decades for m in steps]
    ticks = [tick for tick in ticks if low / 1.1 <= tick <= high * 1.1]
    if len(ticks) < 3:  # a narrow range gets evenly spaced ticks
        even = MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        ticks = [float(tick) for tick in even if low <= tick <= high] or [low, high]
    axis.set_ticks(ticks, [f"{tick:.4g}" for tick in ticks])
    axis.set_minor_locator(NullLocator())


def powers(axis: Axis) -> None:
    """Label powers of ten with Unicode superscripts: mathtext would double the time of a layout."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: _power(value)))
    axis.set_minor_locator(NullLocator())


def _power(value: float) -> str:
    exponent = math.log10(value) if value > 0 else 0.5  # not a power of ten
    whole = round(exponent)
    if abs(exponent - whole) > 1e-9:
        return f"{value:.4g}"
    return f"10{str(whole).translate(RAISED)}"


def short(names: Sequence[str]) -> list[str]:
    """Names of layers shortened to `LONGEST` characters; different names stay different.

    The leading parts of long names, and of all names with the same first part, are replaced by
    their first letters, except for numbers:
    "bert.encoder.layer.11.attention.output.dense" is "b.e.l.11.attention.output.dense".
    """
    depth: dict[str, int] = {}  # number of parts to shorten, by first part of the name
    for name in names:
        first, parts = name.split(".")[0], name.count(".")
        need = next((n for n in range(parts) if len(_initials(name, n)) <= LONGEST), parts)
        depth[first] = max(depth.get(first, 0), need)
    cut = {name: _middle_cut(_initials(name, depth[name.split(".")[0]])) for name in names}
    count = Counter(cut.values())
    number = {name: f"{i}: {text}" for i, (name, text) in enumerate(cut.items(), 1)}
    return [cut[name] if count[cut[name]] == 1 else _middle_cut(number[name]) for name in names]


def _initials(name: str, count: int) -> str:
    """Replace the first `count` parts of a name (never the last) by their first letters."""
    *parents, last = name.split(".")
    return ".".join(
        [*(p if p.isdecimal() else p[:1] for p in parents[:count]), *parents[count:], last]
    )


def _middle_cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:12]}…{text[13 - LONGEST :]}"


def svg(figure: Figure) -> str:
    """A figure as SVG, for `inline` or `on_white`."""
    buffer = io.StringIO()
    with style():
        _lay_out(figure, PAPER)
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    return buffer.getvalue()


def on_white(drawn: str) -> str:
    """Content of an SVG file with a white background."""
    return drawn.replace(PAPER, "#ffffff")


def inline(drawn: str, name: str) -> str:
    """The `<svg>` element for a page, without prolog and with ids unique to the page.

    Args:
        drawn: output of `svg`.
        name: prefix of every id; letters, digits, "_".
    """
    text = drawn[drawn.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<image\b[^>]*?) id="[^"]+"', r"\1", text)  # equal images have equal ids
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    text = re.sub(r"font: ([^;\"']*?)px [^;\"]*", r"font: \1px var(--font, sans-serif)", text)
    text = text.replace(INK, "currentColor").replace(PAPER, "none")
    return text.replace("<svg ", '<svg role="img" ', 1)


def pixels(figure: Figure) -> Image.Image:
    """A figure as an RGB image on white."""
    with style():
        _lay_out(figure, "white")
        figure.dpi = DPI  # the SVG backend changes it
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _lay_out(figure: Figure, background: str) -> None:
    """Set the background and, the first time, run the layout."""
    figure.patch.set_facecolor(background)
    for axes in figure.axes:
        axes.patch.set_alpha(0)
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine("none")
