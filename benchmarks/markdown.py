"""Markdown of results: tables, means with their spread, differences with their interval, circumstances."""

from collections.abc import Mapping, Sequence
from typing import Any

Result = Mapping[str, Any]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines) + "\n"


def number(value: float, digits: int = 4) -> str:
    """A number."""
    return f"{value:.{digits}f}"


def spread(value: Result, digits: int = 4) -> str:
    """Mean +- standard deviation."""
    if value["std"] is None:
        return f"{number(value['mean'], digits)} (one seed)"
    return f"{number(value['mean'], digits)} +- {number(value['std'], digits)}"


def scaled(value: Result, factor: float) -> Result:
    """A summary in another unit."""
    return {name: None if value[name] is None else value[name] * factor for name in ("mean", "std")}


def difference(value: Result) -> str:
    """A difference with its interval."""
    if value["low"] is None:
        return f"{value['mean']:+.4f} (one seed)"
    return f"{value['mean']:+.4f} [{value['low']:+.4f}, {value['high']:+.4f}]"


def mean_value(points: Sequence[Result], name: str) -> float:
    """The mean of one key."""
    return sum(point[name] for point in points) / len(points)


def mean(points: Sequence[Result], name: str) -> str:
    """The same, as text."""
    return number(mean_value(points, name))


def pairs(values: Result, names: Any) -> str:
    """Names with their numbers."""
    return ", ".join(f"{name} {number(values[name])}" for name in names)


def joined(values: Sequence[Any]) -> str:
    """Values with commas between."""
    return ", ".join(map(str, values))


def sentence(text: str) -> str:
    """A description as a sentence."""
    return f"{text[:1].upper()}{text[1:]}."


def seeds(result: Result) -> str:
    """How many seeds, and which."""
    numbers = [of["seed"] if isinstance(of, dict) else of for of in result["seeds"]]
    return f"{len(numbers)} seed{'s' if len(numbers) > 1 else ''} ({joined(numbers)})"


def circumstances(result: Result) -> str:
    """Command and environments."""
    lines = [f"Command: `{result['command']}`\n"]
    for environment in result["environments"]:
        variables = "".join(f", {name}={value}" for name, value in environment.get("variables", {}).items())
        dirty = " with uncommitted changes" if environment["uncommitted_changes"] else ""
        lines.append(
            f"Environment: {environment['cores']} cores of {environment['cpu']}, device {environment['device']}; "
            f"lsec_jax {environment['lsec_jax']} at {environment['commit'][:12]}{dirty}, jax {environment['jax']}, "
            f"Python {environment['python']}{variables}.\n"
        )
    return "\n".join(lines)
