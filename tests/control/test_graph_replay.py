"""A tape does again what was done, to the last bit, and nothing is recorded that could come out otherwise."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from logratio.control.graph_passes import optimise_graph
from logratio.control.graph_replay import GraphCache, RecordedGraph
from logratio.control.op_recorder import NotRecordable, OpRecorder


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def with_gradient(weight: Tensor, rows: Tensor, inputs: Tensor) -> list[Tensor]:
    """A little of everything: indices, a matrix, in-place operations in the gradient of a clamp's minimum."""
    hidden = torch.tanh(inputs[rows] @ weight)
    first, second = hidden.unbind(dim=1)
    loss = torch.minimum(first.exp() * second, first.exp().clamp(0.8, 1.2) * second).mean()
    (gradient,) = torch.autograd.grad(loss, [weight])
    return [loss.detach(), gradient]


def test_other_numbers_give_what_computing_gives_to_the_last_bit() -> None:
    weight, rows, inputs = numbers(3, 2).requires_grad_(), torch.arange(5), numbers(8, 3, seed=1)
    tape = RecordedGraph(lambda: with_gradient(weight, rows, inputs), [weight, rows, inputs])
    for seed in range(2, 6):
        other = numbers(3, 2, seed=seed).requires_grad_()
        chosen = torch.randperm(8, generator=torch.Generator().manual_seed(seed))[:5]
        given = numbers(8, 3, seed=seed + 10)
        for played, computed in zip(
            tape([other, chosen, given]), with_gradient(other, chosen, given), strict=True
        ):
            assert torch.equal(played, computed)


def test_what_is_changed_in_place_is_changed_again() -> None:
    given = numbers(4)

    def compute() -> list[Tensor]:
        total = torch.zeros(4)
        total.add_(given).masked_fill_(given < 0, 7.0)
        return [total, total + 1]

    tape = RecordedGraph(compute, [given])
    other = numbers(4, seed=3)
    first, again = tape([other]), tape([other])
    wanted = torch.where(other < 0, torch.full((4,), 7.0), other)
    for one, two in zip(first, again, strict=True):
        assert torch.equal(one, two)
    assert torch.equal(first[0], wanted)
    assert torch.equal(first[1], wanted + 1)


def test_what_is_changed_last_and_read_by_another_name_is_changed() -> None:
    given, other = numbers(4), numbers(4, seed=3)

    def compute() -> list[Tensor]:
        total = given.exp()
        seen = total.view(2, 2)
        total.add_(given)
        return [seen]

    (found,) = RecordedGraph(compute, [given])([other])
    assert torch.equal(found, (other.exp() + other).view(2, 2))


def test_what_is_done_twice_and_changed_once_is_done_twice() -> None:
    given = numbers(4)

    def compute() -> list[Tensor]:
        changed = torch.sigmoid(given).mul_(2.0)
        return [changed, torch.sigmoid(given), torch.sigmoid(given) + 1.0, torch.zeros_like(given).add_(1.0)]

    tape = RecordedGraph(compute, [given])
    other = numbers(4, seed=2)
    sigmoid = torch.sigmoid(other)
    wanted = [sigmoid * 2.0, sigmoid, sigmoid + 1.0, torch.ones(4)]
    for one, two in zip(tape([other]), wanted, strict=True):
        assert torch.equal(one, two)


def test_all_rows_in_their_order_are_what_they_were_taken_of() -> None:
    rows, given, pair = torch.arange(4), numbers(4), numbers(4, 2)

    def compute() -> list[Tensor]:
        return [given[rows] * 2.0 + pair[rows].sum(dim=1), (given[:3] * 1.0).exp()]

    tape = RecordedGraph(compute, [rows, given, pair], identity_index=rows)
    other, two = numbers(4, seed=1), numbers(4, 2, seed=2)
    # Other rows show that none are taken: a caller says that they are always these.
    first, second = tape([torch.tensor([3, 2, 1, 0]), other, two])
    assert torch.equal(first, other * 2.0 + two.sum(dim=1))
    assert torch.equal(second, other[:3].exp())


