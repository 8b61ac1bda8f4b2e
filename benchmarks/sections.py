"""What docs/results.md says about each result: its short table and its section."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks import markdown, scenario_section
from benchmarks.markdown import Result
from benchmarks.quality import intentions_section, next_item_section, rechub_agreement
from benchmarks.quality import world as world_benchmark
from benchmarks.scaling import sections as scaling_sections
from benchmarks.throughput import eliverec_section, level_sections, treems_section
from benchmarks.throughput.sections import (
    data_pipeline_section,
    data_pipeline_table,
    embedding_tables_section,
    embedding_tables_table,
    encoding_section,
    encoding_table,
    preparation_section,
    preparation_table,
)
from benchmarks.throughput.suite_section import ranker_section, targets_table
from benchmarks.throughput.suite_section import section as suite_section
from lsec_jax.training import prequential_report

NOT_MEASURED = "not measured\n"


def gowalla_table(result: Result) -> str:
    """Scores of LightGCN and its floors beside the paper's."""
    names = list(result["metrics"])
    rows = [
        [model, *(markdown.number(metrics[name]) for name in names), "-"]
        for model, metrics in result["baselines"].items()
    ]
    rows.append(["LightGCN, its paper", *(markdown.number(result["paper"][name]) for name in names), "-"])
    minutes = markdown.scaled(result["train_seconds"], 1 / 60)
    rows.append(
        ["LightGCN, here", *(markdown.spread(result["metrics"][name]) for name in names), markdown.spread(minutes, 1)]
    )
    return markdown.table(["model", *names, "training, minutes"], rows)


def gowalla_section(result: Result) -> str:
    """All about Gowalla."""
    target, check = result["target"], result["popularity_check"]
    reached = ", ".join("not reached" if seconds is None else f"{seconds:.0f} s" for seconds in target["seconds"])
    verdict = (
        "it does"
        if check["agrees"]
        else f"IT DOES NOT, it gives {markdown.pairs(check['measured'], check['expected'])}"
    )
    steps = sorted({point["step"] for seed in result["seeds"] for point in seed["curve"]})
    rows = []
    for step in steps:
        points = [p for seed in result["seeds"] for p in seed["curve"] if p["step"] == step]
        columns = [markdown.mean(points, name) for name in result["metrics"]]
        rows.append([str(step), f"{markdown.mean_value(points, 'train_seconds'):.0f}", *columns])
    return "\n".join(
        [
            f"LightGCN, {markdown.seeds(result)}; {result['protocol']}; {result['users']} users.\n",
            gowalla_table(result),
            f"- Training time to {markdown.pairs(target, result['metrics'])}, by seed (measured at each point of the "
            f"curve): {reached}.",
            f"- Popularity must give {markdown.pairs(check['expected'], check['expected'])}: {verdict}.",
            f"- One evaluation: {markdown.spread(result['evaluation_seconds'], 1)} s.",
            "- The last checkpoint counts; the test curve below selects nothing.\n",
            "![Test metrics over training time](../benchmarks/quality/results/gowalla_curve.png)\n",
            markdown.table(["step", "training, s", *(f"{name}, mean" for name in result["metrics"])], rows),
            markdown.circumstances(result),
        ]
    )


def synthetic_table(result: Result) -> str:
    """Every model on the first protocol, in rising order of its first metric."""
    protocol, values = next(iter(result["protocols"].items()))
    return _models_table(values, list(next(iter(values["differences"].values()))), protocol)


