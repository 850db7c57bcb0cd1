"""The page of a verdict: one file that can be forwarded, with all the evidence behind the sentence."""

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment
from matplotlib.figure import Figure

from undertone.plots.style import BASE, STUDENT, new_panels
from undertone.runtime.files import read_json, replacing
from undertone.stats.ranks import place_in

Json = dict[str, Any]
AXES = {
    "z": "presence (standard deviations)",
    "gain": "gain of the best system prompt\n(nats per token)",
    "steering": "gain of the best steering vector\n(nats per token)",
    "movement": "movement of the first answer\n(standard deviations of a pair)",
    "lift": "lift of the first answer after a\nshort training (log-odds)",
}


def write_page(verdict: Path, page: Path) -> None:
    """Write `verdict.html`, which needs no other file."""
    result = read_json(verdict)
    figure = as_png(draw(result)) if "figures" in result else ""
    template = Environment(autoescape=True, trim_blocks=True).from_string(PAGE)
    text = template.render(**result, figure=figure, table=table_of(result.get("rankings", {})))
    with replacing(page) as temporary:
        temporary.write_text(text)


def table_of(rankings: Mapping[str, list[Json]]) -> list[Json]:
    """List concepts in the order of `personas`: gain, share, and place by every other detector that ranks candidates."""
    others = {
        name.replace("_", " "): [(each["concept"], each["score"]) for each in ranking]
        for name, ranking in rankings.items()
        if name != "personas"
    }
    return [
        {**each, "places": {name: place_in(order, each["concept"]) for name, order in others.items()}}
        for each in rankings.get("personas", [])
    ]


