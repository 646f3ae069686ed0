"""Several runs of one experiment: each like a run alone, and together what their numbers say."""

import json

import numpy as np
import pytest

from logratio.cli.main import main
from logratio.control.evaluation import interquartile_interval, interquartile_mean
from logratio.recipes.control_seeds import POINTS, aggregate, join_curves
from logratio.run_directory import hash_file

FEW = ["--steps", "1500", "--num-steps", "50", "--update-epochs", "2", "--evaluation-episodes", "4"]


def control(*words):
    return main(["control", "ppo", "--env", "CartPole-v1", *map(str, words), *FEW])


def read(path):
    return json.loads(path.read_text())


def test_several_seeds_are_put_together(tmp_path, capsys):
    out = tmp_path / "runs"
    assert control("--out", out, "--seeds", 3, "--seed", 5) == 0
    report = read(out / "report.json")
    judged = report["evaluation"]
    assert [one["seed"] for one in judged["seeds"]] == [5, 6, 7]
    assert [one["directory"] for one in judged["seeds"]] == ["seed-5", "seed-6", "seed-7"]
    alone = [read(out / f"seed-{seed}" / "report.json")["evaluation"] for seed in (5, 6, 7)]
    returns = [one["mean_return"] for one in alone]
    assert judged["mean_return"] == pytest.approx(np.mean(returns))
    assert judged["std_return"] == pytest.approx(np.std(returns))
    assert judged["episodes"] == 12
    for one, own in zip(judged["seeds"], alone, strict=True):
        assert {name: one[name] for name in ("mean_return", "std_return", "episodes")} == {
            name: own[name] for name in ("mean_return", "std_return", "episodes")
        }
        assert one["stochastic"] == own["stochastic"]
        assert len(one["deterministic"]["returns"]) == 4
    middle = judged["interquartile_mean"]
    assert middle["value"] == pytest.approx(interquartile_mean(returns))
    assert (middle["low"], middle["high"]) == pytest.approx(interquartile_interval(returns))
    assert [*report["training"]] == ["seed-5", "seed-6", "seed-7"]
    said = capsys.readouterr().out
    assert f"interquartile mean {middle['value']:.1f}" in said
    assert f"seed 6: return {returns[1]:.1f}" in said


def test_a_run_among_several_is_the_run_alone(tmp_path):
    assert control("--out", tmp_path / "runs", "--seeds", 2, "--seed", 1) == 0
    assert control("--out", tmp_path / "alone", "--seed", 2) == 0
    weights = [tmp_path / name / "model" / "policy.safetensors" for name in ("runs/seed-2", "alone")]
    assert hash_file(weights[0]) == hash_file(weights[1])


def test_runs_are_not_written_over_and_more_seeds_are_added_on_request(tmp_path, capsys):
    out = tmp_path / "runs"
    assert control("--out", out, "--seeds", 2) == 0
    before = read(out / "report.json")["evaluation"]["seeds"]
    assert control("--out", out, "--seeds", 3) == 2
    assert "RunExists" in capsys.readouterr().err
    assert control("--out", out, "--seeds", 3, "--resume") == 0
    after = read(out / "report.json")["evaluation"]["seeds"]
    assert after[:2] == before
    assert [one["seed"] for one in after] == [0, 1, 2]


@pytest.mark.parametrize(("first", "then"), [(1, 2), (2, 1)])
def test_one_run_and_several_do_not_share_a_directory(tmp_path, capsys, first, then):
    assert control("--out", tmp_path / "runs", "--seeds", first) == 0
    assert control("--out", tmp_path / "runs", "--seeds", then, "--resume") == 2
    assert "several was" in capsys.readouterr().err


def test_the_report_stands_before_the_last_run_is_done(tmp_path, monkeypatch):
    """Stopped in the second run: what the first earned is there."""
    import logratio.recipes.control as command

    real, calls = command.train_once, []

    def train_once(*arguments, **named):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **named)

    monkeypatch.setattr(command, "train_once", train_once)
    assert control("--out", tmp_path / "runs", "--seeds", 3) == 130
    report = read(tmp_path / "runs" / "report.json")
    assert [one["seed"] for one in report["evaluation"]["seeds"]] == [0]
    page = (tmp_path / "runs" / "report.html").read_text()
    assert "mean return of 4 episodes, seed 0" in page
    assert "1 runs" not in page


# --- the curves together ----------------------------------------------------------------------------


def curve(*points):
    return [{"steps": float(steps), "return": float(value)} for steps, value in points]


def test_curves_are_joined_where_every_run_has_a_return():
    rows = join_curves([curve((0, 0), (100, 100)), curve((20, 0), (120, 0)), curve((10, 50), (90, 50))])
    assert len(rows) == POINTS
    assert (rows[0]["steps"], rows[-1]["steps"]) == (20.0, 90.0)
    first, last = rows[0], rows[-1]
    assert (first["lowest"], first["highest"]) == (0.0, 50.0)
    assert first["return"] == pytest.approx((20 + 0 + 50) / 3)
    assert last["return"] == pytest.approx((90 + 0 + 50) / 3)
    for row in rows:
        ordered = [row[name] for name in ("lowest", "low", "return", "high", "highest")]
        assert ordered == pytest.approx(sorted(ordered))


def test_the_interval_of_the_curve_is_the_bootstrap_of_the_mean_over_runs():
    """Of runs at 0 and 8 a resample has mean 0, 4 or 8 with chances 1/4, 1/2, 1/4: all within 95 %."""
    rows = join_curves([curve((0, 0), (10, 0)), curve((0, 8), (10, 8))])
    assert {(row["low"], row["return"], row["high"]) for row in rows} == {(0.0, 4.0, 8.0)}
    alike = join_curves([curve((0, 3), (10, 3))] * 4)
    assert {(row["low"], row["return"], row["high"]) for row in alike} == {(3.0, 3.0, 3.0)}
    # With six runs all at 0 but one at 6, the mean of a resample is the number of draws of that one:
    # binomial of 6 draws at 1/6, of which 0 has 33 % and 4 or more 0.9 %, 3 or more 6 %.
    (row, *_) = join_curves([curve((0, 6), (10, 6)), *[curve((0, 0), (10, 0))] * 5])
    assert (row["low"], row["return"], row["high"]) == (0.0, 1.0, 3.0)


def test_curves_that_never_meet_are_not_joined():
    assert join_curves([curve((0, 1), (10, 1)), curve((20, 1), (30, 1))]) == []
    assert join_curves([[], []]) == []
    (row,) = join_curves([curve((0, 1), (10, 5)), curve((10, 7), (30, 1))])
    assert (row["steps"], row["return"]) == (10.0, 6.0)


def test_a_run_without_a_finished_episode_does_not_spoil_the_curve(tmp_path):
    judged = {"mean_return": 1.0, "std_return": 0.0, "episodes": 1, "deterministic": {}, "stochastic": {}}
    reports = {
        tmp_path / f"seed-{seed}": {
            "environment": "Made-v0",
            "seed": seed,
            "evaluation": judged | {"mean_return": float(seed)},
            "curve": own,
        }
        for seed, own in enumerate([[], curve((0, 2), (10, 2)), curve((0, 4), (10, 4))])
    }
    found = aggregate(reports)
    assert {row["return"] for row in found["curve"]} == {3.0}
    assert found["evaluation"]["interquartile_mean"]["value"] == interquartile_mean([0.0, 1.0, 2.0])