def synthetic_section(result: Result) -> str:
    """All about the simulated worlds."""
    parts = [
        f"Simulated data, {markdown.seeds(result)}, each of {result['seed_of']}. The GCN sees purchases "
        "only; LSEC-GCN also follows and sales. Same optimizer, steps and early stopping. "
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
                rows.append([pair, name, markdown.difference(value), f"{above} of {len(result['seeds'])}"])
        parts += [
            f"### Test, {protocol}\n",
            f"{'; '.join(described)}; {markdown.joined([of['users'] for of in values['of_each_seed']])} users.\n",
            _models_table(values, names, protocol),
            markdown.table(["difference", "metric", "mean and 95% interval", "seeds above 0"], rows),
        ]
    rows = [
        [model, markdown.spread(values["best_step"], 0), markdown.spread(values["train_seconds"], 0)]
        for model, values in result["training"].items()
    ]
    return "\n".join(
        [*parts, markdown.table(["model", "best step", "training, s"], rows), markdown.circumstances(result)]
    )


def rechub_agreement_table(result: Result) -> str:
    """Validation metrics of both sides at each budget."""
    metrics = list(result["points"][0]["difference"])
    rows = []
    for point in result["points"]:
        positives = f"{point['ours']['positives']['buy'] / 1e6:.2f} M"
        for metric in metrics:
            sides = [markdown.spread(point[side][metric]) for side in ("theirs", "ours")]
            rows.append([positives, metric, *sides, markdown.difference(point["difference"][metric])])
    return markdown.table(["positives per task", "metric", "authors' code", "lsec_jax", "ours - theirs, 95%"], rows)


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
            *(
                markdown.joined([point[side]["steps"], markdown.spread(point[side]["train_seconds"], 0)])
                for side in ("theirs", "ours")
            ),
        ]
        for point in result["points"]
    ]
    return "\n".join(
        [
            f"LSEC-GCN on {result['data']['name']} (simulated), written in the LSEC format; validation, "
            f"candidates: {result['data']['candidates']}; {markdown.seeds(result)} a side on one world, Welch "
            f"intervals. Popularity: {markdown.pairs(result['popularity'], result['points'][0]['difference'])}.\n",
            rechub_agreement_table(result),
            *(f"- {note}" for note in rechub_agreement.NOTES),
            f"- Authors' code: {markdown.joined([f'{name} {version}' for name, version in result['peer'].items()])}.",
            f"\nSteps and seconds of training (threads: {result['settings']['peer_threads']} theirs, all cores ours; "
            "ours with compilation):\n",
            markdown.table(["positives per task", "authors' code", "lsec_jax"], seconds),
            f"The metric functions {verdict}: the largest difference on the same scores without ties, "
            f"{functions['users']} users, is {functions['largest']:.1e} (allowed: {functions['tolerance']:.0e}).\n",
            markdown.table(["scores", "metric", "authors' code", "lsec_jax", "difference"], rows),
            markdown.circumstances(result),
        ]
    )


def sweep_section(result: Result) -> str:
    """All about one sweep."""
    parts = [
        f"{result['title']} Base: `{result['config']}`, {markdown.seeds(result)}; test, the "
        "checkpoint chosen on validation (the last one where the config does not validate). Differences are paired "
        "by seed, with 95% t-intervals.\n"
    ]
    for protocol, values in result["protocols"].items():
        floors = [name for name in values["models"] if name not in result["training"] and name != "oracle"]
        names = [*floors, *result["training"], *({"oracle"} & values["models"].keys())]
        models = [[name, *_cells(values["models"][name], values["shown"], markdown.spread)] for name in names]
        differences = [
            [pair, *_cells(by_metric, values["shown"], markdown.difference)]
            for pair, by_metric in values["differences"].items()
        ]
        parts += [
            f"{markdown.sentence(values['description'])}\n",
            markdown.table([f"row ({protocol})", *values["shown"]], models),
            markdown.table([f"difference ({protocol})", *values["shown"]], differences),
        ]
    parts += scenario_section.tables(result)
    columns = {"best_step": "best step", "last_step": "steps", "train_seconds": "training, s"}
    columns = {key: title for key, title in columns.items() if key in next(iter(result["training"].values()))}
    rows = [[name, *(markdown.spread(of[key], 0) for key in columns)] for name, of in result["training"].items()]
    parts.append(markdown.table(["row", *columns.values()], rows))
    rates = result.get("learning_rates", {})
    if any(of["validation_by_factor"] for of in rates.values()):
        parts.append(_rates_table(rates))
    return "\n".join([*parts, markdown.circumstances(result)])


def _cells(of: Mapping[str, Any], names: Sequence[str], show: Callable[[Any], str]) -> list[str]:
    """A row's numbers; "-" for what it does not have, such as metrics of tasks that it did not learn."""
    return [show(of[name]) if name in of else "-" for name in names]