@pytest.mark.parametrize(
    "compute",
    [
        lambda rows, given: [given[rows].mul_(2.0), given + 1.0],
        lambda rows, given: [given[rows]],
        lambda rows, given: [given.mul(1.0).add_(1.0), given + 1.0],
        lambda rows, given: [given * 1.0],
        lambda rows, given: [(given * 1.0)[:2].unsqueeze(0)],
    ],
    ids=["rows changed", "rows given", "copy changed", "copy given", "view of a copy given"],
)
def test_a_copy_that_somebody_may_change_is_made(compute: Callable[..., list[Tensor]]) -> None:
    rows, given = torch.arange(4), numbers(4)
    with pytest.raises(NotRecordable, match="copy"):
        RecordedGraph(lambda: compute(rows, given), [rows, given], identity_index=rows)


def test_what_is_done_in_vain_is_not_done() -> None:
    given, mask = numbers(3, 2), numbers(3, 2, seed=1) > 0

    def compute() -> list[Tensor]:
        twice = given.neg().neg()
        return [torch.where(mask, twice, twice).exp() + given.exp(), given.t().t() @ given.t()]

    with OpRecorder([given, mask]) as recorder:
        results = compute()
    calls, _ = optimise_graph(recorder, results)
    assert [call.operation.name() for call in calls] == [
        "aten::exp",
        "aten::add.Tensor",
        "aten::t",
        "aten::mm",
    ]
    tape, other = RecordedGraph(compute, [given, mask]), numbers(3, 2, seed=3)
    first, second = tape([other, ~mask])
    assert torch.equal(first, other.exp() + other.exp())
    assert torch.equal(second, other @ other.t())


def operations(compute: Callable[[], list[Tensor]], inputs: Sequence[Tensor]) -> list[str]:
    with OpRecorder(inputs) as recorder:
        results = compute()
    return [call.operation.name() for call in optimise_graph(recorder, results)[0]]


def test_a_product_with_ones_and_a_view_of_the_same_form_are_left_out() -> None:
    given, other = numbers(3, 2), numbers(3, 2, seed=3)

    def compute() -> list[Tensor]:
        product = torch.ones_like(given) * given
        return [product.view(3, 2).expand(3, 2).exp(), given * torch.full_like(product, 2.0)]

    assert operations(compute, [given]) == ["aten::exp", "aten::full_like", "aten::mul.Tensor"]
    first, second = RecordedGraph(compute, [given])([other])
    assert torch.equal(first, other.exp())
    assert torch.equal(second, other * 2.0)

    def doubled() -> list[Tensor]:
        return [(given * (torch.ones_like(given) + torch.ones_like(given))).exp()]

    assert torch.equal(RecordedGraph(doubled, [given])([other])[0], (other * 2.0).exp())


def test_a_product_with_ones_of_another_precision_is_made() -> None:
    given, other = numbers(4), numbers(4, seed=3)

    def compute() -> list[Tensor]:
        return [(given * torch.ones_like(given, dtype=torch.float64)).exp()]

    (found,) = RecordedGraph(compute, [given])([other])
    assert torch.equal(found, other.double().exp())


def test_a_view_of_what_was_changed_before_is_left_out_and_of_what_is_changed_after_is_not() -> None:
    given, other = numbers(4), numbers(4, seed=3)

    def compute() -> list[Tensor]:
        changed = given.exp().add_(1.0)
        return [changed.view(4).log(), changed.view(4) * 3.0, torch.exp(changed.view(4).neg_())]

    tape = RecordedGraph(compute, [given])
    wanted = other.exp() + 1.0
    for found, expected in zip(tape([other]), [wanted.log(), wanted * 3.0, (-wanted).exp()], strict=True):
        assert torch.equal(found, expected)


