"""The bank of system prompts to try on a dataset: wordings, and concepts that are not candidates."""

from dataclasses import dataclass
from pathlib import Path

from undertone.models.wordings import load_yaml
from undertone.runtime.errors import ConfigError


@dataclass(frozen=True)
class Bank:
    """Wordings by name, with `{x}` where the concept stands, and decoys: concepts that are not candidates."""

    wordings: dict[str, str]
    decoys: list[str]

    @classmethod
    def read(cls, path: Path, key: str = "personas.bank") -> "Bank":
        """Read a YAML file with `wordings` and `decoys`. Raises ConfigError if it holds anything else."""
        entries = load_yaml(path, key)
        try:
            wordings, decoys = dict(entries["wordings"]), list(entries["decoys"])
        except (TypeError, KeyError, ValueError) as error:
            raise ConfigError(f"{path}: expected the keys wordings (name: text) and decoys (a list): {error!r}") from None
        for name, text in wordings.items():
            if not isinstance(text, str) or "{x}" not in text:
                raise ConfigError(f"{path}: wording {name!r} is {text!r}, expected a text with {{x}} where the concept stands")
        if len(set(decoys)) < len(decoys) or not all(isinstance(decoy, str) and decoy for decoy in decoys):
            raise ConfigError(f"{path}: decoys are to be different words, found {decoys!r}")
        return cls(wordings, decoys)

    def first(self, n: int) -> list[str]:
        """The names of the first `n` wordings."""
        return [*self.wordings][:n]

    def prompt(self, trial: tuple[str, str]) -> str:
        """Return the system prompt of a wording and a concept."""
        name, concept = trial
        return self.wordings[name].replace("{x}", concept)

    def described(self, trial: tuple[str, str]) -> dict[str, str]:
        """Return a trial as it is written to files."""
        return {"wording": trial[0], "prompt": self.prompt(trial)}
