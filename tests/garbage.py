"""The invariant put to the test: values at hidden positions are unspecified, so any may stand there."""

import torch

from lm_plugins.masking import MaskedActivation, MaskedTokens


def overwrite_hidden(value=None, seed=0):
    """An observer for `lm_plugins.masking.observing` that overwrites hidden positions after every rule.

    With `value` they all hold it, by default random numbers of a large magnitude.
    """
    generator = torch.Generator().manual_seed(seed)

    def observer(function, args, kwargs, act):
        result = act()
        for one in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(one, (MaskedActivation, MaskedTokens)):
                _overwrite(one, value, generator)
        return result

    return observer


def _overwrite(activation, value, generator):
    values = activation.values
    if value is None:
        garbage = 100 * torch.randn(values.shape, generator=generator).to(values.dtype)
    else:
        garbage = torch.full_like(values, value)
    # Out of place: the tensor may be shared with what autograd saved or with another branch.
    activation.values = torch.where(activation.is_hidden(), garbage, values)