def test_numbers_are_made_tensors_once_in_the_precision_of_what_they_meet() -> None:
    """0.1 is another number in float32 than in float64, and none among whole numbers."""

    def compute(given: Tensor) -> list[Tensor]:
        return [
            *(given > 0.1, given < 0.1, given * 0.1, given / 0.1, given + 0.1, given - 0.1),
            *(given.sub(0.1, alpha=3), given.add(0.1, alpha=3), given * 1.0 / 3),
        ]

    at = torch.tensor([0.1, -1.0, 7.0, 0.1 + 1e-8])
    for given in (at, at.double(), torch.tensor([0, 1, -2, 3])):
        tape = RecordedGraph(lambda given=given: compute(given), [given])  # type: ignore[misc]
        other = given.flip(0)
        for played, computed in zip(tape([other]), compute(other), strict=True):
            assert played.dtype == computed.dtype
            assert torch.equal(played, computed)
    recorded = operations(lambda: compute(at), [at])
    assert not [name for name in recorded if name.endswith("Scalar")]


def test_zero_keeps_its_sign() -> None:
    given = numbers(4).abs()
    above, below = RecordedGraph(lambda: [given / 0.0, given / -0.0], [given])([given])
    assert torch.equal(above, torch.full((4,), torch.inf))
    assert torch.equal(below, torch.full((4,), -torch.inf))


def test_nothing_is_noted_for_autograd() -> None:
    weight, given = numbers(3, 2).requires_grad_(), numbers(4, 3)
    tape = RecordedGraph(lambda: [(given @ weight.detach()).exp(), given.exp()], [weight, given])
    first, second = tape([weight, given])
    assert not first.requires_grad
    assert not second.requires_grad
    assert torch.is_grad_enabled()
    # Guards end with the play.
    assert (weight * 2.0).requires_grad


def test_what_seems_in_vain_is_done_where_it_is_given_changed_or_of_another_form() -> None:
    given, mask = numbers(4), numbers(3, 1, seed=1) > 0

    def compute() -> list[Tensor]:
        doubled = given * 2.0
        before = doubled.neg().neg()
        doubled.add_(1.0)
        return [given.neg().neg(), before - doubled, torch.where(mask, given, given) + 0.0]

    tape, other = RecordedGraph(compute, [given, mask]), numbers(4, seed=3)
    kept = other.clone()
    same, difference, spread = tape([other, mask])
    assert torch.equal(difference, kept * 2.0 - (kept * 2.0 + 1.0))
    assert torch.equal(spread, kept.expand(3, 4))
    same.add_(5.0)
    assert torch.equal(other, kept)


def test_constants_are_made_once_but_for_those_that_are_given_or_changed() -> None:
    given = numbers(4)

    def compute() -> list[Tensor]:
        ones, zeros = torch.ones_like(given), torch.zeros_like(given)
        return [given * (ones + ones).exp(), zeros, torch.zeros_like(given).add_(given)]

    tape = RecordedGraph(compute, [given])
    for seed in (1, 2):
        other = numbers(4, seed=seed)
        scaled, zeros, added = tape([other])
        assert torch.equal(scaled, other * torch.full((4,), 2.0).exp())
        assert torch.equal(zeros, torch.zeros(4))
        assert torch.equal(added, other)
        # What was given is theirs who got it.
        zeros.add_(5.0)


def test_views_of_weights_follow_their_numbers_and_their_memory() -> None:
    weight, given = numbers(3, 2).requires_grad_(), numbers(4, 2)
    tape = RecordedGraph(lambda: [given @ weight.t(), given @ weight[1:2].t()], [weight, given], num_static=1)
    for change in (
        lambda: weight.data.add_(1.0),
        lambda: setattr(weight, "data", numbers(3, 2, seed=8)),
        lambda: weight.data.mul_(3.0),
    ):
        change()
        one, other = tape([weight, given])
        assert torch.equal(one, given @ weight.detach().t())
        assert torch.equal(other, given @ weight.detach()[1:2].t())


