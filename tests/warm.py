"""A process that imports this has built what transformers builds for a first model, and so has every process forked from it."""

from transformers.conversion_mapping import get_checkpoint_conversion_mapping

get_checkpoint_conversion_mapping("gemma")
