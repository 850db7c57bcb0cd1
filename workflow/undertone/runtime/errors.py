"""What is said of input that cannot be used."""


class ConfigError(ValueError):
    """A setting or a file that cannot be used; the message says which, what was found and what is expected."""
