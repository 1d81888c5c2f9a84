"""Parts of plots: labels that do not overlap, and horizontal bars."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np

BLUE, GREEN, RED, GREY = "#4c72b0", "#55a868", "#c44e52", "#8c8c8c"
# Possible offsets of a label from its point, in points of the page, in order of distance.
DISTANCES = (5, 10, 18, 28, 40, 55, 70, 90)
FAR = 10  # at a larger distance, a line connects the label to the point
SIDES = (
    *((1, 0, "left", "center"), (-1, 0, "right", "center"), (0, 1, "center", "bottom")),
    *((0, -1, "center", "top"), (0.7, 0.7, "left", "bottom"), (0.7, -0.7, "left", "top")),
    *((-0.7, 0.7, "right", "bottom"), (-0.7, -0.7, "right", "top")),
)


def figure(width: float, height: float, rows: int = 1, columns: int = 1) -> Any:
    """Returns a Figure and its axes."""
    from matplotlib.figure import Figure

    page = Figure(figsize=(width, height), layout="constrained")
    return page, page.subplots(rows, columns)


def clean(axis: Any) -> None:
    """Removes the upper and right side of the frame."""
    axis.spines[["top", "right"]].set_visible(False)


def logarithmic(axis: Any, directions: str = "x") -> None:
    """Sets a logarithmic scale of `x`, `y` or `xy` with plain numbers at 1, 2, 5 of each decade."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    for name in directions:
        getattr(axis, f"set_{name}scale")("log")
        ruler = getattr(axis, f"{name}axis")
        ruler.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ruler.set_major_formatter(StrMethodFormatter("{x:g}"))
        ruler.set_minor_formatter(NullFormatter())


def label_points(axis: Any, points: Sequence[tuple[float, float, str]], size: float = 9) -> None:
    """Writes a name next to each point so that it covers neither a point nor another name.

    Call it last, because the limits of the axes must not change afterwards.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

    canvas = FigureCanvasAgg(axis.figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    axis.figure.set_layout_engine("none")  # labels must not move the axes
    pixel = renderer.points_to_pixels(1)
    at = axis.transData.transform([point[:2] for point in points])
    taken = [Bbox.from_bounds(x - 4 * pixel, y - 4 * pixel, 8 * pixel, 8 * pixel) for x, y in at]
    frame = axis.get_window_extent(renderer).padded(4)
    for x, y, name in points:
        for may_cross, distance, side in product((False, True), DISTANCES, SIDES):
            label = _label(axis, x, y, name, distance, side, size)
            # This is the box of the text alone. The box of an annotation includes the line.
            label.update_positions(renderer)
            box = Text.get_window_extent(label, renderer)
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1
            inside = inside and frame.y0 <= box.y0 and box.y1 <= frame.y1
            covers = any(box.overlaps(other) for other in taken)
            crosses = _crosses(axis.transData.transform((x, y)), box, taken)
            if inside and not covers and (may_cross or not crosses):
                taken.append(box)
                break
            label.remove()
        else:  # no free place: an overlapping name is better than none
            _label(axis, x, y, name, DISTANCES[0], SIDES[0], size)


def _crosses(point: Any, box: Any, taken: Any) -> bool:
    """Returns whether the line from a point to its name crosses another name or point."""
    center = np.array([box.x0 + box.x1, box.y0 + box.y1]) / 2
    steps = [point + share * (center - point) for share in np.linspace(0, 1, 50)]
    others = [other for other in taken if not other.contains(*point)]
    return any(other.contains(*step) for step in steps for other in others)


def _label(axis: Any, x: Any, y: Any, name: str, distance: Any, side: Any, size: Any) -> Any:
    """Writes a name at some distance from its point, with a connecting line if it is far away."""
    right, up, horizontal, vertical = side
    line = {"arrowstyle": "-", "color": GREY, "lw": 0.6, "shrinkA": 0, "shrinkB": 3}
    return axis.annotate(
        name,
        (x, y),
        (right * distance, up * distance),
        textcoords="offset points",
        ha=horizontal,
        va=vertical,
        fontsize=size,
        arrowprops=line if distance > FAR else None,
    )


def bars(
    axis: Any, names: Sequence[str], values: Sequence[float], title: str, colors: Any = BLUE
) -> None:
    """Draws horizontal bars with their values, the first at the top."""
    drawn = axis.barh(range(len(names)), values, color=colors, height=0.65)
    axis.bar_label(drawn, [f"{value:.1f}" for value in values], padding=3, fontsize=10)
    axis.set_yticks(range(len(names)), names, fontsize=10)
    axis.invert_yaxis()
    axis.set_title(title, fontsize=11, loc="left")
    axis.spines[["top", "right", "bottom"]].set_visible(False)
    axis.set_xticks([])
    axis.tick_params(left=False)
    axis.margins(x=0.12)