def more_relations_table(results: Mapping[str, Result]) -> str:
    """Whether an aggregator on all relations is better than on the first one, by data set; from the sweeps `models`."""
    rows = []
    for result in results.values():
        if result.get("sweep") != "models":
            continue
        protocol, values = next(iter(result["protocols"].items()))
        metric = next((name for name in values["shown"] if name.startswith("ndcg")), values["shown"][0])
        for name in (name for name in result["training"] if name.startswith("lsec-")):
            one = name.removeprefix("lsec-")
            found = values["differences"].get(f"{name} - {one}")
            if found is None:
                continue
            scores = [markdown.spread(values["models"][row][metric]) for row in (one, name)]
            low, high = (found[metric][end] or 0.0 for end in ("low", "high"))
            verdict = "yes" if low > 0 else "no" if high < 0 else "not shown"
            config = result["config"].removeprefix("configs/").removesuffix(".py")
            rows.append([config, one, f"{metric}, {protocol}", *scores, markdown.difference(found[metric]), verdict])
    header = ["config", "aggregator", "test metric", "one relation", "all relations", "difference, 95%", "better?"]
    return markdown.table(header, rows) if rows else NOT_MEASURED


def _rates_table(rates: Result) -> str:
    """Each row's learning rate, and the validation metric that it was chosen by."""
    factors = list(next(iter(rates.values()))["validation_by_factor"])
    rows = [
        [name, f"{of['rate']:g}", *(markdown.number(of["validation_by_factor"][factor]) for factor in factors)]
        for name, of in rates.items()
    ]
    header = ["row", "learning rate", *(f"validation at {factor} x base" for factor in factors)]
    return markdown.table(header, rows)


def influence_table(result: Result) -> str:
    """How much more likely a purchase is with a followed streamer between, by world."""
    columns = {
        "joined": ("P(buy), followed streamer sells", 6),
        "apart": ("P(buy), none does", 6),
        "ratio": ("ratio, exact", 3),
        "monte_carlo_ratio": ("ratio, Monte Carlo", 3),
        "true_ratio": ("ratio, true", 3),
        "z_score": ("z of exact against true", 2),
    }
    rows = [
        [world, *(markdown.spread(values[key], digits) for key, (_, digits) in columns.items())]
        for world, values in result["worlds"].items()
    ]
    return markdown.table(["world", *(title for title, _ in columns.values())], rows)


def influence_section(result: Result) -> str:
    """All about the analyses of planted worlds."""
    rows = []
    for world, values in result["worlds"].items():
        for kind, joined, apart in (
            ("users", "follow one streamer", "follow none in common"),
            ("items", "sold by one streamer", "sold by none in common"),
        ):
            for measure in ("cosine", "jaccard"):
                pair = [markdown.spread(values[f"{kind}_{measure}_{group}"], 5) for group in ("joined", "apart")]
                rows.append([world, f"{kind}, {measure}", f"{pair[0]} ({joined})", f"{pair[1]} ({apart})"])
    seconds = [value for values in result["worlds"].values() for value in values["seconds"]["values"]]
    return "\n".join(
        [
            f"Worlds of LSEC-Small's size, {markdown.seeds(result)}; all edges. The paper's data has "
            "0.000335 and 0.0000704, ratio 4.8.\n"
            if result["size"] == "lsec_small"
            else f"Worlds of size {result['size']}, {markdown.seeds(result)}.\n",
            influence_table(result),
            markdown.table(["world", "pairs of", "mean, joined", "mean, apart"], rows),
            f"- One analysis with its world and pictures: {min(seconds):.0f} to {max(seconds):.0f} s.\n",
            markdown.circumstances(result),
        ]
    )


def world_table(result: Result) -> str:
    """The live world's statistics beside the published ones."""
    rows = []
    for name, published in result["published"].items():
        found = [_short_spread(of["statistics"][name]) for of in result["worlds"].values()]
        rows.append([name, *found, "; ".join(f"{_short(of['value'])} ({of['data']})" for of in published) or "-"])
    return markdown.table(["statistic", *_world_titles(result), "published"], rows)


def world_section(result: Result) -> str:
    """All about the live world's statistics."""
    rows = [
        [title, *(markdown.spread(of[key], 2) for key in ("seconds", "imported_gib", "peak_gib"))]
        for title, of in zip(_world_titles(result), result["worlds"].values(), strict=True)
    ]
    every = [of for values in result["published"].values() for of in values]
    sources = [
        f"{source} ({markdown.joined(list(dict.fromkeys(of['data'] for of in every if of['source'] == source)))})"
        for source in dict.fromkeys(of["source"] for of in every)
    ]
    return "\n".join(
        [
            f"The default live worlds, simulated, {markdown.seeds(result)}.\n",
            world_table(result),
            *(f"- {note}" for note in world_benchmark.NOTES),
            f"- Published numbers, or those that they are quotients of: {'; '.join(sources)}.\n",
            markdown.table(["world", "simulation, s", "libraries, GiB", "peak memory with them, GiB"], rows),
            markdown.circumstances(result),
        ]
    )


