"""Each architecture at tiny width beside TransformerLens's hooked model: greatest differences of logits and hook points."""

import argparse
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    with tempfile.TemporaryDirectory() as folder:
        # Before the libraries read it: a cache that is filled here, and nothing else.
        os.environ |= {"HF_HUB_CACHE": folder, "HF_HUB_OFFLINE": "1"}
        compare(Path(folder))


def compare(hub: Path) -> None:
    """Print a table of all architectures of the tests' checkpoints."""
    from checkpoints import ARCHITECTURES, download, snapshot

    from undertone.lm.chat import Row, prompt_ids
    from undertone.lm.loading import load
    from undertone.lm.training import collate
    from undertone.models.bridge import differences
    from undertone.models.pretrained import make_pretrained
    from undertone.study.config.models import Model

    print("| architecture | logits | largest difference at a hook point | kinds of hook point |\n|---|---|---|---|")
    for which, told in ARCHITECTURES.items():
        download(hub, which)
        record = hub / which / "model/model.json"
        make_pretrained(
            record, [], Model(name=told.name, revision=told.commit, dtype="float32"), {}, record.with_name("unfinished")
        )
        loaded = load(record)
        rows = [Row(ids, 1) for ids in prompt_ids(loaded.tokenizer, ["Continue 101, 202, 303.", "Name three numbers."])]
        apart = differences(loaded, snapshot(hub, told), [collate(rows, loaded.pad_id, "cpu")])
        points = {name: figures["greatest"] for name, figures in apart["points"].items()}
        worst = max(points, key=points.__getitem__)
        print(f"| {which} | {apart['logits']['greatest']:.2g} | {points[worst]:.2g} ({worst}) | {len(points)} |")


if __name__ == "__main__":
    main()
