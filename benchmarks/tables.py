"""Writes docs/results.md, and the result tables of README.md, from the JSON files of the benchmarks.

Example:
  python -m benchmarks.tables           writes
  python -m benchmarks.tables --check   changes nothing; fails if a file is not what the JSON files give

README.md gets the short table of NAME (gowalla, synthetic, rechub) between the lines
`<!-- results:NAME -->` and `<!-- /results -->`, where it has them.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks import runs
from benchmarks.quality import rechub_agreement
from lsec_jax import cli
from lsec_jax.config import ConfigError

Result = Mapping[str, Any]

NOT_MEASURED = "not measured\n"
_MARKED = re.compile(r"(<!-- results:(\w+) -->\n).*?(<!-- /results -->)", re.DOTALL)


def gowalla_table(result: Result) -> str:
    """Scores of LightGCN and its floors beside the paper's."""
    names = list(result["metrics"])
    rows = [[model, *(_number(metrics[name]) for name in names), "-"] for model, metrics in result["baselines"].items()]
    rows.append(["LightGCN, its paper", *(_number(result["paper"][name]) for name in names), "-"])
    minutes = _scaled(result["train_seconds"], 1 / 60)
    rows.append(["LightGCN, here", *(_spread(result["metrics"][name]) for name in names), _spread(minutes, 1)])
    return _table(["model", *names, "training, minutes"], rows)


def gowalla_section(result: Result) -> str:
    """All about Gowalla."""
    target, check = result["target"], result["popularity_check"]
    reached = ", ".join("not reached" if seconds is None else f"{seconds:.0f} s" for seconds in target["seconds"])
    verdict = "it does" if check["agrees"] else f"IT DOES NOT, it gives {_pairs(check['measured'], check['expected'])}"
    steps = sorted({point["step"] for seed in result["seeds"] for point in seed["curve"]})
    rows = []
    for step in steps:
        points = [p for seed in result["seeds"] for p in seed["curve"] if p["step"] == step]
        columns = [_mean(points, name) for name in result["metrics"]]
        rows.append([str(step), f"{_mean_value(points, 'train_seconds'):.0f}", *columns])
    return "\n".join(
        [
            f"LightGCN, {_seeds(result)}; {result['protocol']}; {result['users']} users.\n",
            gowalla_table(result),
            f"- Training time to {_pairs(target, result['metrics'])}, by seed (measured at each point of the curve): "
            f"{reached}.",
            f"- Popularity must give {_pairs(check['expected'], check['expected'])}: {verdict}.",
            f"- One evaluation: {_spread(result['evaluation_seconds'], 1)} s.",
            "- The last checkpoint counts; the test curve below selects nothing.\n",
            "![Test metrics over training time](../benchmarks/quality/results/gowalla_curve.png)\n",
            _table(["step", "training, s", *(f"{name}, mean" for name in result["metrics"])], rows),
            _circumstances(result),
        ]
    )


def synthetic_table(result: Result) -> str:
    """Every model on the first protocol, in rising order of its first metric."""
    protocol, values = next(iter(result["protocols"].items()))
    return _models_table(values, list(next(iter(values["differences"].values()))), protocol)


def synthetic_section(result: Result) -> str:
    """All about the simulated worlds."""
    parts = [
        f"Simulated data, {_seeds(result)} ({_list(result['seeds'])}), each of {result['seed_of']}. The "
        "GCN sees purchases only; LSEC-GCN also follows and sales. Same optimizer, steps and early stopping. "
        "Differences are paired by seed, with 95% t-intervals over seeds; 'seeds above 0' counts those whose own "
        "interval over users (bootstrap) lies above 0.\n"
    ]
    for protocol, values in result["protocols"].items():
        described = list(dict.fromkeys(of["description"] for of in values["of_each_seed"]))
        names = list(next(iter(values["differences"].values())))
        rows = []
        for pair, by_metric in values["differences"].items():
            for name, value in by_metric.items():
                above = sum(users["low"] > 0 for users in value["users_of_each_seed"])
                rows.append([pair, name, _difference(value), f"{above} of {len(result['seeds'])}"])
        parts += [
            f"### Test, {protocol}\n",
            f"{'; '.join(described)}; {_list([of['users'] for of in values['of_each_seed']])} users.\n",
            _models_table(values, names, protocol),
            _table(["difference", "metric", "mean and 95% interval", "seeds above 0"], rows),
        ]
    rows = [
        [model, _spread(values["best_step"], 0), _spread(values["train_seconds"], 0)]
        for model, values in result["training"].items()
    ]
    return "\n".join([*parts, _table(["model", "best step", "training, s"], rows), _circumstances(result)])


