"""What says that a model cannot take an input, and what a device says, in PyTorch's own words."""

import pytest
import torch

from logratio.models.forward_errors import refuses_input


def raised(call):
    with pytest.raises(Exception) as caught:  # noqa: PT011 - which one is what is asked
        call()
    return caught.value


def unpack(mask):
    rows, columns = mask.shape
    return rows, columns


SHAPES = {
    "no such argument": lambda: unpack(position_ids=1),
    "a mask of other dimensions": lambda: unpack(torch.ones(1, 1, 3, 3)),
    "added": lambda: torch.ones(3) + torch.ones(4),
    "added in place": lambda: torch.ones(3).add_(torch.ones(2, 3)),
    "viewed": lambda: torch.ones(6).view(4),
    "multiplied": lambda: torch.ones(2, 3) @ torch.ones(2, 3),
    "multiplied in batches": lambda: torch.bmm(torch.ones(2, 3, 4), torch.ones(3, 4, 2)),
    "expanded": lambda: torch.ones(2, 3).expand(4, 3),
    "permuted": lambda: torch.ones(2, 3, 4).permute(0, 2, 1, 3),
    "concatenated": lambda: torch.cat((torch.ones(2, 3), torch.ones(2, 4))),
    "indexed": lambda: torch.ones(2, 3)[0, 0, 0],
    "attended to": lambda: torch.nn.functional.scaled_dot_product_attention(
        *(torch.ones(1, 1, 3, 2) for _ in range(3)), attn_mask=torch.ones(4, 4, dtype=torch.bool)
    ),
}
DEVICES = {
    "no memory": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "no memory on the CPU": RuntimeError(
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes"
    ),
    "no memory on Apple's": RuntimeError("Invalid buffer size: 4.00 GiB"),
    "a device assert": RuntimeError("CUDA error: device-side assert triggered"),
    "an accelerator's fault": torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    "a product's fault": RuntimeError(
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(handle)`"
    ),
    "no kernel for the device": NotImplementedError(
        "Could not run 'aten::nonzero' with arguments from 'MPS'"
    ),
    "no kernel for attention": RuntimeError("No available kernel. Aborting execution."),
    "two devices": RuntimeError(
        "Expected all tensors to be on the same device, but found at least two devices"
    ),
    "places on a device": RuntimeError(
        "indices should be either on cpu or on the same device as the indexed tensor"
    ),
    "no float64": TypeError(
        "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."
    ),
    "no memory in Python": MemoryError(),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_and_arguments_are_refused_by_the_model(name):
    assert refuses_input(raised(SHAPES[name]))


@pytest.mark.parametrize("name", DEVICES)
def test_a_device_says_nothing_of_the_model(name):
    assert not refuses_input(DEVICES[name])
