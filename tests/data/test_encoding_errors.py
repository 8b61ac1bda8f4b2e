"""Declarations that the data cannot fill are refused with what is there instead."""

import dataclasses

import numpy as np
import pytest

from lsec_jax.config import ConfigError, HistoryConfig
from lsec_jax.data.encoding import EventEncoder
from lsec_jax.data.sequences import add_histories
from lsec_jax.declaration import Field, Label
from lsec_jax.schema import TEST, DataError
from tests.data.encoded_worlds import CLICKS, FIELDS, HISTORIES, WATCHES, declaration, world


@pytest.fixture(scope="module")
def encoder():
    return EventEncoder(world(), declaration())


def with_fields(*fields, **changes):
    return declaration(fields=(*FIELDS, *fields), **changes)


def in_sequence(*fields, **changes):
    of = dataclasses.replace(WATCHES, fields=(*WATCHES.fields, *fields), **changes)
    return declaration(sequences=(of, CLICKS))


WRONG = {
    "events": (DataError, "has no events 'view'", declaration(events="view")),
    "user": (DataError, "have no 'viewer'", declaration(user="viewer")),
    "target": (DataError, "have no 'article'", declaration(target="article")),
    "role": (DataError, "have no 'item'; they have", with_fields(Field("x", "item", "target"))),
    "column": (DataError, "have no column 'nothing'", with_fields(Field("x", ".nothing", "dynamic"))),
    "feature": (ConfigError, r"fields\[10\].source: room nodes have no feature 'price'; they have: category",
                with_fields(Field("x", "room.price", "target"))),
    "two kinds": (ConfigError, r"table 'room' would have ids of room .* and ids of streamer .*'x'\); give each",
                  with_fields(Field("x", "streamer", "target", "room"))),
    "transform of ids": (ConfigError, r"transform = 'log1p': 'room' is embedded; leave it out",
                         with_fields(Field("x", "room", "target", transform="log1p"))),
    "table of numbers": (ConfigError, r"table = 'room': '.minutes_live' is a number, not embedded",
                         with_fields(Field("x", ".minutes_live", "dynamic", "room"))),
    "negative logarithm": (ConfigError, r"transform = 'log1p': data set .* has -\d.* are for numbers of 0 or more",
                           with_fields(Field("x", "user.log_activity", "context", transform="log1p"))),
    "history": (DataError, "has no histories 'buys'; it has: clicks, watches",
                declaration(sequences=(dataclasses.replace(CLICKS, history="buys"),))),
    "column of behaviours": (DataError, "no column 'colour'", in_sequence(Field("x", "colour"))),
    "feature of behaviours": (ConfigError, "room nodes have no feature 'price'", in_sequence(Field("x", "item.price"))),
    "transformed ages": (ConfigError, "by their logarithm anyway", in_sequence(Field("x", "ages", transform="log1p"))),
    "hidden after nothing": (DataError, "no column 'while'", in_sequence(known_after="while")),
    "label": (DataError, "no column 'buy'", declaration(labels=(Label("buy", "buy"),))),
    "condition": (DataError, "no column 'x'", declaration(labels=(Label("a", "watched", only_if="x"),))),
    "flag from a threshold on": (ConfigError, r"labels\[0\].at_least = 2.0: 'watched' is true or false",
                                 declaration(labels=(Label("a", "watched", at_least=2.0),))),
    "measured by a flag": (ConfigError, "measured = 'watched' is true or false",
                           declaration(labels=(Label("a", "watched", measured="watched"),))),
    "regression of a flag": (ConfigError, "'watched' is true or false; make it 'binary'",
                             declaration(labels=(Label("a", "watched", "regression"),))),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_the_data_cannot_fill_is_refused(case):
    error, message, wrong = WRONG[case]
    with pytest.raises(error, match=message):
        EventEncoder(world(), wrong)


def test_another_declarations_fit_is_refused(encoder):
    with pytest.raises(ConfigError, match=r"has vocabularies of: category, .* needs those of: .* fit a new encoder"):
        EventEncoder(world(), declaration(sequences=(WATCHES,)), encoder.fitted)
    with pytest.raises(ConfigError, match="the stored encoder has version 0, not 1"):
        EventEncoder(world(), declaration(), {**encoder.fitted, "version": 0})
    scales = {**encoder.fitted["scales"], "viewers": [[0.0, 0.0], [1.0, 1.0]]}
    with pytest.raises(ConfigError, match="the stored encoder has 2 numbers of 'viewers', not 1"):
        EventEncoder(world(), declaration(), {**encoder.fitted, "scales": scales})


def test_events_without_training_rows_are_refused():
    shown = world().events["impression"]
    tested = dataclasses.replace(shown, split=np.full(1_500, TEST, np.int8))
    data = world().replace(events={**world().events, "impression": tested})
    with pytest.raises(DataError, match="events 'impression' have no training rows; give another split"):
        EventEncoder(data, declaration())


def test_histories_that_are_not_kept_for_the_events_are_refused():
    data = add_histories(
        world().replace(histories={}), [HistoryConfig("watches", item="room", moments=("gift",)), HISTORIES[1]]
    )
    with pytest.raises(DataError, match="not kept for events 'impression', but for: gift"):
        EventEncoder(data, declaration())