def rechub_agreement_table(result: Result) -> str:
    """Validation metrics of both sides at each budget."""
    metrics = list(result["points"][0]["difference"])
    rows = []
    for point in result["points"]:
        positives = f"{point['ours']['positives']['buy'] / 1e6:.2f} M"
        for metric in metrics:
            sides = [_spread(point[side][metric]) for side in ("theirs", "ours")]
            rows.append([positives, metric, *sides, _difference(point["difference"][metric])])
    return _table(["positives per task", "metric", "authors' code", "lsec_jax", "ours - theirs, 95%"], rows)


def rechub_agreement_section(result: Result) -> str:
    """All about the agreement with the authors' code."""
    functions = result["metric_functions"]
    verdict = "agree" if functions["agrees"] else "DO NOT AGREE"
    rows = [
        [name, metric, f"{values['theirs']:.8f}", f"{values['ours']:.8f}", f"{values['difference']:.1e}"]
        for name, by_metric in functions["score_sets"].items()
        for metric, values in by_metric.items()
    ]
    seconds = [
        [
            f"{point['ours']['positives']['buy'] / 1e6:.2f} M",
            *(_list([point[side]["steps"], _spread(point[side]["train_seconds"], 0)]) for side in ("theirs", "ours")),
        ]
        for point in result["points"]
    ]
    return "\n".join(
        [
            f"LSEC-GCN on {result['data']['name']} (simulated), written in the LSEC format; validation, "
            f"candidates: {result['data']['candidates']}; {_seeds(result)} a side on one world, Welch "
            f"intervals. Popularity: {_pairs(result['popularity'], result['points'][0]['difference'])}.\n",
            rechub_agreement_table(result),
            *(f"- {note}" for note in rechub_agreement.NOTES),
            f"- Authors' code: {_list([f'{name} {version}' for name, version in result['peer'].items()])}.",
            f"\nSteps and seconds of training (threads: {result['settings']['peer_threads']} theirs, all cores ours; "
            "ours with compilation):\n",
            _table(["positives per task", "authors' code", "lsec_jax"], seconds),
            f"The metric functions {verdict}: the largest difference on the same scores without ties, "
            f"{functions['users']} users, is {functions['largest']:.1e} (allowed: {functions['tolerance']:.0e}).\n",
            _table(["scores", "metric", "authors' code", "lsec_jax", "difference"], rows),
            _circumstances(result),
        ]
    )


def sweep_section(result: Result) -> str:
    """All about one sweep."""
    parts = [
        f"{result['title']} Base: `{result['config']}`, {_seeds(result)} ({_list(result['seeds'])}); test, the "
        "checkpoint chosen on validation. Differences are paired by seed, with 95% t-intervals.\n"
    ]
    for protocol, values in result["protocols"].items():
        floors = [name for name in values["models"] if name not in result["training"] and name != "oracle"]
        names = [*floors, *result["training"], *({"oracle"} & values["models"].keys())]
        models = [[name, *(_spread(values["models"][name][key]) for key in values["shown"])] for name in names]
        differences = [
            [pair, *(_difference(by_metric[key]) for key in values["shown"])]
            for pair, by_metric in values["differences"].items()
        ]
        parts += [
            f"{_sentence(values['description'])}\n",
            _table([f"row ({protocol})", *values["shown"]], models),
            _table([f"difference ({protocol})", *values["shown"]], differences),
        ]
    columns = {"best_step": "best step", "last_step": "steps", "train_seconds": "training, s"}
    columns = {key: title for key, title in columns.items() if key in next(iter(result["training"].values()))}
    rows = [[name, *(_spread(of[key], 0) for key in columns)] for name, of in result["training"].items()]
    parts.append(_table(["row", *columns.values()], rows))
    rates = result.get("learning_rates", {})
    if any(of["validation_by_factor"] for of in rates.values()):
        parts.append(_rates_table(rates))
    return "\n".join([*parts, _circumstances(result)])


def _rates_table(rates: Result) -> str:
    """Each row's learning rate, and the validation metric that it was chosen by."""
    factors = list(next(iter(rates.values()))["validation_by_factor"])
    rows = [
        [name, f"{of['rate']:g}", *(_number(of["validation_by_factor"][factor]) for factor in factors)]
        for name, of in rates.items()
    ]
    header = ["row", "learning rate", *(f"validation at {factor} x base" for factor in factors)]
    return _table(header, rows)