def test_a_number_written_in_the_code_is_kept() -> None:
    given = numbers(4)
    tape = RecordedGraph(lambda: [given * torch.tensor([1.0, 2.0, 3.0, 4.0])], [given])
    other = numbers(4, seed=1)
    assert torch.equal(tape([other])[0], other * torch.tensor([1.0, 2.0, 3.0, 4.0]))


KNOWN = numbers(4)


@pytest.mark.parametrize(
    "compute",
    [
        lambda: [KNOWN + float(KNOWN.sum())],
        lambda: [KNOWN if KNOWN.sum() > 0 else -KNOWN],
        lambda: [KNOWN[KNOWN > 0]],
        lambda: [KNOWN.nonzero()],
        lambda: [KNOWN + torch.rand(4)],
        lambda: [KNOWN + torch.empty(4).normal_()],
        lambda: [KNOWN + numbers(4, seed=1)],
    ],
    ids=["number", "branch", "mask", "nonzero", "rand", "normal", "generator"],
)
def test_what_depends_on_numbers_or_chance_is_not_recorded(compute: Callable[[], Sequence[Tensor]]) -> None:
    with pytest.raises(NotRecordable):
        RecordedGraph(compute, [KNOWN])


def test_a_tensor_that_is_no_input_is_not_recorded() -> None:
    other = numbers(4, seed=1)
    with pytest.raises(NotRecordable, match="not among the inputs"):
        RecordedGraph(lambda: [KNOWN + other], [KNOWN])


def test_what_cannot_be_recorded_is_computed_every_time() -> None:
    graphs, times = GraphCache(), 0

    def compute() -> tuple[list[Tensor], str]:
        nonlocal times
        times += 1
        return [KNOWN * float(KNOWN[0]) * times], "label"

    for _ in range(5):
        (found,), label = graphs("key", compute, [KNOWN])
        assert torch.equal(found, KNOWN * float(KNOWN[0]) * times)
        assert label == "label"
    assert not graphs.num_replayed


def test_keys_are_apart_and_labels_kept() -> None:
    graphs = GraphCache()
    for _ in range(6):
        for factor in (2.0, 3.0):
            (found,), label = graphs(factor, lambda f=factor: ([KNOWN * f], f), [KNOWN])  # type: ignore[misc]
            assert torch.equal(found, KNOWN * factor)
            assert label == factor
    assert graphs.num_replayed == 2


def test_a_tape_that_differs_from_computing_is_found_out_and_not_played_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What is computed changes behind the key: at a use that is checked the new result is taken."""
    graphs, factor = GraphCache(), 1.5
    graphs("key", lambda: ([KNOWN * factor], None), [KNOWN])
    factor = 2.0
    (found,), _ = graphs("key", lambda: ([KNOWN * factor], None), [KNOWN])
    assert torch.equal(found, KNOWN * 2.0)
    assert "differed from itself" in capsys.readouterr().err
    assert not graphs.num_replayed
    factor = 3.0
    assert torch.equal(graphs("key", lambda: ([KNOWN * factor], None), [KNOWN])[0][0], KNOWN * 3.0)


def test_checks_go_on_at_powers_of_two() -> None:
    graphs, computed = GraphCache(), []
    for _ in range(100):
        graphs("key", lambda: (computed.append(1), ([KNOWN + 1.0], None))[1], [KNOWN])
    # Recorded once, checked at uses 1, 2, 4, …, 64.
    assert len(computed) == 1 + 7


def test_not_a_number_agrees_with_itself() -> None:
    graphs, bad = GraphCache(), torch.full((3,), torch.nan)
    for _ in range(4):
        graphs("key", lambda: ([bad * 2.0], None), [bad])
    assert graphs.num_replayed == 1