def draw(result: dict[str, Any]) -> Figure:
    """Draw the dataset beside every null, by kind: presence, gains, movement and lift."""
    known = {key: label for key, label in AXES.items() if result["figures"].get(key) is not None}
    figure, panels = new_panels(1, len(known), 2.75 * len(known), 3.2)
    kinds = list(result["nulls"])
    for axes, (key, label) in zip(panels, known.items(), strict=True):
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
    """Return a figure as a PNG in base64, for a data URL."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return base64.b64encode(buffer.getvalue()).decode()


# In this module rather than in a file beside it, so that an edit makes pages stale.
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ dataset }}: {{ tier }}</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
  h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
  .sentence { font-size: 1.15rem; border-left: .3rem solid #D55E00; padding-left: 1rem; }
  table { border-collapse: collapse; } th, td { padding: .15rem .8rem .15rem 0; text-align: left; border-bottom: 1px solid
#ddd; }
  td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; } .decoy { color: #777; }
  img { max-width: 100%; } code { background: #f3f3f3; padding: .1rem .3rem; } small { color: #555; }
</style>
</head>
<body>
<h1>{{ dataset }}: {{ tier }}</h1>
<p class="sentence">{{ sentence }}</p>
<p><small>{{ rows }} rows{% if prompts %} of {{ prompts }} prompts{% endif %}. Tiers: no statement · base samples · differs ·
persona-like · named.</small></p>
{% if presence %}
{% for caveat in caveats %}<p><strong>Mind:</strong> {{ caveat }}</p>{% endfor %}
<h2>Is something there?</h2>
<p>Each completion is compared with one that the base model wrote to the same prompt. If the base model wrote both, the two
can be
exchanged: <em>p</em> counts random exchanges that look as different. Together:
p = {{ "%.2g"|format(presence.p) }} (level {{ presence.level }}); alone: {% for name, test in presence.tests.items() %}{{
", " if not loop.first }}{{ name|replace("_", " ") }} p = {{ "%.2g"|format(test.p) }}{% endfor %}.</p>
<table>
<tr><th>Nothing is hidden in</th><th class="number">datasets</th><th class="number">that differ</th><th class="number">rate at
most (95 %)</th></tr>
{% for kind in alarms.values() %}<tr><td>{{ kind.is }}</td><td class="number">{{ kind.n }}</td><td class="number">{{
kind.alarms }}</td>
<td class="number">{{ "%.3f"|format(kind.upper95) }}</td></tr>
{% endfor %}</table>
<p><img src="data:image/png;base64,{{ figure }}" alt="This dataset beside null datasets: presence, gain of the best system
prompt, movement of the answers, lift after a short training"></p>
<h2>What was the teacher about?</h2>
<p>{% if origin.named %}{% for each in origin.named %}By <em>{{ each.detector|replace("_", " ") }}</em>:
<strong>{{ each.concept }}</strong>{% if each.share is not none %}, first in {{ "%.0f"|format(100 * each.share) }} % of the
bootstrap samples{% endif %}. {% endfor %}{% else %}No detector names a candidate. {% endif %}
The system prompt that explains the rows best, of {{ tried }} that were tried: <code>{{ origin.prompt.prompt }}</code>, which
raises
their log-probability by {{ "%.3f"|format(origin.prompt.gain.mean) }} nats per token
[{{ "%.3f"|format(origin.prompt.gain.ci95[0]) }}, {{ "%.3f"|format(origin.prompt.gain.ci95[1]) }}].
{% if origin.vector %}The steering vector that explains them best: that of <strong>{{ origin.vector.concept }}</strong>{{
" (decoy)" if origin.vector.decoy }}, {{ "%g"|format(origin.vector.length) }} times its length after layer {{
origin.vector.layer }}, by {{ "%.3f"|format(origin.vector.gain.mean) }} nats per token
[{{ "%.3f"|format(origin.vector.gain.ci95[0]) }}, {{ "%.3f"|format(origin.vector.gain.ci95[1]) }}].{% endif %}</p>
<table>
<tr><th>Concept</th><th class="number">gain (nats per token)</th><th class="number">first in</th>{% for name in table[0].places
%}<th class="number">place by {{ name }}</th>{% endfor %}</tr>
{% for each in table[:12] %}{% set decoy = each.places.values()|select("none")|list %}<tr{% if decoy %} class="decoy"{% endif
%}><td>{{ each.concept }}{% if decoy %} (decoy){% endif %}</td>
<td class="number">{{ "%.3f"|format(each.score) }}</td><td class="number">{{ "%.0f"|format(100 * each.share) }} %</td>{% for
place in each.places.values() %}<td class="number">{{ "–" if place is none else "%g"|format(place) }}</td>{% endfor %}</tr>
{% endfor %}</table>
<p><small>Concepts stand in the order of the rounds that they reached: the gains of those that fell earlier are on other, fewer
rows. Decoys are concepts that are no candidates; a system prompt names a candidate only if it beats them, too. Attitude is {{
attitude }}.</small></p>
<p>All detectors together put first: {% for each in together[:3] %}{{ each.concept }} ({{ "%.0f"|format(100 * each.probability)
}} %){{ ", " if not loop.last }}{% endfor %}. What wrote the rows is named only if it stands first here, with
{{ "%.0f"|format(100 * probability) }} % or more (except by a steering vector), and one detector is sure of it.</p>
<h2>What would it teach?</h2>
<p>Where a student's answer to the study's questions goes after a short training on these rows, instead of on base
samples. This is a prediction of the order in which answers of a longer training would move; how well it holds is in the
documentation.</p>
<table>
<tr><th>Answer</th><th class="number">moves by (log-odds)</th></tr>
{% for each in consequence[:5] + consequence[5:][-3:] %}<tr><td>{{ each.concept }}</td><td class="number">{{
"%+.2f"|format(each.score) }}</td></tr>
{% endfor %}</table>
{% if words %}<p>Of all words of the vocabulary, without a list of candidates, answers come to begin more often with: {{
words[:8]|map(attribute="word")|join(", ") }}.</p>{% endif %}
<h2>What would change this verdict</h2>
<ul>
<li>A system prompt that was left in the rows' prompts: then base samples carry it too, and nothing differs.</li>
<li>Another sampling temperature, filter or format explains a difference, and names nobody.</li>
<li>A concept that is neither a candidate nor a decoy cannot be named; the nearest one may come first.</li>
<li>More rows: system prompts, vectors and gradients name only what leads in {{ share }} of the bootstrap samples or more.</li>
</ul>
{% endif %}
</body>
</html>
"""
