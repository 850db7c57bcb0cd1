"""The page of a verdict: one file that can be forwarded, with all that stands behind the sentence."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader
from matplotlib.figure import Figure

from undertone.plots.style import BASE, STUDENT, new_panels
from undertone.runtime.files import read_json, replacing

AXES = {
    "z": "presence (standard deviations)",
    "gain": "gain of the best system prompt\n(nats per token)",
    "movement": "movement of the first answer\n(standard deviations of a pair)",
}


def write_page(verdict: Path, page: Path) -> None:
    """Write `verdict.html`, which needs nothing beside itself."""
    result = read_json(verdict)
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True)
    figure = as_png(draw(result)) if "figures" in result else ""
    text = environment.get_template("page.html.jinja").render(**result, figure=figure)
    with replacing(page) as temporary:
        temporary.write_text(text)


def draw(result: dict[str, Any]) -> Figure:
    """The dataset beside every null, by kind: presence, gain and movement."""
    figure, panels = new_panels(1, len(AXES), 11, 3.2)
    kinds = list(result["nulls"])
    for axes, (key, label) in zip(panels, AXES.items(), strict=True):
        for y, kind in enumerate(kinds):
            values = [each[key] for each in result["nulls"][kind]]
            axes.plot(values, y + np.linspace(-0.25, 0.25, len(values)), "o", color=BASE, markersize=3)
        axes.axvline(result["figures"][key], color=STUDENT, label=result["dataset"])
        axes.set_yticks(range(len(kinds)), kinds if axes is panels[0] else [])
        axes.set_xlabel(label)
        axes.margins(x=0.08)
    panels[0].set_xscale("symlog", linthresh=5)
    panels[0].set_xticks([0, 5, 20, 100], ["0", "5", "20", "100"])
    panels[-1].legend(frameon=False)
    return figure


def as_png(figure: Figure) -> str:
    """A figure as the text of a data URL."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return base64.b64encode(buffer.getvalue()).decode()
