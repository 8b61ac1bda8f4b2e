"""Declarations: what can be refused without data, and their way through JSON."""

import dataclasses

import pytest

from lsec_jax.config import ConfigError
from lsec_jax.config_json import from_dict, to_json
from lsec_jax.declaration import Declaration, Field, Label, SequenceFields, Table

ROOM = Field("room", "room", "target", "room")
WATCHES = SequenceFields("channels", "watches", 5, (Field("room", "item", table="room"),))
WATCHED = Label("watched", "watched")


def declaration(**changes):
    parts = {"tables": (Table("room"),), "fields": (ROOM,), "sequences": (WATCHES,), "labels": (WATCHED,)}
    return Declaration(**parts | changes)


def changed(of, **changes):
    return dataclasses.replace(of, **changes)


def test_a_declaration_comes_back_from_json_as_it_was():
    wanted = declaration(labels=(WATCHED, Label("stay", "stay_seconds", "regression", "log1p", only_if="watched")))
    wanted.validate()
    assert from_dict(Declaration, to_json(wanted)) == wanted


WRONG = {
    "no fields": ({"fields": (), "tables": ()}, r"features.fields is empty; declare what a record shows"),
    "no labels": ({"labels": ()}, r"features.labels is empty; declare the primary task"),
    "a name twice": ({"fields": (ROOM, ROOM)}, r"fields\[1\].name = 'room': give each a name of its own"),
    "no name": ({"labels": (changed(WATCHED, name=""),)}, r"labels\[0\].name = '': give each a name"),
    "a dot": ({"fields": (changed(ROOM, name="a.b"),)}, r"fields\[0\].name = 'a.b': .* without dots"),
    "part": ({"fields": (changed(ROOM, part="user"),)}, r"part = 'user' is not known; choose one of: context, target"),
    "no source": ({"fields": (changed(ROOM, source=""),)}, r"fields\[0\].source of 'room' is empty"),
    "transform": ({"fields": (changed(ROOM, transform="log"),)}, r"transform = 'log' is not known; choose one of: "),
    "table": ({"fields": (changed(ROOM, table="rooms"),)}, r"table = 'rooms' is not declared; there are: room"),
    "unused table": ({"tables": (Table("room"), Table("user"))}, r"tables\[1\].name = 'user': no field has this table"),
    "a field's own table": (
        {"fields": (changed(ROOM, table=""),)},
        r"tables\[0\].name = 'room' is also a field that names no table",
    ),
    "width": ({"tables": (Table("room", width=-1),)}, r"tables\[0\].width = -1 must be at least 0"),
    "too many buckets": ({"tables": (Table("room", buckets=2**31),)}, r"buckets = 2147483648: rows have numbers below"),
    "too many rows": ({"tables": (Table("room", max_size=2**40),)}, r"max_size = \d+: rows have numbers below"),
    "buckets": ({"tables": (Table("room", buckets=9, min_count=2),)}, r"buckets = 9: hashed ids have no vocabulary"),
    "no history": ({"sequences": (changed(WATCHES, history=""),)}, r"sequences\[0\].history is empty"),
    "length": ({"sequences": (changed(WATCHES, length=0),)}, r"sequences\[0\].length = 0 must be at least 1"),
    "nothing of behaviours": ({"sequences": (changed(WATCHES, fields=()),)}, r"sequences\[0\].fields is empty"),
    "part of behaviours": (
        {"sequences": (changed(WATCHES, fields=(ROOM,)),)},
        r"sequences\[0\].fields\[0\].part = 'target' is not known",
    ),
    "hides": ({"sequences": (changed(WATCHES, hides="all"),)}, r"hides = 'all' is not known; choose one of: columns"),
    "hides nothing": ({"sequences": (changed(WATCHES, hides="behaviours"),)}, r"nothing is hidden without known_after"),
    "no column": ({"labels": (Label("watched"),)}, r"labels\[0\].column is empty"),
    "kind": ({"labels": (changed(WATCHED, kind="class"),)}, r"kind = 'class' is not known; choose one of: binary"),
    "logarithm of 0 and 1": ({"labels": (changed(WATCHED, transform="log1p"),)}, r"a binary answer is 0 or 1"),
    "threshold of a number": (
        {"labels": (changed(WATCHED, kind="regression", at_least=2.0),)},
        r"labels\[0\]: at_least and measured are for binary answers",
    ),
    "negative threshold": ({"labels": (changed(WATCHED, at_least=-1.0),)}, r"at_least = -1.0 must be at least 0"),
    "minimum of nothing": (
        {"labels": (changed(WATCHED, minimum=3.0),)},
        r"minimum and is_short_left_out are for a measured column; name it in .*labels\[0\].measured",
    ),
    "endless minimum": (
        {"labels": (changed(WATCHED, measured="stay_seconds", minimum=float("nan")),)},
        r"labels\[0\].minimum = nan; give a finite number",
    ),
    "day": ({"day_length": 0.0}, r"day_length = 0.0; give a finite number above 0"),
    "leak": (
        {"fields": (ROOM, Field("stay", ".stay_seconds", "dynamic"))}
        | {"labels": (changed(WATCHED, measured="stay_seconds", minimum=3.0),)},
        r"fields\[1\].source = '.stay_seconds': labels are made of this column",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_needs_no_data_to_be_wrong_is_refused_at_once(case):
    changes, message = WRONG[case]
    with pytest.raises(ConfigError, match=message):
        declaration(**changes).validate()
