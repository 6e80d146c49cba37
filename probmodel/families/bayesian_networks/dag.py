"""Directed acyclic graphs over named nodes, and their equivalence classes (Koller & Friedman, 2009, ch. 3)."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import networkx as nx
import numpy as np

from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.arguments.kinds import is_mapping

_NODE = re.compile(r"\[([^\[\]|:]+)(?:\|([^\[\]|]+))?\]")


@dataclass(frozen=True, eq=False)
class DAG:
    """A directed acyclic graph, given by the parents of every node.

    >>> str(DAG.from_string("[A][B][C|A:B]"))
    '[A][B][C|A:B]'

    Args:
        parents: node → its parents.  Graphs are equal if their nodes and edges are, in any order; the tables of a
            network follow the order given here.

    Raises:
        TypeError: if the graph is no mapping from names to names.
        ValueError: if a parent is not a node, a node occurs twice among the parents, or the graph has a cycle.
    """

    parents: Mapping[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        if not is_mapping(self.parents):
            raise TypeError(
                f"expected a dict from each node to its parents, got {self.parents!r}; pass {{'a': (), 'b': ('a',)}}, or call "
                "DAG.from_edges or DAG.from_string"
            )
        for node, parents in self.parents.items():
            _check_family(node, parents)
            unknown = [parent for parent in parents if parent not in self.parents]
            if unknown:
                raise ValueError(
                    f"expected parents among the nodes {sorted(self.parents)}, got {unknown} of {node!r}; add them as nodes"
                )
            if len(set(parents)) != len(parents):
                raise ValueError(f"expected each parent once, got {list(parents)} of {node!r}; drop the repeated ones")
        graph = nx.DiGraph(self.edges)
        if not nx.is_directed_acyclic_graph(graph):
            cycle = [edge[0] for edge in nx.find_cycle(graph)]
            raise ValueError(
                f"expected no cycle, got {' → '.join([*cycle, cycle[0]])}; reverse or drop one of its edges"
            )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DAG) and set(self.nodes) == set(other.nodes) and self.edges == other.edges

    def __hash__(self) -> int:
        return hash((frozenset(self.nodes), self.edges))

    @classmethod
    def from_edges(cls, nodes: Iterable[str], edges: Iterable[tuple[str, str]]) -> "DAG":
        """Build a graph from (parent, child) pairs.

        Raises:
            ValueError: if a node occurs twice, a child is not a node, or the class refuses the parents.
        """
        names = check_names("nodes", nodes)
        refuse_duplicates(names)
        parents: dict[str, list[str]] = {node: [] for node in names}
        for parent, child in _pairs(edges):
            if child not in parents:
                raise ValueError(
                    f"expected children among the nodes {sorted(parents)}, got {child!r}; add it as a node"
                )
            parents[child].append(parent)
        return cls({node: tuple(found) for node, found in parents.items()})

    @classmethod
    def from_string(cls, text: str) -> "DAG":
        """Build a graph from the notation of bnlearn: "[A][B|A][C|A:B]".

        Raises:
            ValueError: if the text is not in this notation, a node occurs twice, or the class refuses the parents.
        """
        found = _NODE.findall(check_names("text", [text])[0])
        if "".join(f"[{node}|{parents}]" if parents else f"[{node}]" for node, parents in found) != text or not found:
            raise ValueError(
                f"expected nodes as in '[A][B|A][C|A:B]', got {text!r}; write each in brackets, with parents after a bar"
            )
        refuse_duplicates([node for node, _ in found])
        return cls({node: tuple(parents.split(":")) if parents else () for node, parents in found})

    def __str__(self) -> str:
        return "".join(
            f"[{node}|{':'.join(sorted(parents))}]" if parents else f"[{node}]"
            for node, parents in self.parents.items()
        )

    @property
    def nodes(self) -> tuple[str, ...]:
        """All nodes, in the order given."""
        return tuple(self.parents)

    @property
    def edges(self) -> frozenset[tuple[str, str]]:
        """Edges as pairs (parent, child)."""
        return frozenset((parent, node) for node, parents in self.parents.items() for parent in parents)

    @cached_property
    def order(self) -> tuple[str, ...]:
        """Nodes in topological order, parents before children."""
        graph = nx.DiGraph()
        graph.add_nodes_from(self.nodes)
        graph.add_edges_from(sorted(self.edges))
        return tuple(nx.lexicographical_topological_sort(graph))

    @cached_property
    def compelled(self) -> frozenset[tuple[str, str]]:
        """Edges with the same direction in all equivalent graphs: colliders and their consequences (Meek, 1995)."""
        adjacent = {frozenset(edge) for edge in self.edges}
        found = {
            (parent, node)
            for node, parents in self.parents.items()
            for pair in combinations(parents, 2)
            if frozenset(pair) not in adjacent
            for parent in pair
        }
        while True:
            new = {edge for edge in self.edges - found if _follows(edge, found, self.edges - found, adjacent)}
            if not new:
                return frozenset(found)
            found |= new

    @property
    def reversible(self) -> frozenset[frozenset[str]]:
        """Pairs of nodes joined by an edge that is reversed in some equivalent graph."""
        return frozenset(frozenset(edge) for edge in self.edges - self.compelled)

    def constructor_arguments(self) -> dict[str, object]:
        """Constructor arguments, by name."""
        return {"parents": self.parents}


def check_names(argument: str, names: Iterable[str]) -> list[str]:
    """The names as a list; raise TypeError for one text in place of several, or anything but text among them."""
    found = [names] if type(names) is str or not np.iterable(names) else list(names)
    if type(names) is str or any(type(name) not in (str, np.str_) for name in found):
        raise TypeError(
            f"expected {argument} as a list of names, got {names!r}; pass names as text, such as ['a', 'b']"
        )
    return found


def _check_family(node: str, parents: tuple[str, ...]) -> None:
    if type(parents) is str:
        raise ValueError(
            f"expected a tuple of parents of {node!r}, got the text {parents!r}; pass ({parents!r},) for one"
        )
    check_names("nodes", [node])
    check_names(f"the parents of {node!r}", parents)


def _pairs(edges: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    found = list(edges) if np.iterable(edges) else [edges]
    if type(edges) is str or any(type(edge) is str or not np.iterable(edge) or len(edge) != 2 for edge in found):
        raise TypeError(f"expected edges as pairs (parent, child), got {edges!r}; pass pairs such as [('a', 'b')]")
    return found


def refuse_duplicates(names: Sequence[str]) -> None:
    """Raise ValueError if a name occurs more than once."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"expected different names, got {twice} more than once; rename or drop them")


