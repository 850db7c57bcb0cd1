"""Models of the Hugging Face Hub: one job downloads them into the Hub's cache, and all others read them there."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import constants, get_token, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

# Data that `datasets` reads without running code, and the card that says which file belongs to which split.
DATA_FILES = ("README.md", "*.parquet", "*.jsonl", "*.json", "*.csv", "*.tsv", "*.arrow", "*.txt", "*.gz", "*.zst")


@contextmanager
def explained(name: str, revision: str, kind: str = "model") -> Iterator[None]:
    """Turn errors of the Hub or its cache into a ValueError whose one-sentence message says what to do."""
    page = f"https://huggingface.co/{'' if kind == 'model' else f'{kind}s/'}{name}"
    try:
        yield
    except GatedRepoError:
        token = "a token that has no access" if get_token() else "no token"
        raise ValueError(
            f"{name} is gated, found {token}: accept its licence on {page}, then log in there with `hf auth login`, or "
            "set HF_TOKEN"
        ) from None
    except RepositoryNotFoundError:
        raise ValueError(
            f"there is no folder {name}, and the Hub has no {name} that you may read: check the name; if it is private, log in "
            "with `hf auth login`, or set HF_TOKEN"
        ) from None
    except RevisionNotFoundError:
        raise ValueError(f"{name} has no revision {revision}: {page}/commits/main lists those it has") from None
    except LocalEntryNotFoundError as error:
        off = "HF_HUB_OFFLINE switches the Hub off" if constants.HF_HUB_OFFLINE else f"the Hub was not reached ({error})"
        raise ValueError(
            f"{name} at {revision} is not, or not wholly, in the cache {constants.HF_HUB_CACHE}, and {off}: fetch it once "
            "where there is network (rule pretrained, pretrained_sae, published or text), or point HF_HOME to a cache that "
            "holds it"
        ) from None
    except HFValidationError:
        raise ValueError(f"{name!r} is neither a folder nor a name of the Hub, such as google/gemma-2b-it") from None
    except HfHubHTTPError as error:
        raise ValueError(f"the Hub did not give {name} at {revision} ({error}): try again later") from None


def cached(name: str, revision: str, files: Sequence[str], download: bool = False, kind: str = "model") -> Path:
    """Return the cache folder with those of these files that a repository has; `kind` is model or dataset.

    Without `download`, the network is not used. Raises ValueError if the files are not in the cache or cannot be downloaded.
    """
    local = not download
    with explained(name, revision, kind):
        return Path(
            snapshot_download(name, repo_type=kind, revision=revision, allow_patterns=list(files), local_files_only=local)
        )


def identity(folder: str) -> tuple[str, str] | None:
    """Return (name, commit) of the model whose files are in a folder of the Hub's cache; None for any other folder."""
    repository, snapshots, commit = ("", "", *Path(folder).parts)[-3:]
    if snapshots != "snapshots" or not repository.startswith("models--"):
        return None
    return repository.removeprefix("models--").replace("--", "/"), commit
