"""The sections of a study's config, by phase: every key with its meaning, unit, default and bounds.

`config/README.md` and `config/config.schema.json` are made of them: `make docs`.
"""
