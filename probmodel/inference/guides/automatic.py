"""The part of a model for which Pyro's automatic guides are made."""

from pyro import poutine

from probmodel.protocols.model import Model
from probmodel.protocols.sites import Sites


def guided_part(model: Model, found: Sites) -> Model:
    """The model without its discrete latents, which are summed out, and without functions of other sites."""
    hidden = [*found.discrete, *found.deterministic]
    if not hidden:
        return model
    part: Model = poutine.block(model, hide=hidden)
    return part
