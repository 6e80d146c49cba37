"""The mutations of `benchmarks.mutations` fit today's code: each finds its text and its tests."""

import ast
import re
from collections import Counter

import pytest

from benchmarks.mutations.changes import MUTATIONS, Mutation
from benchmarks.rows import ROOT


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda each: each.name)
def test_the_text_of_a_mutation_occurs_exactly_once_and_changes(mutation: Mutation):
    assert (ROOT / "probmodel" / mutation.file).read_text().count(mutation.before) == 1
    assert mutation.after != mutation.before


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda each: each.name)
def test_mutated_code_parses_and_its_selection_finds_a_test(mutation: Mutation):
    text = (ROOT / "probmodel" / mutation.file).read_text()
    ast.parse(text.replace(mutation.before, mutation.after))
    tests = "".join((ROOT / each).read_text() for each in mutation.tests)
    words = re.findall(r"\w+", mutation.select)
    assert not words or any(word in tests for word in words if word not in ("and", "or", "not"))


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda each: each.name)
def test_the_test_files_of_a_mutation_exist(mutation: Mutation):
    assert mutation.tests
    assert [each for each in mutation.tests if not (ROOT / each).is_file()] == []


def test_names_of_mutations_are_unique():
    assert [name for name, count in Counter(each.name for each in MUTATIONS).items() if count > 1] == []
