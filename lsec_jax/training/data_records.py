"""What is stored of a run's data, to know it again."""

from collections.abc import Callable, Mapping
from typing import Any

from lsec_jax import config_json
from lsec_jax.data.event_statistics import split_sizes
from lsec_jax.schema import FINGERPRINT_VERSION, DataError, LiveCommerceData


def describe_data(data: LiveCommerceData, version: int = FINGERPRINT_VERSION) -> dict[str, Any]:
    """Counts and fingerprint (of a version) of a data set, as stored in data.json."""
    splits = {
        name: None if relation.split is None else split_sizes(relation.split)
        for name, relation in data.relations.items()
    }
    return {
        "name": data.name,
        "fingerprint": data.fingerprint(version),
        **({} if version == 1 else {"fingerprint_version": version}),  # which files of version 1 do not name
        "nodes": {name: len(table) for name, table in data.nodes.items()},
        "edges": {name: len(relation) for name, relation in data.relations.items()},
        "edges_train_validation_test": splits,
        "counts": dict(data.counts),
    }


def data_differences(
    stored: Mapping[str, Any], describe: Callable[[int], dict[str, Any]], where: str = ""
) -> list[str]:
    """Compares what `describe_data` once said with the data now: one line for each difference, none if it is the same.

    Raises:
        DataError: if a later version described it; `where` begins the message.
    """
    version = stored.get("fingerprint_version", 1)
    if version not in range(1, FINGERPRINT_VERSION + 1):
        raise DataError(
            f"{where}fingerprint_version = {version!r}; this version of lsec_jax knows 1 to "
            f"{FINGERPRINT_VERSION}: use the version that trained the run"
        )
    current = describe(version)
    return [] if stored["fingerprint"] == current["fingerprint"] else config_json.differences(stored, current, "data")
