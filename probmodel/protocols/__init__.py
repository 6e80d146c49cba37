"""THE ARCHITECTURE, the one page to read first: every protocol and value that passes between the rooms.

Layers compose into one Pyro model; the model is traced once into a pure tensor program; inference, evidence and
diagnosis are functions of values.  Each room (a folder of the package) stands above all that it imports; no import points
upwards.

    cli            shell commands
    studies        grids of fits and estimates: jobs, folders, resuming
    comparison     fits and posteriors side by side, the HTML report
    diagnosis      findings about one fit and a verdict        storage   Posterior ↔ folder, ArviZ, serializable components
    layers         x → h → z → p(y | z) → one Pyro model       inference (model, data, seed) → Posterior, one method per file
    prediction     new rows → predictive distribution; scores  evidence  posterior or target → log Z, one estimator per file
    families       mathematics of Gaussian processes, Bayesian networks, Boltzmann machines, without Pyro
    tracing        Pyro function → graph → machine code → one density on R^D; every internal of Pyro and PyTorch
    data           arrays, frames, files → Dataset             draws     numbers, files and plots of draws, by ArviZ
    protocols      this room: dataset, model, layers, methods, posterior, evidence; shared by modeling and reasoning

Modeling (data, layers) makes a `Model`; reasoning (tracing, inference, prediction, evidence, diagnosis, comparison, studies)
takes any `Model`.  Neither imports the other: they share protocols and the mathematics of families; storage imports both.
"""

from probmodel.protocols.dataset import Dataset, digest
from probmodel.protocols.evidence import Agreement, Estimate, Evidence, OwnEstimators, SuppliesEstimators
from probmodel.protocols.layers import Decision, Representation
from probmodel.protocols.methods import Estimator, Inference, Objective
from probmodel.protocols.model import ChecksData, ClosedForm, ExactPosterior, Guided, Model
from probmodel.protocols.posterior import Draws, Posterior, Target

__all__ = [
    "Agreement",
    "ChecksData",
    "ClosedForm",
    "Dataset",
    "Decision",
    "Draws",
    "Estimate",
    "Estimator",
    "Evidence",
    "ExactPosterior",
    "Guided",
    "Inference",
    "Model",
    "Objective",
    "OwnEstimators",
    "Posterior",
    "Representation",
    "SuppliesEstimators",
    "Target",
    "digest",
]
