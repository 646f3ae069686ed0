"""The pretended device itself: it refuses what a device refuses, and counts what is done on it."""

import pytest
import torch

from device.pretended_device import NAME, Counts, DeviceTensor, pretended_device

TWO_DEVICES = "Expected all tensors to be on the same device"
REFUSED = {
    "added": (TWO_DEVICES, lambda here, there: there + here),
    "multiplied": (TWO_DEVICES, lambda here, there: here[None] @ there),
    "joined": (TWO_DEVICES, lambda here, there: torch.cat((here, there))),
    "summed by places": (TWO_DEVICES, lambda here, there: there.index_add(0, here.long(), there)),
    "gathered": (TWO_DEVICES, lambda here, there: here.gather(0, there.long())),
    "compared": (TWO_DEVICES, lambda here, there: torch.equal(here, there)),
    "put into it": (TWO_DEVICES, lambda here, there: there.__setitem__(torch.tensor([0, 1]), here[:2])),
    "looked up on the CPU": ("indices should be", lambda here, there: here[there.long()]),
    "put on the CPU by its places": (
        "indices should be",
        lambda here, there: here.__setitem__(there.long(), 1.0),
    ),
    "given to numpy": ("can't convert", lambda here, there: there.numpy()),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_meet_on_a_device_is_refused(name):
    said, meet = REFUSED[name]
    with pretended_device(), pytest.raises((RuntimeError, TypeError), match=said):
        meet(torch.zeros(3), torch.zeros(3, device=NAME))


def test_what_may_meet_does_and_gives_the_cpus_numbers():
    numbers = torch.arange(6.0)
    with pretended_device():
        there = numbers.to(NAME)
        assert (there.device.type, there.device.index) == (NAME, 0)
        found = {
            "a single number of the CPU": (there * torch.tensor(2.0), numbers * 2),
            "places on the CPU": (there[torch.tensor([4, 1])], numbers[[4, 1]]),
            "in place, through a view": (
                there.clone().view(2, 3).T[1].add_(1.0),
                numbers.view(2, 3).T[1] + 1,
            ),
            "reduced": (there.softmax(0), numbers.softmax(0)),
        }
        for name, (ours, expected) in found.items():
            assert isinstance(ours, DeviceTensor), name
            assert torch.equal(ours.cpu(), expected), name
        assert there.numpy(force=True).tolist() == there.tolist() == numbers.tolist()


def test_a_copy_is_one_and_a_view_is_none():
    numbers = torch.zeros(3)
    with pretended_device():
        there = numbers.to(NAME)
        back = there.cpu()
        there[1:].fill_(1.0)
        assert (numbers.tolist(), back.tolist(), there.tolist()) == ([0, 0, 0], [0, 0, 0], [0, 1, 1])


def test_gradients_and_tied_weights_are_on_the_device():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    model[1].weight = model[0].weight
    states = torch.randn(2, 3)
    model(states).square().sum().backward()
    expected = model[0].weight.grad.clone()
    model.zero_grad()
    with pretended_device():
        model.to(NAME)
        assert model[1].weight is model[0].weight
        model(states.to(NAME)).square().sum().backward()
        assert isinstance(model[0].weight.grad, DeviceTensor)
        assert torch.equal(model[0].weight.grad.cpu(), expected)


def test_a_device_may_have_no_float64():
    with pretended_device(has_float64=False):
        there = torch.zeros(3, device=NAME)
        wide = (
            lambda: there.double(),
            lambda: there.sum(dtype=torch.float64),
            lambda: torch.zeros(3, dtype=torch.float64).to(NAME),
            lambda: torch.zeros(3, dtype=torch.float64, device=NAME),
        )
        for make in wide:
            with pytest.raises(TypeError, match="doesn't support float64"):
                make()
        assert there.cpu().double().dtype == torch.float64
    with pretended_device():
        assert torch.zeros(3, device=NAME).double().dtype == torch.float64


def test_what_is_done_is_counted():
    numbers = torch.arange(6.0)
    done = {
        "an upload": (lambda: numbers.to(NAME), Counts(kernels=1, uploads=1)),
        "another, of a list": (lambda: torch.tensor([1.0, 2.0], device=NAME), Counts(kernels=1, uploads=1)),
        "a sum of two": (lambda: there + there, Counts(kernels=1)),
        "a view": (lambda: there.view(2, 3).T[1:], Counts()),
        "a view that is written to": (lambda: there[2:].zero_(), Counts(kernels=1)),
        "a download": (lambda: there.cpu(), Counts(kernels=1, waits=1, downloads=1)),
        "a number": (lambda: float(there.sum()), Counts(kernels=2, waits=1)),
        "places that are looked up": (lambda: there[torch.tensor([1])], Counts(kernels=1, uploads=1)),
        "what a mask leaves": (lambda: there[there > 2], Counts(kernels=2, waits=1)),
        "the places of a mask": (lambda: (there > 2).nonzero(), Counts(kernels=2, waits=1)),
        "nothing, on the CPU": (lambda: numbers.sum().item(), Counts()),
    }
    for name, (do, expected) in done.items():
        with pretended_device():
            there = numbers.to(NAME)
        with pretended_device() as counts:
            do()
        assert counts == expected, name
