"""Columns of a data frame as categories: the order of their levels, values as a query takes them, what is no category."""

import datetime
import random
import re
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
import torch

import probmodel as pb

bn = pb.bn
pytestmark = pytest.mark.usefixtures("annotations_unchecked")


def levels(column, **named) -> tuple[str, ...]:
    return bn.CategoricalData.with_missing(pd.DataFrame({"a": column}), **named).levels["a"]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (list(range(12)) * 2, [str(i) for i in range(12)]),
        ([str(i) for i in range(12)] * 2, [str(i) for i in range(12)]),
        ([2010, 1999, 2010, 900, 900], ["900", "1999", "2010"]),
        ([10.0, 0.5, 2.0, None], ["0.5", "2", "10"]),
        ([3, -10, -2.5, 3], ["-10", "-2.5", "3"]),
        (np.array([10, 0.1, 0.5] * 3, dtype=np.float32), ["0.1", "0.5", "10"]),
        (pd.array([11, None, 2, 2], dtype="Int64"), ["2", "11"]),
        ([True, None, False], ["False", "True"]),
        (["b", 10, "a", 9], ["9", "10", "a", "b"]),
        (pd.to_timedelta([10, 2, 2], unit="D"), ["2 days", "10 days"]),
        (pd.to_datetime(["2026-10-01", "2026-09-30", "2026-09-30 12:00"], format="ISO8601"), None),
        (pd.Categorical([9, 10, 9], categories=[10, 9]), ["10", "9"]),
    ],
)
def test_levels_stand_in_the_order_of_their_values(column, expected):
    found = levels(column)
    assert list(found) == (expected or ["2026-09-30", "2026-09-30 12:00:00", "2026-10-01"])
    if expected and list(expected) == [str(i) for i in range(12)]:
        codes = bn.CategoricalData.of(pd.DataFrame({"a": column})).codes[:12, 0]
        assert codes.tolist() == list(range(12))


def mixed() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "grade": list(range(12)) * 3,
            "late": [0.0, 1.0, None] * 12,
            "member": [True, False] * 18,
            "dose": np.array([0.1, 0.5, 10.0] * 12, dtype=np.float32),
            "day": pd.date_range("2026-01-30", periods=4).tolist() * 9,
            "wait": pd.to_timedelta([1, 2, 10] * 12, unit="h"),
            "month": pd.period_range("2025-11", periods=4, freq="M").tolist() * 9,
            "age": pd.cut(np.arange(36.0), [-1, 10, 20, 40]),
            "word": list("xyz") * 12,
        }
    )


def test_a_network_takes_the_values_of_the_frame_it_was_learned_from():
    frame = mixed()
    rows = bn.CategoricalData.with_missing(frame)
    network = bn.EM(max_steps=1_000)(bn.DAG(dict.fromkeys(rows.names, ())), rows, seed=0).network
    records = frame.to_dict("records")
    for number in range(len(frame)):
        for values in (records[number], frame.iloc[number].to_dict(), frame.loc[[number]].to_numpy(dtype=object)[0]):
            named = values if type(values) is dict else dict(zip(frame, values, strict=True))
            for at, (name, value) in enumerate(named.items()):
                if not pd.isna(value):
                    assert network.code(name, value) == rows.codes[number, at], (name, value)
    seen = {name: value for name, value in records[0].items() if name != "word"}
    assert bn.query(network, "word", given=seen).table == pytest.approx([1 / 3] * 3, abs=0.02)
    with pytest.raises(ValueError, match="missing one; leave 'late' out"):
        bn.query(network, "word", given={"late": records[2]["late"]})


