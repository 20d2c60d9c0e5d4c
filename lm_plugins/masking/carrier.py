"""What all carriers have in common: they are tensors without storage, whose every use is handed to the rule table."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar
from weakref import ref

import torch
from torch import Tensor

from lm_plugins.errors import UnsupportedOperatorError
from lm_plugins.masking.calls import call_rule
from lm_plugins.masking.opaque_code import BELOW
from lm_plugins.masking.run import Run
from lm_plugins.masking.torch_functions import function_name

__all__ = ["Carrier"]


@dataclass
class _Memory:
    """What is known of the carriers that share the memory of one."""

    views: "list[ref[Carrier]]"
    may_be_copies: bool = False  # in the plain model
    left: list[tuple[Tensor, int]] = field(
        default_factory=list
    )  # ordinary tensors, views in the plain model; their versions

    def others(self, carrier: "Carrier") -> "list[Carrier]":
        return [one for one in (known() for known in self.views) if one is not None and one is not carrier]


class Carrier(Tensor):
    """Values of which a part is hidden, on their way through a model.

    It is a ``torch.Tensor``, since models ask whether they have one and do something else if not. It has no storage: every
    torch function, method, property and operator is handed to the rule table; one without a rule is an error, and so is
    code that computes below torch's functions. So nothing ever computes on hidden values unseen.

    Once the model has returned, it reads like the ordinary tensor of the values, with 0 where they are not visible.
    """

    #: Whether positions are tokens in any layout, rather than a map of batch, height and width.
    is_tokens = False

    #: The kind of carrier for tokens: what a map becomes where its layout is no map's.
    tokens: ClassVar[Any]

    run: Run
    values: Tensor  # type: ignore[assignment]  # torch has a method of that name, of sparse tensors
    _memory: _Memory | None

    def __init_subclass__(cls) -> None:
        if cls.is_tokens:
            Carrier.tokens = cls

    @staticmethod
    def _of_shape(shape: torch.Size, kind: type["Carrier"], values: Tensor, run: Run) -> Any:
        self = Tensor._make_wrapper_subclass(kind, shape, dtype=values.dtype, device=values.device)
        self.run = run
        self._memory = None
        return self

    # ---- for rules, and for the registry -----------------------------------------------------------------------------------

    def as_tokens(self) -> "Carrier":
        """The same values with their positions as tokens."""
        raise NotImplementedError

    def like(self, values: Tensor) -> Any:
        """The same regions with other values; itself if a function worked in place."""
        raise NotImplementedError

    def is_channels(self, dim: int) -> bool:
        """Whether a dimension holds no positions."""
        raise NotImplementedError

    def take_over(self, other: Any) -> None:
        """Take the values and regions of another, which a function that works in place has made of it."""
        raise NotImplementedError

    def twin(self) -> Any:
        """Another carrier of the same values."""
        raise NotImplementedError

    @property
    def is_channels_first(self) -> bool:
        """Whether dimensions are in the order in which convolutions leave them."""
        return False

    def simplified(self) -> Any:
        """The same in its simplest form."""
        raise NotImplementedError

    def regions(self) -> Any:
        """What says where the values are visible; another object after every change."""
        raise NotImplementedError

    def is_hidden(self) -> Tensor:
        """Bool that broadcasts to the values: where they are unspecified."""
        raise NotImplementedError

    def ordinary(self) -> Tensor:
        """The values as an ordinary tensor, 0 where they are not visible."""
        raise NotImplementedError

    # ---- memory ------------------------------------------------------------------------------------------------------------

    def share_memory_with(self, views: Any, may_copy: bool = False) -> None:
        """Note that some carriers are views of this one: what is written into one of them, all have to see.

        A copy in another dtype is none, nor is one that puts permuted values in order. Where the plain model may have made a
        copy of permuted values, none may be written into.
        """
        for one in views if isinstance(views, (list, tuple)) else (views,):
            if not isinstance(one, Tensor) or one is self:
                continue
            if self._memory is None:
                self._memory = _Memory([ref(self)])
            if not isinstance(one, Carrier):
                if not (one.is_inference() or _share_storage(one, self.values)):
                    self._memory.left.append((one.detach(), one._version))
            elif not self._is_copied_by(one):
                self._memory.views.append(ref(one))
                self._memory.may_be_copies |= may_copy and not self.is_channels_first
                one._memory = self._memory

    def _is_copied_by(self, other: "Carrier") -> bool:
        if other.dtype != self.dtype:
            return True
        is_ordered = other.values.is_contiguous() and not self.values.is_contiguous()
        return is_ordered and other.regions() is self.regions() and getattr(self, "dims", ())[1:2] != ("C",)

    @property
    def owns_hidden(self) -> bool:
        """Whether rules may write at hidden positions: neither autograd nor another activation can look there."""
        if self.run.is_recorded or torch.is_grad_enabled():
            return False
        return self._memory is None or all(one.regions() is self.regions() for one in self._memory.others(self))

    def check_left(self, function: Callable[..., Any] | None) -> None:
        """Check that nothing was written into an ordinary tensor that was made of it, as a view of its memory.

        Args:
            function: The one that reads it now; None if the model returns it.

        Raises:
            UnsupportedOperatorError: It was: in the plain model, this activation would have changed as well.
        """
        if self._memory is not None and any(one._version != version for one, version in self._memory.left):
            raise UnsupportedOperatorError(
                f"{_named(function)} reads {self!r}, into whose features the model has written in place, which would have to "
                "change it as well. Write into a copy instead: x.flatten(1).clone(), or the function that does not work in "
                "place"
            )

    def check_views(self, function: Callable[..., Any], before: Any) -> None:
        """Check after a write that it has reached every carrier that shares its memory in the model.

        Args:
            function: The one that wrote.
            before: Its `regions` before that.

        Raises:
            UnsupportedOperatorError: It has not: another view of the values would still hold the old ones.
        """
        if self._memory is None:
            return
        moved = self.regions() is not before or self._memory.may_be_copies
        if any(moved or not _share_storage(one.values, self.values) for one in self._memory.others(self)):
            raise UnsupportedOperatorError(
                f"{_named(function)} writes into {self!r}, of which the model holds another view that would not see it. "
                "Write into a copy instead: x.clone(), or the function that does not work in place"
            )

    # ---- what models ask a tensor often: answered without a look into the rule table ---------------------------------------

    @property
    def _asked(self) -> Tensor:
        return self.values

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        """Dtype of the values."""
        return self._asked.dtype

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """Device of the values."""
        return self._asked.device

    @property
    def ndim(self) -> int:  # type: ignore[override]
        """Number of dimensions."""
        return len(self.shape)

    @property
    def requires_grad(self) -> bool:
        """Whether autograd follows the values."""
        return self._asked.requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self._asked.requires_grad = value

    def dim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def size(self, dim: int | None = None) -> Any:
        """Shape, or one side of it."""
        return self.shape if dim is None else self.shape[dim]

    def __len__(self) -> int:
        return int(self.shape[0])

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    def __dir__(self) -> list[str]:
        return sorted({*dir(type(self)), *vars(self)})

    # ---- to the rule table -------------------------------------------------------------------------------------------------

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return call_rule(function, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, operator: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        raise UnsupportedOperatorError(
            f"{operator} was called {BELOW}, where masks cannot follow: by compiled code, by a C++ extension, or by a torch "
            "function that computes in C++"
        )


def _named(function: Callable[..., Any] | None) -> str:
    # Only in errors: torch takes its time to tell the name of a function, and every write would ask for it.
    return "the output of the model" if function is None else function_name(function)


def _share_storage(one: Tensor, other: Tensor) -> bool:
    return one is other or one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
