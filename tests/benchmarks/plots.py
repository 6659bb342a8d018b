"""The plots in the manual: throughput, time stopped by size, open to ready by threads and mappings.

Every plot has a white background, also on dark pages.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter

from tests.benchmarks import opening, reading, stopped
from tests.benchmarks.figures import Figure, Topic

# Colours that colour-blind readers can distinguish (Okabe and Ito); gcorefs always has the first.
OURS, RIVAL, CEILING, OTHER, LAST = "#0072b2", "#d55e00", "#7f7f7f", "#009e73", "#cc79a7"
SPARE = ("#e69f00", "#56b4e9", "#cc79a7", "#f0e442")
MARKERS = "osDv^x"

STYLE = partial(
    mpl.rc_context,
    {
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": "gcorefs",  # the same values make the same file
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "grid.color": "#dddddd",
    },
)


def draw(topic: Topic, kept: dict[str, Any], folder: Path) -> None:
    """Draw the plot of a topic beside its figures, if it has one."""
    if topic.name not in PLOTS:
        return
    with STYLE():
        canvas = Canvas(figsize=(8, 4.2), layout="constrained", facecolor="white")
        axes = canvas.add_subplot()
        PLOTS[topic.name](topic, axes)
        rounds, machine = kept["options"]["rounds"], kept["machine"]
        canvas.supxlabel(
            f"medians, bars from least to most; rounds: {rounds}; "
            f"Linux {machine['kernel'].partition('-')[0]}, processors: {machine['processors']}",
            fontsize=8,
            color="#555555",
        )
        canvas.savefig(folder / f"{topic.name}.svg", metadata={"Date": None})


def _throughput(topic: Topic, axes: Axes) -> None:
    figure = topic.figures[0]
    for place, way in enumerate(figure.values):
        ((_, middle, least, most),) = figure.points(way)
        colour = OURS if reading.MOUNT in way else OTHER if reading.STATIC in way else CEILING
        axes.barh(
            place,
            middle,
            xerr=[[middle - least], [most - middle]],
            color=colour,
            error_kw={"capsize": 2, "elinewidth": 1},
        )
    axes.set_yticks(range(len(figure.values)), [*figure.values])
    axes.invert_yaxis()
    axes.grid(axis="x")
    axes.set_xlabel("GiB/s")
    axes.set_title(topic.title)


def _stopped(topic: Topic, axes: Axes) -> None:
    figure = topic.figures[0]
    colours = {
        stopped.GCORE: RIVAL,
        stopped.KERNEL: CEILING,
        stopped.CREATEDUMP: LAST,
        stopped.CP: OURS,
        stopped.DUMP: OTHER,
    }
    others = (way for way in figure.values if way not in colours and way != stopped.DD)
    colours |= zip(others, SPARE, strict=False)
    _lines(figure, axes, colours)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xticks(figure.sizes())
    axes.set_xlabel("MiB in the process")
    axes.set_ylabel("the process stood still, ms")
    axes.set_title(topic.title)
    axes.legend(frameon=False, fontsize=9, loc="upper left")


def _opening(topic: Topic, axes: Axes) -> None:
    figure = topic.figures[0]
    colours = {
        opening.READY: OURS,
        opening.BAREST: CEILING,
        opening.SMAPS: OTHER,
        opening.GCORE: RIVAL,
    }
    _lines(figure, axes, colours)
    axes.set_xscale("log")
    axes.set_yscale("log")
    plain = FuncFormatter(lambda value, _: f"{value:,g}")
    axes.xaxis.set_major_formatter(plain)
    axes.yaxis.set_major_formatter(plain)
    _straight(figure, axes)
    axes.set_xlabel(figure.size)
    axes.set_ylabel("ms")
    axes.set_title(topic.title)
    axes.legend(frameon=False, fontsize=9, loc="best")


def _lines(figure: Figure, axes: Axes, colours: dict[str, str]) -> None:
    shown = [way for way in figure.values if way in colours]
    for way, marker in zip(shown, MARKERS, strict=False):
        sizes, middles, least, most = zip(*figure.points(way), strict=True)
        below = [a - b for a, b in zip(middles, least, strict=True)]
        above = [b - a for a, b in zip(middles, most, strict=True)]
        axes.errorbar(
            sizes,
            middles,
            yerr=[below, above],
            color=colours[way],
            marker=marker,
            markersize=5,
            capsize=2,
            label=way,
        )
    axes.grid(which="major")


def _straight(figure: Figure, axes: Axes) -> None:
    """A line for a time that grows in proportion to the size, through our last point."""
    size, middle, _, _ = [*figure.points(opening.READY)][-1]
    sizes = [size / 100, size]
    axes.plot(sizes, [middle / 100, middle], ":", color="black", linewidth=1, label="linear")


PLOTS: dict[str, Callable[[Topic, Axes], None]] = {
    "reading": _throughput,
    "stopped": _stopped,
    "threads": _opening,
    "mappings": _opening,
}
