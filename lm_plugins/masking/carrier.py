"""What all carriers have in common: they answer like a tensor, and hand torch functions to the rule table."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lm_plugins.errors import UnsupportedOperatorError
from lm_plugins.masking.registry import call_rule

__all__ = ["Carrier"]


class Carrier:
    """Values of which a part is hidden, on their way through a model.

    It is not a tensor. Torch functions, methods and operators that a model calls on it are handed to the rule table
    through ``__torch_function__``; one without a rule is an error, so nothing ever computes on hidden values unseen.
    """

    values: Tensor
    #: Whether positions are tokens in any layout, rather than a map of batch, height and width.
    is_tokens = False

    def as_tokens(self) -> "Carrier":
        """The same values with their positions as tokens."""
        raise NotImplementedError

    # ---- what models ask a tensor --------------------------------------------------------------------------------------

    @property
    def shape(self) -> torch.Size:
        """Shape of the values."""
        return self.values.shape

    @property
    def ndim(self) -> int:
        """Number of dimensions of the values."""
        return self.values.ndim

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the values."""
        return self.values.dtype

    @property
    def device(self) -> torch.device:
        """Device of the values."""
        return self.values.device

    @property
    def requires_grad(self) -> bool:
        """Whether autograd follows the values."""
        return self.values.requires_grad

    @property
    def is_cuda(self) -> bool:
        """Whether the values are on a CUDA device."""
        return self.values.is_cuda

    @property
    def is_nested(self) -> bool:
        """Never: a carrier stands for one strided tensor."""
        return False

    @property
    def mT(self) -> Any:  # noqa: N802  torch calls it so
        """The values with their last two dimensions swapped."""
        return call_rule(torch.Tensor.transpose, (self, -2, -1), {})

    def __len__(self) -> int:
        return len(self.values)

    # ---- to the rule table -----------------------------------------------------------------------------------------------

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return call_rule(function, args, kwargs or {})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or not hasattr(torch.Tensor, name):
            raise AttributeError(f"a masked activation has no attribute {name!r}")
        method = getattr(torch.Tensor, name)
        if callable(method):
            return partial(_call_method, method, self)
        raise UnsupportedOperatorError(f"no masking rule for torch.Tensor.{name}")

    def __iter__(self) -> Any:
        raise UnsupportedOperatorError("no masking rule for iterating over an activation")

    def __bool__(self) -> bool:
        raise UnsupportedOperatorError("no masking rule for torch.Tensor.__bool__")


def _call_method(method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return call_rule(method, args, kwargs)


def _forward_operator(name: str) -> Callable[..., Any]:
    method = getattr(torch.Tensor, name)

    def operator(*args: Any) -> Any:
        return call_rule(method, args, {})

    operator.__name__ = name
    return operator


# Python looks operators up on the class, never through __getattr__.
for _name in (
    "__add__ __radd__ __iadd__ __sub__ __rsub__ __isub__ __mul__ __rmul__ __imul__ __truediv__ __rtruediv__ "
    "__itruediv__ __pow__ __rpow__ __ipow__ __neg__ __abs__ __matmul__ __rmatmul__ __floordiv__ __mod__ __getitem__ "
    "__setitem__ __lt__ __le__ __gt__ __ge__ __and__ __or__ __xor__ __invert__"
).split():
    setattr(Carrier, _name, _forward_operator(_name))
