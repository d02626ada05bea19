"""Conditions on settings: Python's operators are the oracle; messages point at the place."""

from __future__ import annotations

import ast
import operator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from raudio.config.expressions import parse
from raudio.core.errors import ConfigError

NAMES = {
    "model": ("cnn", "crnn", "mamba"),
    "model.rnn_layers": (),
    "model.width": (),
    "model.pooling": ("mean", "max"),
    "model.bidirectional": (True, False),
    "features.normalize": ("none", "channel"),
    "features.width": (),
    "training.batch_size": (),
    "training.clip_norm": (),
    "dataset.path": None,
    "cost/params": (),
    "valid/accuracy": (),
    "valid/loss": (),
}


def holds(text: str, **values: Any) -> bool:
    """By the end of each name."""
    full = {next(n for n in NAMES if n.replace("/", ".").endswith(k)): v for k, v in values.items()}
    return parse(text, NAMES).holds(full)


def refused(text: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text, NAMES)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("symbol", ["=", "==", "!=", "<", "<=", ">", ">="])
@pytest.mark.parametrize("left", [1, 2, 3])
def test_comparisons_are_python_s(symbol: str, left: int) -> None:
    python = {"=": operator.eq, "==": operator.eq, "!=": operator.ne, "<": operator.lt,
              "<=": operator.le, ">": operator.gt, ">=": operator.ge}  # fmt: skip
    assert holds(f"batch_size {symbol} 2", batch_size=left) == python[symbol](left, 2)


NUMBERS = st.recursive(
    st.sampled_from(["a", "b", "7", "2.5", "3", "1e1"]),
    lambda inner: (
        st.builds(
            "({} {} {})".format, inner, st.sampled_from(["+", "-", "*", "/", "//", "%"]), inner
        )
        | st.builds("-{}".format, inner)
    ),
    max_leaves=5,
)
TRUTHS = st.recursive(
    st.builds("{} {} {}".format, NUMBERS, st.sampled_from(["<", "<=", "==", "!=", ">"]), NUMBERS)
    | st.builds("{} in ({}, {})".format, NUMBERS, NUMBERS, NUMBERS)
    | st.builds("{} < {} <= {}".format, NUMBERS, NUMBERS, NUMBERS),
    lambda inner: (
        st.builds("({} and {})".format, inner, inner)
        | st.builds("({} or {})".format, inner, inner)
        | st.builds("not {}".format, inner)
    ),
    max_leaves=4,
)


@settings(max_examples=60, deadline=None)
@given(TRUTHS, st.integers(-3, 3), st.integers(-3, 3))
@example("(a < a and a < -(7 / (7 - 7)))", 0, 0)
@example("(a < a and a < 7 % (7 - 7))", 0, 0)
@example("a == -(1 + 1) * 3", -6, 0)
def test_any_expression_is_what_python_makes_of_it(text: str, a: int, b: int) -> None:
    try:
        expected = eval(compile(ast.parse(text, mode="eval"), "", "eval"), {"a": a, "b": b})
    except ZeroDivisionError:
        return
    zero = parse(text, {"a": (), "b": ()})
    if "/" in text or "%" in text:  # `and` and `or` of Python may not have met a division by zero
        undecided = parse(f"not ({text})", {"a": (), "b": ()})
        if zero.holds({"a": a, "b": b}) and undecided.holds({"a": a, "b": b}):
            return
    assert zero.holds({"a": a, "b": b}) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 + 2 * 3 = 7", True),
        ("7 - 2 - 1 = 4", True),
        ("8 / 4 / 2 = 1", True),
        ("width // 3 = 2 and width % 3 = 1", True),
        ("-width + 10 < 4", True),
        ("model.width < 5 or batch_size = 16 and model = cnn", True),
        ("not model.width < 5 and batch_size = 16", True),
        ("not (model.width > 5 and batch_size = 16)", False),
        ("16 <= batch_size < 16", False),
        ("model in (cnn, 'mamba')", True),
        ("model not in (cnn, mamba)", False),
        ("bidirectional", True),
        ("not bidirectional or pooling = mean", False),
        ("bidirectional requires pooling = max", True),
        ("bidirectional = true", True),
        ("normalize = none", True),  # a text of its choices
        ("clip_norm = none", True),  # nothing
        ("clip_norm != null", False),
        ("path = speech", True),
        ("path = 'a b'", False),
        (".5e1 + model.width = 12.", True),
    ],
)
def test_by_hand(text: str, expected: bool) -> None:
    values = {
        "model": "cnn",
        "model.width": 7,
        "model.pooling": "max",
        "model.bidirectional": True,
        "features.normalize": "none",
        "training.batch_size": 16,
        "training.clip_norm": None,
        "dataset.path": "speech",
    }
    text = text.replace("width //", "model.width //").replace("width %", "model.width %")
    text = text.replace("-width", "-model.width")
    assert parse(text, NAMES).holds(values) == expected


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("wanted", [True, False])
def test_requires_is_an_implication(given: bool, wanted: bool) -> None:
    values = {"model": "mamba" if given else "cnn", "rnn_layers": 1 if wanted else 2}
    assert holds("model=mamba requires rnn_layers==1", **values) == (wanted or not given)