def _follows(
    edge: tuple[str, str],
    directed: set[tuple[str, str]],
    undirected: frozenset[tuple[str, str]],
    adjacent: set[frozenset[str]],
) -> bool:
    """True if one of Meek's first three rules directs an edge a → b that is still undirected."""
    a, b = edge
    undirected_pairs = {frozenset(each) for each in undirected}
    into_a = [x for x, y in directed if y == a]
    into_b = [x for x, y in directed if y == b]
    chain = any(frozenset((x, b)) not in adjacent for x in into_a)
    cycle = any((a, x) in directed for x in into_b)
    kite = any(
        frozenset((x, y)) not in adjacent
        and frozenset((a, x)) in undirected_pairs
        and frozenset((a, y)) in undirected_pairs
        for x, y in combinations(into_b, 2)
    )
    return chain or cycle or kite


@checks_arguments
def structural_hamming_distance(a: DAG, b: DAG) -> int:
    """Number of node pairs that the graphs join differently: a missing, added or reversed edge counts one.

    Raises:
        ValueError: if the graphs have different nodes.
    """
    _check_same_nodes(a, b)
    return len({frozenset(edge) for edge in a.edges ^ b.edges})


@checks_arguments
def class_hamming_distance(a: DAG, b: DAG) -> int:
    """Structural Hamming distance of equivalence classes, reversible edges undirected (Tsamardinos et al., 2006).

    Raises:
        ValueError: if the graphs have different nodes.
    """
    _check_same_nodes(a, b)
    apart = {frozenset(edge) for edge in a.compelled ^ b.compelled} | (a.reversible ^ b.reversible)
    return len(apart)


def _check_same_nodes(a: DAG, b: DAG) -> None:
    if set(a.nodes) != set(b.nodes):
        only = sorted(set(a.nodes) ^ set(b.nodes))
        raise ValueError(f"expected graphs of the same nodes, got {only} in one of them only; add or drop those nodes")
