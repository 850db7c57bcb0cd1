"""The error for input that cannot be used."""


class ConfigError(ValueError):
    """Raised for a setting or a file that cannot be used. The message says which, what was found and what is expected."""
