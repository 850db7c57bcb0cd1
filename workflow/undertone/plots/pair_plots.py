"""Figures of a pair of SAEs: how well their features match, what one rotation carries over, which layers are alike."""

from pathlib import Path

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from undertone.plots.panels import Json, empty, heading, legend, listed
from undertone.plots.style import BASE, SKY, STUDENT, TEACHER, new_figure, new_panels, save
from undertone.runtime.files import Stamp, read_json, read_parquet

NAMES = {"svcca": "SVCCA", "cka": "CKA", "rsa": "RSA", "knn": "mutual\nk-NN", "procrustes": "Procrustes\nr²"}
REASONS = ("rare", "dense", "junk", "token")
COLORS = dict(zip(REASONS, ("#CCCCCC", BASE, "#F0E442", SKY), strict=True))


def plot_similarity(matches: Path, points: Path, similarity: Path, plot: Path, stamp: Stamp) -> None:
    """Draw the matches' r, their r given the token, which of them are trivial, how alike the spaces are, and examples."""
    table, shown, body = read_parquet(matches).filter(way="one"), read_parquet(points), read_json(similarity)
    figure, axes = new_panels(3, 4, 15, 11)
    draw_r(axes[0], table, body)
    draw_given_token(axes[1], table)
    draw_reasons(axes[2], body)
    draw_spaces(axes[3], body)
    for row, kind in ((1, "meaningful"), (2, "trivial")):
        pairs = shown.filter(kind=kind).select("a", "b").unique(maintain_order=True).rows()
        for number, panel in enumerate(axes[4 * row : 4 * row + 4]):
            if number < len(pairs):
                draw_pair(panel, shown.filter(kind=kind, a=pairs[number][0], b=pairs[number][1]), table)
            else:
                empty(panel, f"no further match that is {'not trivial' if kind == 'meaningful' else 'trivial'}")
    save(figure, plot)


def draw_r(axes: Axes, table: pl.DataFrame, body: Json) -> None:
    """Draw histograms of r, of all matches and of those that are not trivial, with r of shifted text and r of neurons."""
    bins = np.linspace(-0.1, 1, 34).tolist()
    chance = body["headline"]["one"]["by_chance"]["frequent"]
    axes.hist(table["r"].drop_nulls(), bins, color="#DDDDDD", label="all")
    axes.hist(table.filter(pl.col("trivial").is_null())["r"].drop_nulls(), bins, color=STUDENT, alpha=0.8, label="not trivial")
    if chance["q95"] is not None:
        axes.axvline(chance["q95"], color="black", linestyle="--", linewidth=1, label="95 % of best matches\nin shifted text")
    neurons = (body["neurons"]["headline"] or {}).get("one")
    if neurons and neurons["r"]:
        axes.axvline(neurons["r"]["median"], color=SKY, linewidth=1.5, label="median of the layers' neurons,\nby |r|")
    axes.set(xlabel="r on the scoring half", ylabel="matches, one to one")
    heading(axes, f"How well matched features agree: {body['counts']['one']['pairs']} pairs, {body['tokens']:,} tokens")
    legend(axes)
    warned = axes.annotate("\n".join(body["warnings"]), (0.01, 0.667), xycoords="figure fraction", fontsize=8, color=STUDENT)
    warned.set_in_layout(False)


def draw_given_token(axes: Axes, table: pl.DataFrame) -> None:
    """Plot r given the token against r of each match."""
    known = table.drop_nulls(["r", "r_token"])
    for reason, color in [*COLORS.items(), (None, STUDENT)]:
        some = known.filter(pl.col("trivial").is_null() if reason is None else pl.col("trivial") == reason)
        axes.scatter(some["r"], some["r_token"], s=8, color=color, label=reason or "not trivial")
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.5)
    axes.axhline(0, color="black", linewidth=0.5)
    axes.set(xlabel="r", ylabel="r given the token")
    heading(axes, "What is left once each token's mean is subtracted")
    legend(axes)


def draw_reasons(axes: Axes, body: Json) -> None:
    """Draw how many matches are trivial, by reason and by the way of matching."""
    ways = {"best_a": "best of b\nfor each a", "best_b": "best of a\nfor each b", "mutual": "mutual", "one": "one to one"}
    counts = body["counts"]
    left = {way: counts[way]["pairs"] - sum(counts[way][reason] for reason in REASONS) for way in ways}
    bottom = np.zeros(len(ways))
    for reason, color in (("not trivial", STUDENT), *COLORS.items()):
        height = np.array([left[way] if reason == "not trivial" else counts[way][reason] for way in ways], dtype=float)
        axes.bar(range(len(ways)), height, bottom=bottom, color=color, label=reason, width=0.7)
        bottom += height
    axes.set_xticks(range(len(ways)), list(ways.values()), fontsize=8)
    axes.set_ylabel("matches")
    heading(axes, "Why matches are trivial: rare or dense features, junk, or no more than the token")
    legend(axes)


