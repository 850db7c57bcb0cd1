"""A language model at work: loading, chat templates, hooks, sampling, training, adapters, steering, answers."""
