"""Work with a language model: loading, chat templates, hooks, sampling, training, adapters, steering, answers."""
