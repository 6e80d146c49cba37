"""One interface to the two generations of ArviZ, 0.23 and 1 (Kumar et al., 2019)."""

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import arviz
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from probmodel.draws.arrays import xarray_dataset

az: Any = arviz  # A type checker sees the functions of one of the two generations only.


class Overlaid(NamedTuple):
    """ArviZ containers by fit, and the labels of their scalar elements by encoded name."""

    trees: dict[str, Any]
    labels: dict[str, str]

    def labeller(self) -> Any:
        """ArviZ's labeller, which shows the labels in place of the encoded names."""
        return az.labels.MapLabeller(var_name_map=self.labels)


def _pointwise_loo(tree: Any, **settings: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # The caller receives k-hat.
        return az.loo(tree, pointwise=True, reff=1.0, **settings)


class _ArviZ0:
    """ArviZ before version 1: InferenceData, and plots that return arrays of axes."""

    def tree(self, groups: Mapping[str, xr.Dataset]) -> Any:
        return az.InferenceData(**groups)

    def loo(self, log_likelihood: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        tree = self.tree({"log_likelihood": xarray_dataset({"y": log_likelihood})})
        found = _pointwise_loo(tree, scale="log")
        return found.loo_i.to_numpy(), found.pareto_k.to_numpy()

    def forest(self, fits: Overlaid) -> Figure:
        trees, names = list(fits.trees.values()), list(fits.trees)
        axes = az.plot_forest(
            trees,
            model_names=names,
            var_names=list(fits.labels),
            combined=True,
            labeller=fits.labeller(),
            backend="matplotlib",
            show=False,
        )
        return self._figure(axes)

    def densities(self, fits: Overlaid) -> Figure:
        trees, names = list(fits.trees.values()), list(fits.trees)
        axes = az.plot_density(trees, data_labels=names, labeller=fits.labeller(), backend="matplotlib", show=False)
        return self._figure(axes)

    def pairs(self, fits: Overlaid) -> Figure:
        axes = None
        for i, tree in enumerate(fits.trees.values()):
            color = {"color": f"C{i}"}
            axes = az.plot_pair(
                tree,
                ax=axes,
                figsize=(2.2 * len(fits.labels), 2.2 * len(fits.labels)),
                textsize=8,
                marginals=True,
                scatter_kwargs=color | {"alpha": 0.3},
                marginal_kwargs=color | {"plot_kwargs": color},
                labeller=fits.labeller(),
                backend="matplotlib",
                show=False,
            )
        return self._figure(axes)

    def ranks(self, fits: Overlaid) -> Figure:
        (tree,) = fits.trees.values()
        return self._figure(az.plot_rank(tree, labeller=fits.labeller(), backend="matplotlib", show=False))

    def traces(self, fits: Overlaid) -> Figure:
        (tree,) = fits.trees.values()
        return self._figure(az.plot_trace(tree, labeller=fits.labeller(), backend="matplotlib", show=False))

    def _figure(self, axes: Any) -> Figure:
        return np.ravel(axes)[0].figure


class _ArviZ1:
    """ArviZ from version 1 on: DataTree, and plots that return a PlotCollection."""

    def tree(self, groups: Mapping[str, xr.Dataset]) -> Any:
        return xr.DataTree.from_dict(dict(groups))

    def loo(self, log_likelihood: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = _pointwise_loo(self.tree({"log_likelihood": xarray_dataset({"y": log_likelihood})}))
        return found.elpd_i.to_numpy(), found.pareto_k.to_numpy()

    def forest(self, fits: Overlaid) -> Figure:
        plots = az.plot_forest(fits.trees, combined=True, labeller=fits.labeller(), backend="matplotlib")
        return self._with_legend(plots, fits)

    def densities(self, fits: Overlaid) -> Figure:
        quiet = {"point_estimate_text": False}
        plots = az.plot_dist(fits.trees, visuals=quiet, labeller=fits.labeller(), backend="matplotlib")
        return self._with_legend(plots, fits)

    def pairs(self, fits: Overlaid) -> Figure:
        plots = None
        for i, tree in enumerate(fits.trees.values()):
            color, first = {"color": f"C{i}"}, i == 0
            visuals = {"scatter": color | {"alpha": 0.3, "size": 12}, "dist": color, "xlabel": first, "ylabel": first}
            plots = az.plot_pair(
                tree, plot_matrix=plots, visuals=visuals, labeller=fits.labeller(), backend="matplotlib"
            )
        return self._figure(plots)

    def ranks(self, fits: Overlaid) -> Figure:
        (tree,) = fits.trees.values()
        return self._figure(az.plot_rank(tree, labeller=fits.labeller(), backend="matplotlib"))

    def traces(self, fits: Overlaid) -> Figure:
        (tree,) = fits.trees.values()
        return self._figure(az.plot_trace_dist(tree, labeller=fits.labeller(), backend="matplotlib"))

    def _with_legend(self, plots: Any, fits: Overlaid) -> Figure:
        if len(fits.trees) > 1:
            plots.add_legend("model")
        return self._figure(plots)

    def _figure(self, plots: Any) -> Figure:
        return plots.viz["figure"].item()


ARVIZ = _ArviZ0() if int(az.__version__.split(".")[0]) < 1 else _ArviZ1()