def _world_titles(result: Result) -> list[str]:
    return [f"{size}: {of['impressions']:,} impressions" for size, of in result["worlds"].items()]


def _short_spread(value: Result) -> str:
    return f"{_short(value['mean'])} +- {value['std']:.2g}" if value["std"] else _short(value["mean"])


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _models_table(values: Result, names: Sequence[str], protocol: str) -> str:
    models = sorted(values["models"].items(), key=lambda item: item[1][names[0]]["mean"])
    rows = [[model, *(markdown.spread(metrics[name]) for name in names)] for model, metrics in models]
    return markdown.table([f"model ({protocol})", *names], rows)


def prequential_table(result: Result) -> str:
    """The metric of each policy by the age of its model, and the differences to training from scratch."""
    return prequential_report.table(result["curves"])


def prequential_section(result: Result) -> str:
    """All about models that age."""
    of, starts = result["settings"], markdown.joined(result["settings"]["start_days"])
    return "\n".join(
        [
            f"{result['config']} (simulated, new items every day), {markdown.seeds(result)}, means over models first "
            f"trained before day {starts}: test {result['metric']} on the next day, {result['protocol']} on the first "
            f"one. cold: {of['num_steps']} steps from scratch every day; warm: {of['warm_steps']} steps a day from the "
            "model of the day before; refreshed: never trained again, over the graph of the day; frozen: over that "
            "of its first day ([more](updating.md#what-updating-brings)).\n",
            prequential_table(result),
            "![Metric by age](../benchmarks/quality/results/prequential.png)\n",
            markdown.circumstances(result),
        ]
    )


SECTIONS: dict[str, tuple[str, Callable[[Result], str], Callable[[Result], str]]] = {
    "gowalla": ("Gowalla, full ranking", gowalla_section, gowalla_table),
    "next_item": ("The next item on Amazon Beauty", next_item_section.section, next_item_section.table),
    "synthetic": ("Simulated worlds at LSEC-Small's proportions", synthetic_section, synthetic_table),
    "rechub": ("Agreement with the authors' code", rechub_agreement_section, rechub_agreement_table),
    "influence": ("The analyses of Section 4 on planted worlds", influence_section, influence_table),
    "intentions": ("What eLiveRec's vectors know", intentions_section.section, intentions_section.table),
    "prequential": ("Models that age", prequential_section, prequential_table),
    "world": ("The live world beside published statistics", world_section, world_table),
    "suite": ("How fast each kind of work is", suite_section, targets_table),
    "suite_gpu": ("How fast each kind of work is on a GPU", suite_section, targets_table),
    "rankers": ("Training steps of rankers of impressions", ranker_section, targets_table),
    "eliverec_step": ("eLiveRec's training step", eliverec_section.section, eliverec_section.table),
    "treems_step": ("TREEMS's training step", treems_section.section, treems_section.table),
    "embedding_tables": ("Dense and lazy updates of tables", embedding_tables_section, embedding_tables_table),
    "preparation": ("Preparing logs of growing size", preparation_section, preparation_table),
    "data_pipeline": ("Batches of events from disk", data_pipeline_section, data_pipeline_table),
    "encoding": ("Encoded records from disk", encoding_section, encoding_table),
    "scaling": ("What devices send each other", scaling_sections.section, scaling_sections.counts_table),
    "time_to_auc": (
        "Time to the authors' code's AUC",
        level_sections.time_to_auc_section,
        level_sections.time_to_auc_table,
    ),
    "time_to_auc_small_world": (
        "Time to the authors' code's AUC in a smaller world",
        level_sections.time_to_auc_section,
        level_sections.time_to_auc_table,
    ),
    "gowalla_time": (
        "Time to Gowalla's Recall@20",
        level_sections.gowalla_time_section,
        level_sections.gowalla_time_table,
    ),
    "rechub_long": ("The authors' code for longer", rechub_agreement_section, rechub_agreement_table),
}