@pytest.mark.parametrize(
    ("found", "value", "expected"),
    [
        (("0", "1"), 1, 1),
        (("0", "1"), 1.0, 1),
        (("0", "1"), True, 1),
        (("0", "1"), np.bool_(False), 0),
        (("0", "1"), np.float32(1), 1),
        (("0", "1"), np.int8(1), 1),
        (("0", "1"), torch.tensor(1.0), 1),
        (("0", "1"), np.array(0), 0),
        (("0", "1"), Decimal("1.0"), 1),
        (("0.0", "1.0"), 1, 1),
        (("False", "True"), 1, 1),
        (("0.1", "0.2"), np.float32(0.2), 1),
        (("0.1", "0.2"), float(np.float32(0.2)), 1),
        (("(0.0, 1.0]", "(1.0, 2.5]"), pd.Interval(0, 1), 0),
        (("2026-01-01", "2026-01-02"), datetime.date(2026, 1, 2), 1),
        (("2026-01-01", "2026-01-02"), datetime.datetime(2026, 1, 2), 1),
        (("2026-01-01", "2026-01-02"), np.datetime64("2026-01-02", "ns"), 1),
        (("1", "1.0"), "1.0", 1),
        (("a", "b"), np.str_("b"), 1),
    ],
)
def test_a_value_is_found_in_whatever_type_it_comes(found, value, expected):
    table = np.full(2, 0.5)
    network = bn.DiscreteNetwork(bn.DAG({"a": ()}), {"a": found}, {"a": table})
    assert network.code("a", value) == expected
    assert bn.query(network, ["a"]).probability({"a": value}) == 0.5


@pytest.mark.parametrize("value", [2, 0.5, "1.0", None, float("nan"), pd.NA, pd.NaT, [1], ("1",), b"1", object()])
def test_a_value_that_is_no_level_is_refused(value):
    network = bn.DiscreteNetwork(bn.DAG({"a": ()}), {"a": ("0", "1")}, {"a": np.full(2, 0.5)})
    with pytest.raises(ValueError, match=r"expected a value of 'a'.* got .*; "):
        network.code("a", value)


RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    "column",
    [
        np.arange(600.0) / 7,
        RNG.normal(size=300).astype(np.float32),
        RNG.normal(37, 1, size=2_000).round(1),
        RNG.normal(size=8),
        np.arange(40),
        RNG.permutation(1_000)[:300],
        [f"person {i}" for i in range(60)],
        pd.date_range("2026-01-01", periods=50),
        [Decimal(i) / 7 for i in range(90)],
    ],
    ids=["fractions", "single precision", "rounded", "few rows", "rows", "numbers", "names", "days", "decimals"],
)
def test_a_continuous_column_is_refused_unless_it_is_meant(column):
    frame = pd.DataFrame({"a": column})
    with pytest.raises(ValueError, match=r"categorical column 'a', got \d+ distinct .*pd.cut.*every_value=\('a',\)"):
        bn.CategoricalData.of(frame)
    count = frame["a"].nunique()
    assert len(levels(column, every_value=("a",))) == len(levels(pd.Categorical(column))) == count
    assert len(bn.CategoricalData.of(pd.DataFrame({"a": pd.cut(np.arange(60), 3)})).levels["a"]) == 3


@pytest.mark.parametrize("column", [[0.5, 1.5, 0.5, 2.0], list(range(15)), list(range(18, 90)) * 3, list("abcdefgh")])
def test_a_column_of_few_values_is_categorical(column):
    assert len(levels(column)) == len(set(column))


