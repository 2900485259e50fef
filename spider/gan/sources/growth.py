"""How much memory a pass takes for each image, found by passes of one image and of two."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def largest_growth(made: Callable[[slice], Any]) -> int:
    """Numbers that each further image adds to a tensor of a pass: of the one that grows most, at least 1.

    Weights are not counted, as they do not grow.

    Args:
        made: makes the images of a slice, by the same operations for any number of them.
    """
    one, two = (_sizes(made, slice(count)) for count in (1, 2))
    return max([1, *(after - before for before, after in zip(one, two, strict=False))])


def _sizes(made: Callable[[slice], Any], part: slice) -> list[int]:
    """Of what each operation returns, in their order."""
    sizes = _Sizes()
    with sizes:
        made(part)
    return sizes.found


class _Sizes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[int] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.found += [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        return result
