"""Graphs of class and codes: naive Bayes, tree-augmented (Friedman, Geiger & Goldszmidt, 1997), and learned by score."""

from collections.abc import Sequence

import networkx as nx
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from probmodel.families.bayesian_networks.dag import DAG, refuse_duplicates
from probmodel.families.bayesian_networks.scores.all_families import FamilyScores
from probmodel.families.bayesian_networks.structure.exact_search import best_dag
from probmodel.protocols.arguments.checks import checks_arguments

LEAST_ONE_MINUS_RHO2 = 1e-12
"""Lower bound of 1 − ρ², so that the information between two equal codes is finite."""


@checks_arguments
def naive_bayes(codes: Sequence[str], label: str = "class") -> DAG:
    """Graph of codes that are independent given the class.

    >>> str(naive_bayes(["a", "b"]))
    '[a|class][b|class][class]'

    Raises:
        TypeError: for one text in place of names.
        ValueError: for a name that occurs twice, the label's among them.
    """
    _check_names(codes, label)
    return DAG({**dict.fromkeys(codes, (label,)), label: ()})


def _check_names(codes: Sequence[str], label: str) -> None:
    if type(codes) is str:
        raise TypeError(f"expected codes as a list of names, got the text {codes!r}; pass [{codes!r}]")
    refuse_duplicates([*codes, label])


@checks_arguments
def tree_augmented(information: Float[np.ndarray, "D D"], codes: Sequence[str], label: str = "class") -> DAG:
    """Graph of codes that depend on the class and one other code: the tree of largest likelihood (Chow & Liu, 1968).

    >>> str(tree_augmented(np.array([[0, 2.0, 1], [2, 0, 0], [1, 0, 0]]), ["a", "b", "c"]))
    '[a|class][b|a:class][c|a:class][class]'

    Args:
        information: mutual information of each pair of codes given the class, in nats; see `conditional_information`
            and `gaussian_conditional_information`.
        codes: names of the codes; the tree is directed away from the first.
        label: name of the class.

    Raises:
        ValueError: if information is not a symmetric matrix of the number of codes.
    """
    _check_names(codes, label)
    if information.shape != (len(codes), len(codes)) or not np.allclose(information, information.T):
        raise ValueError(
            f"expected a symmetric matrix of {len(codes)} codes, got shape {information.shape}; pass the matrix of "
            "conditional_information"
        )
    graph = nx.Graph()
    graph.add_nodes_from(range(len(codes)))
    pairs = zip(*np.triu_indices(len(codes), 1), strict=True)
    graph.add_weighted_edges_from((int(i), int(j), float(information[i, j])) for i, j in pairs)
    tree = nx.bfs_predecessors(nx.maximum_spanning_tree(graph), 0)
    parent = {codes[child]: codes[known] for child, known in tree}
    return DAG({**{code: (parent[code], label) if code in parent else (label,) for code in codes}, label: ()})


@checks_arguments
def best_augmented(families: FamilyScores, codes: Sequence[str], label: str = "class") -> DAG:
    """Graph of highest score among those in which the class is a parent of every code and has no parents.

    Args:
        families: scores of the codes and, last, the class, from `family_scores` or `gaussian_family_scores`.
        codes: names of the codes.
        label: name of the class.
    """
    if families.shape != (len(codes) + 1, 2 ** (len(codes) + 1)):
        raise ValueError(
            f"expected scores of {len(codes)} codes and the class, got families of shape {families.shape}; name each code once"
        )
    allowed, last = families.copy(), len(codes)
    masks = np.arange(families.shape[1])
    allowed[:last, masks >> last & 1 == 0] = -np.inf
    allowed[last, masks > 0] = -np.inf
    return best_dag(allowed, [*codes, label]).dag


@checks_arguments
def conditional_information(h: Float[Tensor, "N D"], y: Int[Tensor, " N"]) -> Float[np.ndarray, "D D"]:
    """Mutual information I(h_i; h_j | y) of discrete codes at empirical probabilities, in nats; 0 on the diagonal.

    Args:
        h: codes, integers from 0.
        y: classes.
    """
    codes, labels = h.long().cpu().numpy(), y.cpu().numpy()
    found = np.zeros((codes.shape[1], codes.shape[1]))
    for label in np.unique(labels):
        rows = codes[labels == label]
        for i in range(codes.shape[1]):
            for j in range(i):
                found[i, j] += len(rows) / len(codes) * _information(rows[:, i], rows[:, j])
    return found + found.T


@checks_arguments
def gaussian_conditional_information(h: Float[Tensor, "N D"], y: Int[Tensor, " N"]) -> Float[np.ndarray, "D D"]:
    """Mutual information I(h_i; h_j | y) of normal codes, in nats; 0 on the diagonal (Pérez et al., 2006).

    It is −½ Σ_k p(k) log(1 − ρ_ijk²), with ρ_ijk the correlation of codes i and j in class k.

    Args:
        h: real codes.
        y: classes.

    Raises:
        ValueError: if a class has a single row.
    """
    found = h.new_zeros(h.shape[1], h.shape[1], dtype=torch.double)
    for label in y.unique():
        rows = h[y == label].double()
        if len(rows) < 2:
            raise ValueError(
                f"expected two rows or more of each class, got one of class {int(label)}; drop it or add rows"
            )
        spread = rows - rows.mean(0)
        scale = spread.norm(dim=0).clamp(min=torch.finfo(torch.double).tiny)
        squared = (spread.T @ spread / (scale[:, None] * scale)).square()
        found -= 0.5 * len(rows) / len(h) * (1 - squared).clamp(min=LEAST_ONE_MINUS_RHO2).log()
    return found.fill_diagonal_(0.0).cpu().numpy()


def _information(a: Int[np.ndarray, " M"], b: Int[np.ndarray, " M"]) -> float:
    """Mutual information I(a; b) in nats."""
    joint = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(joint, (a, b), 1.0 / len(a))
    apart = joint.sum(1, keepdims=True) * joint.sum(0)
    seen = joint > 0
    return float((joint[seen] * np.log(joint[seen] / apart[seen])).sum())
