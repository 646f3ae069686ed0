"""What a model's own code says of an input that it cannot take, told from what a device says.

PyTorch raises `RuntimeError` for tensors of the wrong shape, for a device that has no memory left, for a
kernel that a device lacks and for a fault of the device itself. Only the first is about the model.
"""

from __future__ import annotations

import re

SHAPES = re.compile(
    "size of (the )?tensor|sizes of tensors|input of size|shapes cannot|shape mismatch|number of dimensions"
    "|expected size for|broadcast",
    re.IGNORECASE,
)
"""What PyTorch writes of tensors that do not fit each other."""
NO_FLOAT64 = "doesn't support float64"
"""What PyTorch writes, as a `TypeError`, of Apple's devices."""


def refuses_input(error: Exception) -> bool:
    """Whether an error says that a model cannot take the arguments or shapes that it was given.

    A model without `position_ids` raises `TypeError`, one that unpacks a mask of other dimensions
    `ValueError`, and one that multiplies it by states a `RuntimeError` about shapes. All else (no memory, no
    kernel, tensors on two devices, a fault of the device) says nothing of the model.
    """
    if type(error) is RuntimeError:
        return SHAPES.search(str(error)) is not None
    known = isinstance(error, (TypeError, ValueError, AttributeError, LookupError))
    return known and NO_FLOAT64 not in str(error)
