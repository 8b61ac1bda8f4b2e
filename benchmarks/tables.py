"""Writes docs/results.md, and the tables of README.md and docs/scaling.md, from the JSON files of the benchmarks.

Example:
  python -m benchmarks.tables           writes
  python -m benchmarks.tables --check   changes nothing; fails if a file is not what the JSON files give

README.md and docs/scaling.md get the short table of NAME (a key of SECTIONS, or more_relations, or a key of TABLES in
benchmarks/scaling/sections.py) between the lines `<!-- results:NAME -->` and `<!-- /results -->`, where they have them.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import flags

from benchmarks import runs
from benchmarks.markdown import Result
from benchmarks.scaling.sections import TABLES as SCALING_TABLES
from benchmarks.sections import NOT_MEASURED, SECTIONS, more_relations_table, sweep_section
from lsec_jax import cli
from lsec_jax.config import ConfigError

MORE_RELATIONS, MORE_RELATIONS_TITLE = "more_relations", "Do more relations help?"
MARKED = ("README.md", "docs/scaling.md")  # pages that have markers
_MARKED = re.compile(r"(<!-- results:(\w+) -->\n).*?(<!-- /results -->)", re.DOTALL)


def page(results: Mapping[str, Result]) -> str:
    """The text of docs/results.md."""
    parts = [
        "# Results\n",
        "Generated from `benchmarks/*/results/*.json` by `python -m benchmarks.tables`; do not edit. "
        "Values are means +- standard deviations over seeds.\n",
    ]
    parts += [f"## {MORE_RELATIONS_TITLE}\n", more_relations_table(results)]
    for name, (title, section, _) in SECTIONS.items():
        parts += [f"## {title}\n", section(results[name]) if name in results else NOT_MEASURED]
    for name, result in results.items():
        if name not in SECTIONS:
            parts += [f"## Sweep: {name.removeprefix('sweep_')}\n", sweep_section(result)]
    return "\n".join(parts)


def fill_markers(text: str, results: Mapping[str, Result]) -> str:
    """Returns a text with the tables between its markers replaced.

    Raises:
        ConfigError: for a marker of an unknown name, or one without its end.
    """
    known = (*SECTIONS, *SCALING_TABLES, MORE_RELATIONS)
    if unknown := set(re.findall(r"<!-- results:(\w+) -->", text)) - {*known}:
        raise ConfigError(f"unknown marker 'results:{min(unknown)}'; valid: {', '.join(known)}")
    if text.count("<!-- results:") != len(_MARKED.findall(text)) or text.count("<!-- /results -->") != text.count(
        "<!-- results:"
    ):
        raise ConfigError("each line '<!-- results:NAME -->' needs its own '<!-- /results -->' below it")

    def fill(match: re.Match[str]) -> str:
        name = match.group(2)
        if name == MORE_RELATIONS:
            table = more_relations_table(results)
        elif name in SCALING_TABLES:
            table = SCALING_TABLES[name](results["scaling"]) if "scaling" in results else NOT_MEASURED
        else:
            table = SECTIONS[name][2](results[name]) if name in results else NOT_MEASURED
        return f"{match.group(1)}\n{table}\n{match.group(3)}"

    return _MARKED.sub(fill, text)


def read_results(folders: Sequence[Path]) -> dict[str, Result]:
    """Returns the results that are there, by name, sweeps last."""
    found = {path.stem: path for folder in folders for path in sorted(folder.glob("*.json"))}
    names = [*(name for name in SECTIONS if name in found), *(name for name in found if name.startswith("sweep_"))]
    return {name: json.loads(found[name].read_text()) for name in names}


def main() -> None:
    """Runs the command."""
    results = read_results(runs.RESULTS)
    wanted = {runs.ROOT / "docs" / "results.md": page(results)}
    for marked in (runs.ROOT / name for name in MARKED):
        if marked.exists():
            wanted[marked] = fill_markers(marked.read_text(), results)
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    names = ", ".join(str(path.relative_to(runs.ROOT)) for path in stale)
    if flags.FLAGS.check and stale:
        raise ConfigError(f"{names}: not what the JSON files give; run python -m benchmarks.tables")
    for path in stale:
        path.write_text(wanted[path])
    print(f"wrote {names}" if stale else "everything is up to date")


def _define_flags() -> None:
    """Defines the flags; in a function, so that tests can import several commands with flags of one name."""
    flags.DEFINE_bool("check", False, "Compare instead of writing; exit code 2 if anything differs.")


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