def draw_spaces(axes: Axes, body: Json) -> None:
    """Draw similarities of the matched decoder rows beside those of shuffled matches."""
    of = body["spaces"]["one"]
    if of["measures"] is None:
        empty(axes, f"{of['pairs']} matches are not trivial: too few to compare the spaces that they span")
        return
    for number, (name, measure) in enumerate(of["measures"].items()):
        if measure["value"] is not None:
            axes.bar(number, measure["value"], color=TEACHER, width=0.6, label="matched" if name == "cka" else None)
        axes.errorbar(
            number,
            measure["null_mean"],
            2 * measure["null_sd"],
            fmt="o",
            color="black",
            markersize=4,
            capsize=4,
            label="shuffled, mean ± 2 sd" if name == "cka" else None,
        )
        z = "" if measure["z"] is None else f"z {measure['z']:.0f}"
        axes.text(number, max(measure["value"] or 0, measure["null_mean"]) + 0.03, z, ha="center", fontsize=7)
    axes.set_xticks(range(len(of["measures"])), [NAMES[name] for name in of["measures"]], fontsize=7)
    axes.set_ylim(top=1.15)
    axes.set_ylabel("similarity")
    heading(axes, f"How alike the decoder rows of {of['pairs']} matches lie")
    legend(axes)


def draw_pair(axes: Axes, shown: pl.DataFrame, table: pl.DataFrame) -> None:
    """Plot activations of two matched features where either is active; the title counts tokens of both and of only one."""
    first = shown.row(0, named=True)
    match = table.filter(a=first["a"], b=first["b"]).row(0, named=True)
    axes.scatter(shown["act_a"], shown["act_b"], s=6, color=STUDENT if first["kind"] == "meaningful" else BASE, alpha=0.5)
    tokens = listed(match["tokens_a"] or [])
    axes.set(xlabel=f"feature {first['a']} of a", ylabel=f"feature {first['b']} of b")
    given = "none" if match["r_token"] is None else f"{match['r_token']:.2f}"
    why = f" ({match['trivial']})" if match["trivial"] else ""
    alone = first["only_a"] + first["only_b"]
    heading(axes, f"{tokens}: r {match['r']:.2f}, given the token {given}{why}; both {first['both']:,}, one {alone:,}")


def plot_rotation(turned: Path, plot: Path, stamp: Stamp) -> None:
    """Draw what SAE a explains of model b through each map, beside both SAEs on their own models."""
    body = read_json(turned)
    names = {
        "a_of_a": "SAE a\non model a",
        "b_of_b": "SAE b\non model b",
        "identity": "SAE a on b,\nas it is",
        "random": "random\nrotation",
        "procrustes": "one\nrotation",
        "ridge": "affine map",
    }
    values = {"a_of_a": body["a_of_a"], "b_of_b": body["b_of_b"], **body["a_of_b"]}
    figure, axes = new_figure(8, 4.5)
    for number, of in enumerate(values.values()):
        value, ends = of["explained_variance"], of["ci95"]
        axes.bar(number, value, color=BASE if number < 2 else STUDENT, width=0.65)
        axes.errorbar(number, value, [[value - ends[0]], [ends[1] - value]], color="black", capsize=3)
        axes.text(number, max(value, 0) + 0.03, f"{value:.2f}", ha="center", fontsize=8)
    axes.axhline(body["null"]["mean"], color="black", linestyle="--", linewidth=1, label="one rotation, fitted on shifted text")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(values)), [names[name] for name in values], fontsize=8)
    axes.set_ylim(max(-1.5, axes.get_ylim()[0]), 1.2)
    axes.set_ylabel("explained variance")
    decoder = body["decoder"]
    rows = (
        f"; decoder rows of {decoder['pairs']} matches: median cosine {decoder['median_cosine']:.2f} after the rotation, "
        f"shuffled {decoder['shuffled']['median_cosine']:.2f}"
        if decoder
        else ""
    )
    heading(axes, f"What SAE a explains of model b, 95 % intervals over contexts{rows}")
    legend(axes)
    save(figure, plot)


