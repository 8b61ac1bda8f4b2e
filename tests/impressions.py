"""Random scored impressions, their metrics, and the slow definitions of these; shared by tests."""

import dataclasses

import numpy as np

from lsec_jax.event_metrics import EventMetrics

CUTOFFS = (1, 3, 10)


@dataclasses.dataclass(frozen=True)
class Task:
    name: str
    kind: str = "binary"
    transform: str = ""


LABELS = (Task("watched"), Task("stay", "regression", "log1p"), Task("bag"), Task("amount", "regression"))


def random_rows(num_rows=3000, num_users=60, num_requests=400, num_levels=0, seed=0):
    """Scores of all tasks (of so many levels, where they tie), answers, users, requests."""
    generator = np.random.default_rng(seed)
    requests = generator.integers(num_requests, size=num_rows)
    users = generator.integers(num_users, size=num_requests)[requests]
    logits = generator.normal(-1, 1, num_rows)
    if num_levels:
        logits = np.round(logits * num_levels) / num_levels
    watched = generator.random(num_rows) < 1 / (1 + np.exp(-logits))
    stay, bag = np.log1p(generator.exponential(60, num_rows)), generator.random(num_rows) < 0.3
    amount = generator.normal(size=num_rows)
    answers = np.stack([watched, stay, bag, amount], axis=1).astype(np.float32)
    answers[~watched, 1:] = np.nan
    scores = {"watched": logits, "stay": stay + generator.normal(size=num_rows), "bag": bag + logits, "amount": logits}
    return {name: of.astype(np.float32) for name, of in scores.items()}, answers, users, requests


def measured(scores, answers, users, requests, labels=LABELS, block=257, **options):
    num_requests = 0 if requests is None else int(requests.max(initial=-1)) + 1
    found = EventMetrics(labels, CUTOFFS, int(users.max(initial=-1)) + 1, num_requests, **options)
    for start in range(0, len(users), block):
        rows = slice(start, start + block)
        part = {name: of[rows] for name, of in scores.items()}
        found.add(part, answers[rows], users[rows], None if requests is None else requests[rows])
    return found.result()


def slow_auc(scores, labels):
    positives, negatives = scores[labels], scores[~labels]
    if not len(positives) or not len(negatives):
        return np.nan
    return np.mean([(p > n) + 0.5 * (p == n) for p in positives for n in negatives])


def slow_ranks(scores, labels):
    """Of the positives, which rank below negatives of equal score."""
    negatives = scores[~labels]
    return np.array([1 + i + np.sum(negatives >= p) for i, p in enumerate(np.sort(scores[labels])[::-1])])


def slow_metrics(scores, answers, users, requests):
    """Transcription of the definitions, one group at a time."""
    values, labels = scores["watched"], answers[:, 0] > 0.5
    found = {}
    for name, groups in (("gauc", users), ("gauc_request", requests)):
        sizes = np.array([np.sum(groups == group) for group in np.unique(groups)])
        aucs = np.array([slow_auc(values[groups == group], labels[groups == group]) for group in np.unique(groups)])
        kept = ~np.isnan(aucs)
        found[name] = np.sum(sizes[kept] * aucs[kept]) / np.sum(sizes[kept])
    first = []
    for request in np.unique(requests[labels]):
        rows = requests == request
        best, negatives = max(values[rows & labels]), values[rows & ~labels]
        first.append(1 + sum(1 for value in negatives if value >= best))
    found["mrr"] = np.mean([1 / rank for rank in first])
    for k in CUTOFFS:
        found[f"hr@{k}"] = np.mean([rank <= k for rank in first])
        precisions, ndcgs = [], []
        for request in np.unique(requests[labels]):
            rows = requests == request
            ranks = slow_ranks(values[rows], labels[rows])
            precisions.append(np.sum(ranks <= k) / min(k, rows.sum()))
            ideal = sum(1 / np.log2(r + 1) for r in range(1, min(k, len(ranks)) + 1))
            ndcgs.append(sum(1 / np.log2(r + 1) for r in ranks if r <= k) / ideal)
        found[f"precision@{k}"], found[f"ndcg@{k}"] = np.mean(precisions), np.mean(ndcgs)
    return found
