"""The section on a reward model, from numbers alone."""

from logratio.report.sections.reward import reward_section


def share(value, n=100):
    return {"value": value, "low": value - 0.05, "high": min(1.0, value + 0.05), "n": n}


FOUND = {
    "accuracy": share(0.667),
    "longer_wins": share(0.571),
    "agreement": share(0.74, 31),
    "judge_accuracy": None,
    "loss": 0.612,
    "calibration": [
        {"low": 0.5, "high": 0.55, "mean": 0.53, "accuracy": share(0.51)},
        {"low": 0.8, "high": 0.85, "mean": 0.82, "accuracy": share(0.77)},
    ],
    "calibration_error": 0.035,
    "calibration_error_by_chance": 0.021,
    "by_length": [{"low": -12.0, "high": -1.0, "mean": -5.0, "accuracy": share(0.6, 40)}],
    "length_correlation": 0.31,
    "chosen_reward": 0.4,
    "rejected_reward": -0.2,
    "num_ties": 3,
    "num_prompts": 80,
    "ceiling": 0.846,
}


def html(**changes):
    return reward_section({"reward_model": FOUND | changes}).to_html().replace("\u00a0", " ")


def test_every_number_is_shown():
    page = html()
    for text in ("66.7 %", "61.7 to 71.7 %", "57.1 %", "74.0 %", "31 pairs", "84.6 %", "0.612", "0.31"):
        assert text in page, text
    assert "0.035" in page
    assert "0.021" in page
    assert "−12" in page
    assert "labels were drawn from" not in page
    assert "labels were drawn from" in html(judge_accuracy=share(0.9))
    assert "says 82 %, is right 77 %" in page
    assert "The longer answer wins" in page


def test_where_people_like_short_answers_that_is_the_rule_to_beat():
    page = html(longer_wins={"value": 0.4, "low": 0.3, "high": 0.45, "n": 100})
    assert "The shorter answer wins" in page
    assert "60.0 %" in page
    assert "55.0 to 70.0 %" in page


def test_accuracy_by_length_is_drawn_where_lengths_differ():
    bins = [
        {"low": low, "high": low + 4, "mean": low + 2.0, "accuracy": share(value)}
        for low, value in ((-9.0, 0.9), (2.0, 0.3))
    ]
    page = html(by_length=bins)
    assert "By difference of length" in page
    assert "−7 tokens 90 %; +4 tokens 30 %" in page
    assert "By difference of length" not in html()


def test_what_is_not_there_is_left_out():
    assert reward_section({}) is None
    assert reward_section({"reward_model": {"accuracy": None}}) is None
    bare = html(calibration=[], by_length=None, agreement=None, ceiling=None, num_ties=0, loss=None)
    assert 'class="chart"' not in bare
    assert "noisy allow" not in bare
    assert "Ties" not in bare
