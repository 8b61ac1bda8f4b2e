"""What `live_statistics` found in a log of live rooms, as JSON, Markdown and a picture."""

import math
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lsec_jax.data.live_statistics import RESPONSE_BINS, GiftStatistics, LiveStatistics

matplotlib.use("Agg")

COLOR, SECOND_COLOR = "#4878a8", "#c0504d"


def summary(found: LiveStatistics) -> dict[str, Any]:
    """The JSON of the statistics; numbers that are not defined are null."""
    feed = found.feed
    result: dict[str, Any] = {
        "impressions": feed.num_impressions,
        "requests": feed.num_requests,
        "users": feed.num_users,
        "rooms": feed.num_rooms,
        "watch_rate": _number(feed.watch_rate),
        "watches_per_request": _number(feed.watches_per_request),
        "repeat_share": _number(feed.repeat_share),
        "repeat_share_by_tenth": [_number(value) for value in feed.repeat_share_by_tenth],
        "stay_seconds": {"mean": _number(feed.mean_stay_seconds), "median": _number(feed.median_stay_seconds)},
        "rates_of_watches": {name: _number(value) for name, value in feed.rates.items()},
        "watch_rate_by_position": [_number(value) for value in feed.watch_rate_by_position],
    }
    if (shares := found.shares) is not None:
        result["shares"] = {
            "number": shares.num_shares,
            "accepted": _number(shares.accepted),
            "scenarios": len(shares.of_scenarios),
            "share_of_the_largest_tenth": _number(shares.head_share),
        }
    if (gifts := found.gifts) is not None:
        result["gifts"] = {
            "number": gifts.num_gifts,
            "mean_amount": _number(gifts.mean_amount),
            "within_a_minute_of_another": _number(gifts.within_a_minute),
            "fano_factor": _number(gifts.fano_factor),
            "mean_response_by_gifts_in_the_minute_before": {
                label: _number(value) for label, value in zip(_bin_labels(), gifts.responses, strict=True)
            },
        }
    return result


def markdown(content: dict[str, Any]) -> list[str]:
    """The section of analysis.md, from `summary`."""
    stay, rates = content["stay_seconds"], content["rates_of_watches"]
    rows = [
        ("impressions", str(content["impressions"])),
        ("requests", str(content["requests"] or "-")),
        ("users, rooms", f"{content['users']}, {content['rooms']}"),
        ("impressions that are watched", _percent(content["watch_rate"])),
        ("watches a request", _text(content["watches_per_request"])),
        ("watches of a streamer watched before", _percent(content["repeat_share"])),
        ("the same, last tenth of the watches", _percent(content["repeat_share_by_tenth"][-1])),
        ("stay, mean and median, seconds", f"{_text(stay['mean'], '.0f')}, {_text(stay['median'], '.0f')}"),
        *((f"watches with a {name.replace('_', ' ')}", _percent(value)) for name, value in rates.items()),
    ]
    if (shares := content.get("shares")) is not None:
        rows += [
            ("shares, and those accepted", f"{shares['number']}, {_percent(shares['accepted'])}"),
            ("scenarios with shares", str(shares["scenarios"])),
            ("shares in the largest tenth of them", _percent(shares["share_of_the_largest_tenth"])),
        ]
    if (gifts := content.get("gifts")) is not None:
        rows += [
            ("gifts, and their mean amount", f"{gifts['number']}, {_text(gifts['mean_amount'])}"),
            ("gifts within a minute after another in the room", _percent(gifts["within_a_minute_of_another"])),
            ("Fano factor of gifts of a room in a minute", _text(gifts["fano_factor"])),
        ]
        by_bin = gifts["mean_response_by_gifts_in_the_minute_before"]
        rows += [
            (f"mean response after {label} gifts in the minute before", _text(value, ".3f"))
            for label, value in by_bin.items()
            if value is not None
        ]
    return ["## What happens in the rooms?", "", "| | |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows)]


def figure(found: LiveStatistics) -> Figure:
    """Four panels: watches of rooms and shares of scenarios by rank, repeats over time, positions, responses."""
    picture = Figure(figsize=(10, 7.2), layout="constrained")
    ranks, repeats, positions, responses = picture.subplots(2, 2).ravel()
    feed, shares, gifts = found.feed, found.shares, found.gifts
    counts = {"watches of a room": feed.watches_of_rooms}
    counts |= {} if shares is None else {"shares of a scenario": shares.of_scenarios}
    counts |= {} if gifts is None else {"gifts of a room": gifts.gifts_of_rooms}
    for label, values in counts.items():
        values = values[values > 0]
        ranks.plot(np.arange(1, len(values) + 1), values, label=label, linewidth=1.8)
    ranks.set(xscale="log", yscale="log", xlabel="rank", ylabel="number", title="Long tails")
    ranks.legend(frameon=False, fontsize=9)
    repeats.plot(np.arange(5, 100, 10), feed.repeat_share_by_tenth, "o-", color=COLOR)
    repeats.axhline(feed.repeat_share, color="#777777", linewidth=1, linestyle="--", label="all watches")
    repeats.legend(frameon=False, fontsize=9, loc="lower right")
    repeats.set(ylim=(0, 1), xlabel="part of the log, %", ylabel="share of watches", title="Streamers watched before")
    positions.bar(np.arange(1, len(feed.watch_rate_by_position) + 1), feed.watch_rate_by_position, color=COLOR)
    positions.set(xlabel="position in the slate", ylabel="watch rate", title="Watched by position")
    if gifts is not None:
        _response_panel(responses, gifts)
    else:
        responses.set_axis_off()
    for panel in (ranks, repeats, positions, responses):
        panel.grid(axis="y", color="#dddddd", linewidth=0.6)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    return picture


def _response_panel(panel: Axes, gifts: GiftStatistics) -> None:
    places = np.arange(len(RESPONSE_BINS))
    panel.bar(places, np.nan_to_num(gifts.responses), color=SECOND_COLOR)
    for place in places[np.isnan(gifts.responses)]:
        panel.annotate("none", (place, 0.0), xytext=(0, 3), textcoords="offset points", ha="center", color="#777777")
    panel.set_xticks(places, _bin_labels())
    title = f"Responses shrink in bursts; Fano factor {_text(_number(gifts.fano_factor))}"
    panel.set(xlabel="gifts to the room in the minute before", ylabel="mean response", title=title)


def _bin_labels() -> list[str]:
    """For example 0, 1, 2-3, 4-7, 8-15 and 16+."""
    ends = [low - 1 for low in RESPONSE_BINS[1:]]
    labels = [f"{low}" if low == end else f"{low}-{end}" for low, end in zip(RESPONSE_BINS, ends, strict=False)]
    return [*labels, f"{RESPONSE_BINS[-1]}+"]


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def _text(value: float | None, style: str = ".2f") -> str:
    return "-" if value is None else format(value, style)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"