def test_rows_without_names_are_refused_and_columns_by_name_are_read():
    frame = pd.DataFrame({"a": [0, 1, 1], "b": ["x", "y", "x"]})
    for named in (dict(frame), frame.to_dict("list"), {"a": torch.tensor([0, 1, 1]), "b": ["x", "y", "x"]}):
        found = bn.CategoricalData.of(named)
        assert found.levels == {"a": ("0", "1"), "b": ("x", "y")} and found.codes.tolist() == [[0, 0], [1, 1], [1, 0]]
    for rows in (frame.to_numpy(), frame.to_numpy().tolist(), torch.zeros(3, 2), frame["a"].rename(None), None, "a", 3):
        with pytest.raises(TypeError, match=r"named column per variable, got .*; pass pd.DataFrame"):
            bn.CategoricalData.of(rows)
    with pytest.raises(TypeError, match="dates in column 'a', got list"):
        bn.CategoricalData.of(pd.DataFrame({"a": [[1], [2]]}))
    for wrong in (["a", "b"], {"a": "xy"}, {"a": None}):
        with pytest.raises(TypeError, match=r"expected .*got .*; pass"):
            bn.CategoricalData.of(frame, wrong)
    with pytest.raises(TypeError, match="every_value as a list of names, got 'a'"):
        bn.CategoricalData.of(frame, every_value="a")
    with pytest.raises(ValueError, match=r"among the columns .*, got \['c'\]"):
        bn.CategoricalData.of(frame, every_value=("c",))


@pytest.mark.parametrize("codes", [[[0, 1], [1, 0]], torch.zeros(2, 2, dtype=torch.int64), None, "01"])
def test_codes_are_an_array(codes):
    rows = bn.CategoricalData({"a": ("0", "1"), "b": ("0", "1")}, codes)
    with pytest.raises(TypeError, match=r"codes as a NumPy array of integers, got .*np.array\(codes\)"):
        bn.score(bn.DAG.from_string("[a][b]"), rows, bn.bic)


@pytest.mark.parametrize(
    "graph", [None, [], 3, "[a]", {"a": None}, {"a": 3}, {1: ()}, {"a": (1,)}, [("a", "b")], {"a": ("a", None)}]
)
def test_what_is_no_graph_is_refused(graph):
    with pytest.raises((TypeError, ValueError), match=r"expected .*got .*; "):
        bn.DAG(graph)


@pytest.mark.parametrize(
    ("nodes", "edges"),
    [(None, []), ("ab", []), ([1], []), (["a", "b"], None), (["a", "b"], ["ab"]), (["a", "b"], [("a", "b", "a")])],
)
def test_nodes_and_edges_of_the_wrong_kind_are_refused(nodes, edges):
    with pytest.raises(TypeError, match=r"expected .*got .*; pass"):
        bn.DAG.from_edges(nodes, edges)


FILE = (
    "network n { } variable a { type discrete [ 2 ] { x , y } ; } "
    'variable b { type discrete [ 3 ] { x , y , "a b" } ; } '
    "probability ( a ) { table 0.25 , 0.75 ; } "
    "probability ( b | a ) { ( x ) 0.25 , 0.25 , 0.5 ; default 0.5 , 0.25 , 0.25 ; } "
)


def damaged(rng: random.Random) -> str:
    words = re.findall(r'"[^"]*"|\S+', FILE)
    at, other = rng.randrange(len(words)), rng.choice(words)
    return " ".join([*words[:at], *rng.choice([[], [other], [words[at], other]]), *words[at + 1 :]])


def test_a_damaged_file_is_read_or_refused_in_words_of_its_format(tmp_path):
    path, rng, refused = tmp_path / "a.bif", random.Random(0), 0
    texts = [FILE.replace("type discrete [ 3 ]", "type ; [ 3 ]"), FILE.replace("( a )", "( )")]
    for text in texts + [damaged(rng) for _ in range(300)]:
        path.write_text(text)
        try:
            bn.read_bif(path)
        except ValueError as error:
            refused += 1
            assert re.fullmatch(r"expected .*got.*; .*", str(error), re.DOTALL), error
    assert refused > 200
    path.write_bytes(b"\xff\xfe network")
    with pytest.raises(ValueError, match=r"UTF-8, got .*; convert"):
        bn.read_bif(path)


@pytest.mark.parametrize("column", [[1, "1", 2, "2"], ["0.5", 0.5, "a", "a"], [True, "True", "b", "b"]])
def test_a_number_and_a_text_that_read_the_same_are_not_merged(column):
    with pytest.raises(ValueError, match="both as text and as other values"):
        levels(column)
