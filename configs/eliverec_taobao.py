"""eLiveRec on GHCF's Taobao data: which goods a user buys, from her other buys and what she put into the cart.

Source: `ghcf`. The files are sets without times, so histories are sets too: positions are off, no ages are shown, and a
training record sees a random subset of the user's other buys. Each buy stands beside goods that the user has not
bought: two in training, 19 where it validates or tests. Carts hold 17 % of the released test items, as the
published protocol has it.
"""

from lsec_jax.config import EvaluationConfig, HistoryConfig, OptimizerConfig, RunConfig, SplitConfig, TrainingConfig
from lsec_jax.data.sources import ghcf
from lsec_jax.declaration import Declaration, Field, Label, SequenceFields, Table
from lsec_jax.models import eliverec


def declared() -> Declaration:
    """A user, an item, and the items of both sets."""
    return Declaration(
        user="user",
        target="item",
        tables=(Table("item"),),
        fields=(Field("user", "user", "context"), Field("item_id", "item", "target", table="item")),
        sequences=(
            SequenceFields("buys", "buys", length=10, fields=(Field("item", "item", table="item"),), is_ordered=False),
            SequenceFields(
                "carts", "carts", length=10, fields=(Field("item", "item", table="item"),), is_ordered=False
            ),
        ),
        labels=(Label("bought", "bought"),),
    )


def get_config(variant: str = "") -> RunConfig:
    config = RunConfig(
        data=ghcf.Config(path="${LSEC_JAX_DATA}/ghcf_taobao", num_negatives=2, num_candidates=19),
        model=eliverec.Config(
            features=declared(),
            channel="buys",
            product="carts",
            embedding_dim=32,
            embedding_std=0.1,
            tower_widths=(64, 32),
            l2=1e-3,
        ),
        histories=(
            HistoryConfig("buys", item="item", where="bought"),
            HistoryConfig("carts", events="cart", item="item"),
        ),
        split=SplitConfig(method="given"),
        optimizer=OptimizerConfig(learning_rate=5e-3),
        training=TrainingConfig(num_steps=1000, batch_size=1024, evaluate_every=100, patience=3, metric="ndcg@10"),
        evaluation=EvaluationConfig(
            protocols=("impressions",), cutoffs=(10,), baselines=("popularity",), validation_users=2000
        ),
    )
    if variant == "tiny":
        config.data.num_candidates = 9
        config.model.embedding_dim, config.model.num_heads, config.model.regulariser_group_size = 8, 2, 32
        config.training.num_steps, config.training.batch_size, config.training.evaluate_every = 4, 64, 2
    elif variant:
        raise ValueError(f"unknown variant ':{variant}'; this config has ':tiny'")
    return config
