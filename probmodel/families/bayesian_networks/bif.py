"""Discrete networks in the Bayesian network interchange format, BIF (Cozman, 1998).

In a `table` the variable's own value varies slowest and the last parent's fastest.  Names with spaces or punctuation of
the format are quoted.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from math import prod
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float

from probmodel.families.bayesian_networks.dag import DAG
from probmodel.families.bayesian_networks.tables.discrete_network import DiscreteNetwork
from probmodel.protocols.arguments.checks import checks_arguments

_TOKEN = re.compile(r'//[^\n]*|/\*.*?\*/|"[^"]*"|[{}()\[\],;|]|[^\s{}()\[\],;|"]+|"', re.DOTALL)
_BARE = re.compile(r'(?!//|/\*)[^\s{}()\[\],;|"]+')

Levels = Mapping[str, tuple[str, ...]]
_T = TypeVar("_T")


class _Block(NamedTuple):
    """A statement: the words before its braces, and the words of each line inside them."""

    head: list[str]
    lines: list[list[str]]


class _Family(NamedTuple):
    """A variable's parents, and the lines of its probability block."""

    parents: tuple[str, ...]
    lines: list[list[str]]


@checks_arguments
def read_bif(path: str | Path) -> DiscreteNetwork:
    """Read a network from a file: variables, values and parents in the file's order, probabilities as printed.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not BIF, a name is not declared, or a table is incomplete, not normalized or of the
            wrong size.
    """
    tokens = [token for token in _TOKEN.findall(_text(Path(path))) if token[:2] not in ("//", "/*")]
    blocks = list(_blocks(tokens))
    levels = _unique_by_name([_variable(block) for block in blocks if block.head[0] == "variable"], "variable")
    families = _unique_by_name(
        [_family(block, levels) for block in blocks if block.head[0] == "probability"], "probability"
    )
    if set(families) != set(levels) or not levels:
        raise ValueError(
            f"expected one variable or more in {path}, each with a probability block, got {len(levels)} variables and"
            f" blocks for none of {sorted(set(levels) - set(families))}; add the missing blocks"
        )
    dag = DAG({node: families[node].parents for node in levels})
    return DiscreteNetwork(dag, levels, {node: _table(node, families[node], levels) for node in levels})


@checks_arguments
def write_bif(network: DiscreteNetwork, path: str | Path) -> None:
    """Write a network to a file, with all digits of its probabilities.

    Raises:
        ValueError: if a name is empty, or has a double quote or a line break, which the format cannot represent.
    """
    parts = ["network unknown {\n}\n"]
    for node in network.nodes:
        values = ", ".join(map(_quoted, network.levels[node]))
        size = len(network.levels[node])
        parts.append(f"variable {_quoted(node)} {{\n  type discrete [ {size} ] {{ {values} }};\n}}\n")
    parts += [_probability(network, node) for node in network.nodes]
    Path(path).write_text("".join(parts), encoding="utf-8")


# ------------------------------------------------------------------------------------------ reading


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"expected a text file in UTF-8, got {path}: {error}; convert it, or name a BIF file"
        ) from None


def _unique_by_name(found: Sequence[tuple[str, _T]], kind: str) -> dict[str, _T]:
    """Blocks by name; raise ValueError if a name is declared twice."""
    names = [name for name, _ in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"expected one {kind} block per variable, got several for {twice}; keep one of each")
    return dict(found)


def _blocks(tokens: Sequence[str]) -> Iterator[_Block]:
    """Yield the statements, each up to its closing brace."""
    start, opened, depth = 0, 0, 0
    for position, token in enumerate(tokens):
        if token == "{":
            opened = position if depth == 0 else opened
            depth += 1
        elif token == "}":
            depth -= 1
            if depth < 0 or opened <= start:
                raise ValueError(
                    f"expected BIF statements of words and then braces, got {' '.join(tokens[start : position + 1])!r};"
                    " correct the braces"
                )
            if depth == 0:
                lines = [line for line in _split(tokens[opened + 1 : position], ";") if line]
                yield _Block(list(tokens[start:opened]), lines)
                start = position + 1
    if start != len(tokens):
        raise ValueError(
            f"expected a closing brace for each opening one, got none after {' '.join(tokens[start : start + 4])!r};"
            " add the missing brace"
        )


def _split(tokens: Sequence[str], mark: str) -> list[list[str]]:
    """Words between separators; an empty last part is left out."""
    parts: list[list[str]] = [[]]
    for token in tokens:
        if token == mark:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts if parts[-1] else parts[:-1]


def _name(tokens: Sequence[str]) -> str:
    """Words joined into one name, without quotes."""
    return " ".join(token.strip('"') for token in tokens)


def _between(tokens: Sequence[str], opening: str, closing: str) -> Sequence[str]:
    if opening not in tokens or closing not in tokens:
        raise ValueError(f"expected words between {opening} and {closing}, got {' '.join(tokens)!r}; add them")
    return tokens[tokens.index(opening) + 1 : tokens.index(closing)]


