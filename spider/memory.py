"""Work that asked for more memory than there is ends in one line, which says what needs less."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from cluster.errors import MachineError, is_out_of_memory

TRAINING = "a smaller batch, a larger accumulation or smaller networks (generator.width, discriminator.width) need less"
_AMOUNT = re.compile(r"allocate (?P<size>[\d.,]+ ?[A-Za-z]+)")


@contextmanager
def needs_memory(what_needs_less: str) -> Iterator[None]:
    """A block, or a function, that may ask for too much.

    Args:
        what_needs_less: keys or options, in words that end the line.

    Raises:
        MachineError: it did. The cause is what Python, numpy or torch raised.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        amount = _AMOUNT.search(str(error))
        asked = f" (of {amount['size']} more)" if amount else ""
        raise MachineError(f"out of memory{asked}: {what_needs_less}") from error
