"""Messages about a target that no rule of the study makes: why, and which file is nearest."""

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from undertone.study.checks import folders_of
from undertone.study.config.bounds import MAX_SEED
from undertone.study.config.detect import KINDS_OF_NULLS
from undertone.study.paths import RESERVED
from undertone.study.study import Study
from undertone.study.validation import nearest

# Maps a folder of the study to the files that rules can make there, relative to it.
Files = Callable[[str], Iterable[str]]


def refusal(target: str, study: Study, rules: Iterable[str], files: Files) -> str:
    """Why no rule makes a target, and what is nearest to it."""
    root = Path(study.results)
    path = Path(os.path.normpath(target))
    if not path.is_relative_to(root):
        return f"{target}: {_outside(path, root, rules)}"
    if path == root:
        return f"{target}: is the folder of all results; ask for `all`, or for a file in it, such as {root}/lion/pref.json"
    folder, _, file = path.relative_to(root).as_posix().partition("/")
    return f"{target}: {_known_folder(study, folder, file) or _spelling(study, file) or _file(study, folder, file, files)}"


def _outside(path: Path, root: Path, rules: Iterable[str]) -> str:
    """The message for a path outside the study's results."""
    if path.resolve().is_relative_to(root.resolve()):
        return f"write it as {root / path.resolve().relative_to(root.resolve())}, from the folder of the study's results on"
    if len(path.parts) == 1:
        return (
            f"no rule is called so{nearest(path.name, rules)}; a file is asked for by its path, such as {root}/lion/pref.json"
        )
    return f"is no file of the study, whose results are in {root}; ask for one there, such as {root}/lion/pref.json"


def _known_folder(study: Study, folder: str, file: str) -> str:
    """What is wrong with the target's first folder, or ""."""
    if re.match("sae(-|$)", folder) and not study.has_sae:
        known = "set sae.release and sae.id, or sae.folder, or sae.text to train one"
        return f"the study names no SAE for {study.model.title}; {known}"
    if study.name and folder in ("tables", "plots") and not file.startswith((f"{study.name}/", "costs.")):
        return (
            f"this study's name is {study.name}, so what is made of all its datasets is in "
            f"{study.results}/{folder}/{study.name}/; leave out --configfile for the file of the study without a name"
        )
    folders = [*study.available, *RESERVED, *folders_of(study), "prompts.parquet"]
    return "" if folder in folders else f"the study has no dataset {folder!r}{nearest(folder, study.available)}"


def _spelling(study: Study, file: str) -> str:
    """What is wrong with a seed, a variant or a sweep, or ""."""
    seed = re.match(r"student(?:-[^/]*)?/([^/]*)/", file)
    if seed and (not re.fullmatch("0|[1-9][0-9]*", seed[1]) or int(seed[1]) > MAX_SEED):
        return f"a student's seed is a whole number from 0 to {MAX_SEED} without leading zeros, found {seed[1]!r}"
    variant = re.match(r"(?:student|pref)-([^/]*?)(?:/|\.json$|\.parquet$)", file)
    if variant and variant[1] not in study.student_variants:
        return f"the study has no student variant {variant[1]!r}" + _among(
            variant[1], study.student_variants, "student_variants"
        )
    sweep = re.search(r"(?:^|/)sweep-([^/]*)\.png$", file)
    if sweep and sweep[1] not in study.sweeps:
        return f"the study has no sweep of {sweep[1]!r}{_among(sweep[1], study.sweeps, 'sweeps')}"
    return ""


def _among(word: str, known: Iterable[str], key: str) -> str:
    return nearest(word, known) if list(known) else f": its config has no `{key}` (config/sweeps.yaml has some)"


def _parent(study: Study, folder: str) -> str:
    """Of a folder that holds folders alone."""
    holds = {
        "nulls": ("kind of null dataset", list(KINDS_OF_NULLS)),
        "mixtures": ("dataset of `power.datasets`", study.power.datasets),
    }
    what, names = holds.get(folder, ("", []))
    if not names:
        return f"no rule makes a file in it{': the config names no ' + what if what else ''}"
    return f"holds a folder for each {what} ({', '.join(names)}); ask for a file in one of them"


def _file(study: Study, folder: str, file: str, files: Files) -> str:
    """The message for a file that no rule makes in a folder of the study."""
    own = sorted(set(files(folder)))
    if not own:
        return _parent(study, folder)
    if not file:
        first = [name for name in ("pref.json", "numbers.parquet", "model.json", "sae.json") if name in own] or own
        return f"is a folder; ask for a file in it, such as {study.results}/{folder}/{first[0]}"
    others = [name for name in study.available if name != folder and file in files(name)]
    if others and folder in study.available:
        more = f" and {len(others) - 3} others" if len(others) > 3 else ""
        return f"{folder} has no {file}, which only these have: {', '.join(others[:3])}{more}"
    return f"no rule makes it{nearest(file, own)}"