def plot_layers(layers: Path, plot: Path, stamp: Stamp) -> None:
    """Draw how alike each layer of one model is to each of the other, and the best partner of each layer of a."""
    body = read_json(layers)
    figure, panels = new_panels(2, 2, 9, 8)
    titles = {"knn": "shared neighbours", "cka": "CKA"}
    ways = {"plain": "as they are", "given_token": "once each token's mean is subtracted"}
    for axes, (variant, measure) in zip(panels, [(way, name) for way in ways for name in titles], strict=True):
        of = body[variant][measure]
        values = np.array(of["values"])
        image = axes.imshow(values, vmin=0, vmax=1, cmap="Greens", aspect="auto")
        written = values.size <= 40
        for a, line in enumerate(values):
            for b, value in enumerate(line):
                text = f"{value:.2f}\n({of['null_mean'][a][b]:.2f})".replace("-0.00", "0.00") if written else ""
                axes.text(b, a, text, ha="center", va="center", fontsize=7, color="white" if value > 0.6 else "black")
            best = of["best_of_a"][a]
            box = Rectangle(
                (best["layer"] - 0.48, a - 0.48), 0.96, 0.96, fill=False, edgecolor=STUDENT, linewidth=2 if written else 1
            )
            axes.add_patch(box)
            if best["p"] <= 0.05:
                # Beside the numbers, or in the middle if there are none; a star stands at the top of its line.
                x, y, size = (best["layer"] + 0.38, a - 0.25, 12) if written else (best["layer"], a + 0.15, 8)
                axes.text(x, y, "*", color=STUDENT, fontsize=size, ha="center", va="center")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(12, integer=True))
        axes.set(xlabel="layer of b", ylabel="layer of a")
        figure.colorbar(image, ax=axes)
        heading(axes, f"{titles[measure]}, {ways[variant]}{'; in brackets: shifted text' if written else ''}")
    save(figure, plot)


def plot_across(across: Path, plot: Path, stamp: Stamp) -> None:
    """Draw cosines of the two models' datasets after the rotation, and how much more alike datasets of one animal are."""
    body = read_json(across)
    figure, panels = new_panels(2, 2, 11, 9)
    titles = {"activations": "mean activations", "bias": "one step of a bias"}
    for row, (kind, of) in enumerate(body["of"].items()):
        turned = of["across"]["procrustes"]["centred"]
        draw_cosines(panels[2 * row], turned, body["animals"])
        heading(panels[2 * row], f"{titles[kind]}: b turned into a's axes, around the animals' mean")
        draw_advantages(panels[2 * row + 1], of)
        heading(panels[2 * row + 1], f"{titles[kind]}: how much more alike datasets of one animal are than of two")
    save(figure, plot)


def draw_cosines(axes: Axes, of: Json, animals: list[str]) -> None:
    """Draw cosines of a's datasets with b's: boxes mark the same animal, stars that no other dataset of b is as near."""
    cosines = np.array(of["cosines"])
    axes.imshow(cosines, vmin=-1, vmax=1, cmap="PiYG")
    for k, place in enumerate(of["places"]):
        axes.add_patch(Rectangle((k - 0.48, k - 0.48), 0.96, 0.96, fill=False, edgecolor="black", linewidth=1))
        if place == 1:
            axes.text(k, k, "*", ha="center", va="center", fontsize=12)
    axes.set_xticks(range(len(animals)), animals, rotation=60, ha="right", fontsize=8)
    axes.set_yticks(range(len(animals)), animals, fontsize=8)
    axes.set(xlabel="dataset written by b", ylabel="dataset written by a")
    for (a, b), value in np.ndenumerate(cosines):
        axes.text(
            b,
            a + (0.3 if a == b and of["places"][a] == 1 else 0),
            f"{value:.1f}".replace("-0.0", "0.0"),
            ha="center",
            va="center",
            fontsize=6,
        )


def draw_advantages(axes: Axes, of: Json) -> None:
    """Plot how much nearer datasets of one animal are than of two, in each comparison, beside exchanged names.

    Animals' means are subtracted.
    """
    lines = {
        "two models and datasets,\nas they are": of["across"].get("identity"),
        "two models and datasets,\none rotation": of["across"]["procrustes"],
        "one dataset of a, one rotation": of["one_dataset_a"]["procrustes"],
        "one dataset of b, one rotation": of["one_dataset_b"]["procrustes"],
        "both datasets, read by a": of["one_reader_a"],
        "both datasets, read by b": of["one_reader_b"],
        "halves, a": of["halves_a"],
        "halves, b": of["halves_b"],
    }
    shown = {name: line["centred"] for name, line in lines.items() if line}
    for y, each in enumerate(shown.values()):
        band = 1.96 * each["null_sd"]
        axes.barh(y, 2 * band, left=-band, color="#DDDDDD", height=0.7, label="names exchanged" if y == 0 else None)
        mean, (low, high) = each["advantage"]["mean"], each["advantage"]["ci95"]
        axes.errorbar(mean, y, xerr=[[mean - low], [high - mean]], fmt="o", color=STUDENT, capsize=3, markersize=4)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(shown)), list(shown), fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("cosine of one animal's datasets minus that of two animals'")
    legend(axes)
