"""choix, a library of Luce's choice models: the same strengths and the same likelihoods."""

import pytest
import torch

from logratio.objectives.bradley_terry import plackett_luce_loss, preference_probability
from logratio.stats.strengths import fit_strengths

pytestmark = pytest.mark.conformance
choix = pytest.importorskip("choix")
ITEMS = 6


@pytest.fixture(scope="module")
def wins():
    generator = torch.Generator().manual_seed(0)
    table = torch.randint(1, 30, (ITEMS, ITEMS), generator=generator).double()
    return table - table.diagonal().diag()


@pytest.fixture(scope="module")
def games(wins):
    """(winner, loser) of every game."""
    return [(i, j) for i in range(ITEMS) for j in range(ITEMS) for _ in range(int(wins[i, j]))]


@pytest.mark.parametrize("method", ["opt_pairwise", "ilsr_pairwise", "mm_pairwise"])
def test_strengths(wins, games, method):
    """Maximum likelihood by Newton's method, by spectral ranking, and by minorise–maximise."""
    settings = {"tol": 1e-9} if method == "opt_pairwise" else {"tol": 1e-10, "max_iter": 10_000}
    theirs = torch.as_tensor(getattr(choix, method)(ITEMS, games, **settings)).double()
    torch.testing.assert_close(fit_strengths(wins).strengths, theirs - theirs.mean(), rtol=0.0, atol=1e-6)


def test_likelihood_of_comparisons(wins, games):
    fitted = fit_strengths(wins)
    theirs = choix.log_likelihood_pairwise(games, fitted.strengths.numpy())
    assert fitted.log_likelihood == pytest.approx(theirs, rel=1e-12)
    first, second = choix.probabilities([0, 3], fitted.strengths.numpy())
    ours = preference_probability(fitted.strengths[:1], fitted.strengths[3:4]).item()
    assert ours == pytest.approx(first, rel=1e-12)
    assert 1 - ours == pytest.approx(second, rel=1e-12)


def test_likelihood_of_rankings():
    generator = torch.Generator().manual_seed(1)
    strengths = torch.randn(ITEMS, generator=generator, dtype=torch.float64)
    for size in (2, 3, ITEMS):
        order = torch.randperm(ITEMS, generator=generator)[:size]
        theirs = choix.log_likelihood_rankings([tuple(order.tolist())], strengths.numpy())
        assert -plackett_luce_loss(strengths[order][None]).item() == pytest.approx(theirs, rel=1e-12)


def test_strengths_from_rankings():
    """The loss of whole rankings is least where choix's own fit is."""
    generator = torch.Generator().manual_seed(2)
    rankings = torch.stack([torch.randperm(ITEMS, generator=generator) for _ in range(40)])
    theirs = torch.as_tensor(
        choix.ilsr_rankings(ITEMS, [tuple(r) for r in rankings.tolist()], tol=1e-10, max_iter=10_000)
    ).double()
    theirs.requires_grad_()
    plackett_luce_loss(theirs[rankings]).sum().backward()
    assert theirs.grad.abs().max() < 1e-6


def test_rate_on_a_file_of_many_models(tmp_path):
    """24 models, some of which never met, from a CSV file to ratings; without ties, and with ties as halves.

    choix has no ties: as halves of wins, they are as if every comparison was made twice, and of each tie
    either side won once.
    """
    from logratio.evaluation.ratings.pairwise_counts import count_outcomes
    from logratio.evaluation.ratings.rating import rate
    from logratio.evaluation.ratings.reading import read_outcomes

    names = [f"model {place:02}" for place in range(24)]
    generator = torch.Generator().manual_seed(3)
    planted = torch.randn(len(names), generator=generator)
    rows, games, doubled = ["model_a,model_b,outcome"], [], []
    for _ in range(3_000):
        i, j = torch.randperm(len(names), generator=generator)[:2].tolist()
        if abs(i - j) > 12:
            continue
        drawn = torch.rand(2, generator=generator).tolist()
        if drawn[0] < 0.2:
            rows.append(f"{names[i]},{names[j]},tie")
            doubled += [(i, j), (j, i)]
            continue
        winner, loser = (i, j) if drawn[1] < (planted[i] - planted[j]).sigmoid() else (j, i)
        rows.append(f"{names[i]},{names[j]},{'model_a' if winner == i else 'model_b'}")
        games.append((winner, loser))
        doubled += [(winner, loser)] * 2
    path = tmp_path / "votes.csv"
    for kept, ties, played in (
        ([row for row in rows if not row.endswith(",tie")], "davidson", games),
        (rows, "half", doubled),
    ):
        path.write_text("\n".join(kept) + "\n")
        found = rate(count_outcomes(read_outcomes(path)), ties=ties, resamples=0)
        ours = [one.strength for one in sorted(found.ratings, key=lambda one: one.model)]
        theirs = choix.ilsr_pairwise(len(names), played, tol=1e-12, max_iter=100_000)
        assert ours == pytest.approx((theirs - theirs.mean()).tolist(), abs=1e-6)
