"""Records survive their form as text exactly, and a wrong value is refused with a message."""

import json
import math
import re
import struct
from dataclasses import replace

import pytest
from hypothesis import example, given, settings

from mlpbench.records.codec import decode, encode
from tests import strategies
from tests.records.history import HISTORY, resealed
from tests.strategies import any_floats, records


@settings(max_examples=300)
@given(records)
def test_every_record_survives_the_text_exactly(record):
    line = encode(record)
    assert "\n" not in line
    assert repr(decode(line)) == repr(record)


@given(any_floats)
@example(5e-324)
@example(-0.0)
@example(math.nan)
def test_floats_survive_bit_for_bit(value):
    result = replace(strategies.trained((0.5,)), test_loss=(value,))
    (back,) = decode(encode(result)).test_loss
    if math.isnan(value):
        assert math.isnan(back)
    else:
        assert struct.pack("<d", back) == struct.pack("<d", value)


@given(records)
def test_lines_are_strict_json_in_ascii(record):
    def refuse(constant):
        pytest.fail(f"{constant} is not JSON")

    line = encode(record)
    assert line.isascii()
    json.loads(line, parse_constant=refuse)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"iterations":10', '"iterations":10.0'),
        ('"iterations":10', '"iterations":"10"'),
        ('"iterations":10', '"iterations":true'),
        ('"iterations":10', '"iterations":null'),
        ('"iterations":10,', ""),
        ('"iterations":10', '"iterations":10,"extra":1'),
        ('"flags":[]', '"flags":[1]'),
        ('"flags":[]', '"flags":"x"'),
        ('"flags":[]', '"flags":{}'),
        ('"iterations":10', '"iterations":0'),
        ('"kind":"block"', '"kind":"blocks"'),
        ('"kind":"block"', '"kind":["block"]'),
        ('"kind":"block",', ""),
        ('"schema":3', '"schema":0'),
        ('"schema":3', '"schema":1'),
        ('"schema":3', '"schema":"3"'),
        ('"schema":3,', ""),
    ],
)
def test_line_with_a_wrong_field_is_refused_not_coerced(old, new):
    line = encode(HISTORY[2])
    assert old in line
    with pytest.raises(ValueError, match=r"\S"):
        decode(resealed(line.replace(old, new)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"lr":0.02', '"lr":-0.02'),
        ('"lr":0.02', '"lr":"fast"'),
        ('"hidden_sizes":[150,150,150]', '"hidden_sizes":[150,150]'),
        ('"seed":0', '"seed":-1'),
        ('"settled":true', '"settled":1'),
        ('"config":{', '"config":{"colour":"red",'),
    ],
)
def test_line_with_an_impossible_config_is_refused(old, new):
    line = encode(HISTORY[1])
    assert old in line
    with pytest.raises(ValueError, match=r"\S"):
        decode(resealed(line.replace(old, new)))


def test_line_with_a_changed_digit_is_refused():
    line = encode(HISTORY[2])
    for old, new in (('"iterations":10', '"iterations":11'), ('"wall_ns":15', '"wall_ns":95')):
        assert old in line
        with pytest.raises(ValueError, match="checksum"):
            decode(line.replace(old, new))


def test_whole_number_in_place_of_a_float_is_read_as_float():
    record = decode(resealed(encode(HISTORY[1]).replace('"warm_up_s":0.125', '"warm_up_s":2')))
    assert type(record.warm_up_s) is float
    assert record.warm_up_s == 2.0


@pytest.mark.parametrize(
    ("record", "old", "new", "message"),
    [
        (HISTORY[2], '"iterations":10', '"iterations":"10"', "iterations is '10', expected a whole number"),
        (HISTORY[2], '"iterations":10,', "", "block lacks fields: 'iterations'"),
        (HISTORY[2], '"iterations":10', '"iterations":10,"b":1,"a":2', "block has unknown fields: 'a', 'b'"),
        (HISTORY[2], '"iterations":10', '"iterations":0', "iterations is 0, expected a whole number from 1 to 2**64"),
        (HISTORY[2], '"flags":[]', '"flags":"x"', "flags is 'x', expected a list"),
        (HISTORY[1], '"settled":true', '"settled":1', "settled is 1, expected true or false"),
        (HISTORY[1], '"lr":0.02', '"lr":"fast"', "lr is 'fast', expected a number"),
        (HISTORY[1], '"id":"m"', '"id":null', "id is None, expected a text"),
        (HISTORY[0], '"variables":[["OMP_NUM_THREADS","2"]]', '"variables":[["A"]]', "has 1 items, expected 2"),
        (HISTORY[0], '"environment":{', '"environment":1,"x":{', "session has unknown fields: 'x'"),
        (HISTORY[8], '"plan":"p"', '"plan":{}', "plan is {}, expected a text"),
    ],
)
def test_message_names_the_field_its_value_and_the_expected_type(record, old, new, message):
    line = encode(record)
    assert old in line
    with pytest.raises(ValueError, match=re.escape(message)):
        decode(resealed(line.replace(old, new)))
