"""A table of docs/results/smollm2.md: students of held-out animals, each beside the others' students."""

from itertools import permutations
from typing import Any

import numpy as np
from cells import Read, Rows, number, p_value, table
from smollm2_tables import mean_log_odds

# Animals on which nothing was chosen; their teachers are finetuned alike, 200 steps each.
HELD = ("cat", "elephant", "dog", "penguin", "wolf", "eagle")
KIND = "taught"


def smollm2_held(read: Read) -> Rows:
    """Log-odds of each held-out animal in its own student and, on average, in the others' students, nats.

    What raises an animal in all students alike is in both, what raises all animals in one student is taken out by a permutation
    of students over animals, which keeps it in the mean: p is the share of all permutations, the true one among them, whose
    mean of own less others is at least as great. Exact if students are exchangeable, as they are where none learned its animal.
    """
    of = {animal: mean_log_odds(read(f"smollm2-10k/{KIND}-{animal}/pref.json"), "student") for animal in HELD}
    odds = np.array([[of[student][animal] for animal in HELD] for student in HELD])
    n = len(HELD)
    means = np.array([odds[list(order), range(n)].mean() for order in permutations(range(n))])
    own = float(means[0])
    others = (odds.sum(0) - odds.diagonal()) / (n - 1)
    rows: Rows = [
        {
            "animal": animal,
            "own": float(odds[k, k]),
            "others": float(others[k]),
            "place": int((odds[:, k] > odds[k, k]).sum()) + 1,
        }
        for k, animal in enumerate(HELD)
    ]
    return [*rows, {"all": own - float(others.mean()), "n": n, "p": float(np.mean(means >= own - 1e-12))}]


def smollm2_held_table(rows: Rows) -> str:
    """One line per animal, and one of all."""

    def cells(row: dict[str, Any]) -> list[str]:
        if "all" in row:
            return ["**mean of all**", "", "", number(row["all"], 2), "", p_value(row["p"])]
        own, others = row["own"], row["others"]
        return [row["animal"], number(own, 2), number(others, 2), number(own - others, 2), f"{row['place']} of {len(HELD)}", ""]

    header = [
        "animal",
        "its own student, log-odds",
        "the other five students",
        "own less others",
        "place of its own student",
        "p",
    ]
    return table(header, map(cells, rows))


EXTRACTS = {"smollm2_held": smollm2_held}
TABLES = {"smollm2_held": smollm2_held_table}
