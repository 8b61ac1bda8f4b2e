"""What says that a config cannot be used, and the checks that many keys share."""


class ConfigError(ValueError):
    """A config that cannot be used; the message names the key, the value and the remedy."""


def require_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ConfigError unless value is one of choices."""
    if value not in choices:
        raise ConfigError(f"{key} = {value!r} is not known; choose one of: {', '.join(choices)}")


def require_at_least(key: str, value: float, minimum: float) -> None:
    """Raises ConfigError unless value >= minimum (NaN fails)."""
    if not value >= minimum:
        raise ConfigError(f"{key} = {value!r} must be at least {minimum}")