def test_what_a_trial_does_not_have_holds() -> None:
    assert holds("rnn_layers <= 2", model="cnn")
    assert holds("not rnn_layers <= 2", model="cnn")
    assert holds("rnn_layers * 8 <= batch_size or batch_size < 4", batch_size=16)
    # but what the rest decides is decided
    assert not holds("rnn_layers <= 2 and batch_size < 4", batch_size=16)
    assert not holds("model=cnn requires rnn_layers = 2 and batch_size < 4", model="cnn",
                     batch_size=16)  # fmt: skip
    assert holds("clip_norm < 2", clip_norm=None)
    assert holds("batch_size / (batch_size - 16) > 100", batch_size=16)


def test_names_are_given_in_full() -> None:
    found = parse(" model=crnn requires rnn_layers * batch_size < 64 ", NAMES)
    assert found.names == {"model", "model.rnn_layers", "training.batch_size"}
    assert str(found) == found.text == "model=crnn requires rnn_layers * batch_size < 64"
    assert found == parse(found.text, NAMES)


def test_metrics_have_slashes_and_settings_are_divided() -> None:
    assert parse("params < 1e6", NAMES).names == {"cost/params"}
    assert parse("cost/params/2 < 1e6", NAMES).names == {"cost/params"}
    assert parse("batch_size/rnn_layers < 3", NAMES).names == {
        "training.batch_size",
        "model.rnn_layers",
    }
    assert not holds("valid/loss / valid/accuracy < 2", loss=3.0, accuracy=1.0)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("model=mamba requres rnn_layers==1",
         ["'requres' is not", "closest: 'requires'", "character 13"]),
        ("model=mamba requires rnn_layer==1",
         ["unknown setting 'rnn_layer'", "closest: 'model.rnn_layers'", "character 22"]),
        ("model.rnn_layer = 1",
         ["unknown setting 'model.rnn_layer'", "closest: 'model.rnn_layers'"]),
        ("model = mumba",
         ["model is never mumba", "closest: 'mamba'", "cnn, crnn, mamba", "character 9"]),
        ("model = 3", ["model is never 3"]),
        ("model in (cnn, lstm)", ["model is never lstm", "character 16"]),
        ("model < 3", ["model is no number", "order"]),
        ("model + 1 = 2", ["model is no number", "character 1"]),
        ("rnn_layers = '2'", ["model.rnn_layers is a number, 2 is not"]),
        ("rnn_layers = two", ["unknown setting 'two'"]),
        ("width = 4", ["'width' may be features.width or model.width", "character 1"]),
        ("model=cnn requires rnn_layers=1 requires rnn_layers=2", ["here, at"]),
        ("valid/acuracy > 0.5", ["'valid/acuracy'", "closest: 'valid/accuracy'"]),
        ("rnn_layers", ["model.rnn_layers is no condition"]),
        ("rnn_layers and model=cnn", ["model.rnn_layers is no condition"]),
        ("(model=cnn) = 1", ["cannot be compared"]),
        ("(model=cnn) + 1 = 1", ["a condition is no number"]),
        ("model = ", ["something is missing, at the end"]),
        ("", ["something is missing, at the end"]),
        ("model =< cnn", ["'<' is not expected here", "character 8"]),
        ("(model = cnn", ["')' is missing before the end"]),
        ("model in cnn", ["'(' is missing before 'cnn'", "character 10"]),
        ("model = 'cnn", ["quotes are not closed", "character 9"]),
        ("rnn_layers ** 2 < 4", ["'*' is not expected here", "character 13"]),
        ("model = cnn; seed", ["';' cannot be read", "character 12"]),
        ("__import__('os')", ["'(' is not expected here"]),
        ("rnn_layers.real > 1", ["unknown setting 'rnn_layers.real'"]),
        ("2 rnn_layers > 1", ["'rnn_layers' is not expected here"]),
        ("(" * 400 + "1 = 1" + ")" * 400, ["nested too deeply"]),
        ("1 = 1" + " and 1 = 1" * 200, ["too many"]),
        (3, ["write a condition as a text"]),
        ({"model": "cnn"}, ["write a condition as a text"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(text: Any, parts: list[str]) -> None:
    message = refused(text)
    assert all(part in message for part in parts), message


def test_every_prefix_of_an_expression_is_refused_or_read() -> None:
    whole = "not (model in (cnn, crnn) and -rnn_layers*2 <= 1e3/batch_size) requires path='a b'"
    for end in range(len(whole) + 1):
        try:
            parse(whole[:end], NAMES)
        except ConfigError:
            continue


def test_messages_name_what_is_spoken_of() -> None:
    with pytest.raises(ConfigError, match="unknown metric 'parms' \\(closest: 'cost/params'\\)"):
        parse("parms < 1", {"cost/params": ()}, kind="metric")