def _variable(block: _Block) -> tuple[str, tuple[str, ...]]:
    """Name and values of a variable."""
    name = _name(block.head[1:])
    types = [line for line in block.lines if line[0] == "type"]
    if len(types) != 1 or types[0][1:2] != ["discrete"]:
        raise ValueError(
            f"expected one line 'type discrete' of {name!r}, got {[' '.join(line) for line in types]}; declare the"
            " variable by one such line"
        )
    size, inside = _name(_between(types[0], "[", "]")), _between(types[0], "{", "}")
    values = [_name(part) for part in _split(inside, ",")]
    if str(len(values)) != size:
        # Commas may be missing between names of one word.
        values = [_name([token]) for token in inside if token != ","]
    if str(len(values)) != size:
        raise ValueError(f"expected {size} values of {name!r}, got {values}; correct their number or the list")
    return name, tuple(values)


def _family(block: _Block, levels: Levels) -> tuple[str, _Family]:
    """The variable, with its parents and the lines of its block."""
    child, *rest = _split(_between(block.head, "(", ")"), "|") or [[]]
    node, parents = _name(child), tuple(_name(part) for part in _split(rest[0], ",")) if rest else ()
    unknown = sorted({node, *parents} - set(levels))
    if unknown:
        raise ValueError(
            f"expected declared variables in {' '.join(block.head)!r}, got {unknown}; add variable blocks for them"
        )
    return node, _Family(parents, block.lines)


def _table(node: str, family: _Family, levels: Levels) -> Float[np.ndarray, "..."]:
    """Probabilities, with one axis per parent and the variable's own axis last."""
    parents, size = family.parents, len(levels[node])
    shape = tuple(len(levels[parent]) for parent in parents)
    table, given = np.full((*shape, size), np.nan), set[tuple[int, ...]]()
    for line in family.lines:
        if line[0] == "table":
            numbers = _numbers(node, line[1:], size * prod(shape)).reshape(size, *shape)
            table[...] = np.moveaxis(numbers, 0, -1)
        elif line[0] == "default":
            table[np.isnan(table).all(-1)] = _numbers(node, line[1:], size)
        elif line[0] == "(":
            at = _combination(node, line, parents, levels)
            if at in given:
                raise ValueError(
                    f"expected one line for each combination of the parents of {node!r}, got {' '.join(line)!r} again;"
                    " keep one of them"
                )
            given.add(at)
            table[at] = _numbers(node, line[line.index(")") + 1 :], size)
        elif line[0] != "property":
            raise ValueError(
                f"expected table, default or values of the parents of {node!r}, got {' '.join(line)!r}; correct"
                " the line"
            )
    absent = np.argwhere(np.isnan(table).any(-1))
    if len(absent):
        first = [levels[parent][i] for parent, i in zip(parents, absent[0], strict=True)]
        raise ValueError(
            f"expected probabilities of {node!r} for all values of its parents, got none for {first}; add a line for"
            " these values or a default"
        )
    return table


def _combination(node: str, line: list[str], parents: tuple[str, ...], levels: Levels) -> tuple[int, ...]:
    values = [_name(part) for part in _split(_between(line, "(", ")"), ",")]
    if len(values) != len(parents) or any(
        value not in levels[each] for value, each in zip(values, parents, strict=True)
    ):
        raise ValueError(
            f"expected values of {list(parents)}, the parents of {node!r}, got {values}; give one value per parent"
        )
    return tuple(levels[each].index(value) for value, each in zip(values, parents, strict=True))


def _numbers(node: str, tokens: Sequence[str], size: int) -> Float[np.ndarray, " r"]:
    words = [token for token in tokens if token != ","]
    try:
        numbers = np.array([float(word) for word in words])
    except ValueError:
        raise ValueError(f"expected numbers for {node!r}, got {' '.join(words)!r}; correct the line") from None
    if len(numbers) != size:
        raise ValueError(
            f"expected {size} numbers for {node!r}, got {len(numbers)}: {' '.join(words[:8])!r}; give one per entry"
        )
    return numbers


# ------------------------------------------------------------------------------------------ writing


def _quoted(name: str) -> str:
    """A name as written to a file, in quotes where the format needs them."""
    if '"' in name or "\n" in name or not name:
        raise ValueError(
            f"expected a nonempty name without double quotes or line breaks, which BIF cannot hold, got {name!r}; rename it"
        )
    return name if _BARE.fullmatch(name) else f'"{name}"'


def _probability(network: DiscreteNetwork, node: str) -> str:
    """Probability block of a variable."""
    parents, table = network.dag.parents[node], network.tables[node]
    given = " | " + ", ".join(map(_quoted, parents)) if parents else ""
    lines = []
    for values, row in zip(
        product(*(network.levels[parent] for parent in parents)), table.reshape(-1, table.shape[-1]), strict=True
    ):
        what = f"({', '.join(map(_quoted, values))})" if parents else "table"
        lines.append(f"  {what} {', '.join(repr(float(number)) for number in row)};\n")
    return f"probability ( {_quoted(node)}{given} ) {{\n{''.join(lines)}}}\n"
