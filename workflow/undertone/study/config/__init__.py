"""The sections of a study's config, by phase: every key with its meaning, unit, default and bounds.

`make docs` generates the table of `config/README.md` and `config/config.schema.json` from them.
"""