SECTIONS: dict[str, tuple[str, Callable[[Result], str], Callable[[Result], str]]] = {
    "gowalla": ("Gowalla, full ranking", gowalla_section, gowalla_table),
    "synthetic": ("Simulated worlds at LSEC-Small's proportions", synthetic_section, synthetic_table),
    "rechub": ("Agreement with the authors' code", rechub_agreement_section, rechub_agreement_table),
    "rechub_long": ("The authors' code for longer", rechub_agreement_section, rechub_agreement_table),
}


def page(results: Mapping[str, Result]) -> str:
    """The text of docs/results.md."""
    parts = [
        "# Results\n",
        "Generated from `benchmarks/quality/results/*.json` by `python -m benchmarks.tables`; do not edit. "
        "Values are means +- standard deviations over seeds.\n",
    ]
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
    if unknown := set(re.findall(r"<!-- results:(\w+) -->", text)) - set(SECTIONS):
        raise ConfigError(f"unknown marker 'results:{min(unknown)}'; valid: {', '.join(SECTIONS)}")
    if text.count("<!-- results:") != len(_MARKED.findall(text)) or text.count("<!-- /results -->") != text.count(
        "<!-- results:"
    ):
        raise ConfigError("each line '<!-- results:NAME -->' needs its own '<!-- /results -->' below it")

    def fill(match: re.Match[str]) -> str:
        name = match.group(2)
        table = SECTIONS[name][2](results[name]) if name in results else NOT_MEASURED
        return f"{match.group(1)}\n{table}\n{match.group(3)}"

    return _MARKED.sub(fill, text)


def read_results(folder: Path) -> dict[str, Result]:
    """Returns the results that are there, by name, sweeps last."""
    paths = {name: folder / f"{name}.json" for name in SECTIONS}
    paths |= {path.stem: path for path in sorted(folder.glob("sweep_*.json"))}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines) + "\n"


def _models_table(values: Result, names: Sequence[str], protocol: str) -> str:
    models = sorted(values["models"].items(), key=lambda item: item[1][names[0]]["mean"])
    rows = [[model, *(_spread(metrics[name]) for name in names)] for model, metrics in models]
    return _table([f"model ({protocol})", *names], rows)


def _number(value: float, digits: int = 4) -> str:
    return f"{value:.{digits}f}"


def _spread(value: Result, digits: int = 4) -> str:
    if value["std"] is None:
        return f"{_number(value['mean'], digits)} (one seed)"
    return f"{_number(value['mean'], digits)} +- {_number(value['std'], digits)}"


def _scaled(value: Result, factor: float) -> Result:
    return {name: None if value[name] is None else value[name] * factor for name in ("mean", "std")}


def _difference(value: Result) -> str:
    if value["low"] is None:
        return f"{value['mean']:+.4f} (one seed)"
    return f"{value['mean']:+.4f} [{value['low']:+.4f}, {value['high']:+.4f}]"


def _mean_value(points: Sequence[Result], name: str) -> float:
    return sum(point[name] for point in points) / len(points)


def _mean(points: Sequence[Result], name: str) -> str:
    return _number(_mean_value(points, name))


def _pairs(values: Result, names: Any) -> str:
    return ", ".join(f"{name} {_number(values[name])}" for name in names)


def _list(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _seeds(result: Result) -> str:
    count = len(result["seeds"])
    return f"{count} seed{'s' if count > 1 else ''}"


def _circumstances(result: Result) -> str:
    lines = [f"Command: `{result['command']}`\n"]
    for environment in result["environments"]:
        dirty = " with uncommitted changes" if environment["uncommitted_changes"] else ""
        lines.append(
            f"Environment: {environment['cores']} cores of {environment['cpu']}, device {environment['device']}; "
            f"lsec_jax {environment['lsec_jax']} at {environment['commit'][:12]}{dirty}, jax {environment['jax']}, "
            f"Python {environment['python']}.\n"
        )
    return "\n".join(lines)


def main() -> None:
    """Runs the command."""
    results = read_results(runs.QUALITY)
    readme, document = runs.ROOT / "README.md", runs.ROOT / "docs" / "results.md"
    wanted = {document: page(results)}
    if readme.exists():
        wanted[readme] = fill_markers(readme.read_text(), results)
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
