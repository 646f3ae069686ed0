from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logratio.errors import BadConfig
from logratio.records import Comparison, Completion, Prompt, Sample
from logratio.rollouts.pair_labelling import label_pairs, label_probability

PAIRINGS = ["best-worst", "all", "adjacent", "random"]


def sample(prompt, *texts):
    return Sample(
        prompt=Prompt(prompt), completions=tuple(Completion(text=text) for text in texts), columns={}
    )


def label(samples, rewards, **settings):
    return label_pairs(samples, rewards, **settings)


def texts(pairs):
    return [(pair.comparison.chosen.text, pair.comparison.rejected.text) for pair in pairs]


# --- probabilities ----------------------------------------------------------------------------------


def test_probability_by_hand():
    # (1.5 - 0.5) / 0.5 = 2, and σ(2) = 1 / (1 + e^-2) = 0.880797…
    assert label_probability(1.5, 0.5, temperature=0.5) == pytest.approx(0.8807970779778823, abs=1e-15)
    assert label_probability(0.5, 1.5, temperature=0.5) == pytest.approx(0.1192029220221176, abs=1e-15)
    assert label_probability(3.0, 3.0, temperature=0.5) == 0.5


@pytest.mark.parametrize(("first", "second", "expected"), [(1, 0, 1.0), (0, 1, 0.0), (2, 2, 0.5)])
def test_probability_at_temperature_zero(first, second, expected):
    assert label_probability(first, second, temperature=0.0) == expected


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.floats(1e-9, 1e6))
@settings(derandomize=True, max_examples=200)
def test_probabilities_of_both_orders_sum_to_one(first, second, temperature):
    one = label_probability(first, second, temperature=temperature)
    other = label_probability(second, first, temperature=temperature)
    assert 0.0 <= one <= 1.0
    assert one + other == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize(("difference", "temperature"), [(1.0, 0.5), (0.3, 1.0), (0.0, 1.0), (2.0, 1.0)])
def test_labels_have_the_frequencies_of_bradley_and_terry(difference, temperature):
    num = 4000
    one = [sample("p", "better", "worse")]
    wins = sum(
        texts(label(one, [[difference, 0.0]], temperature=temperature, seed=seed)[0]) == [("better", "worse")]
        for seed in range(num)
    )
    expected = 1 / (1 + math.exp(-difference / temperature))
    z = (wins - num * expected) / math.sqrt(num * expected * (1 - expected))
    assert abs(z) < 3.5


def test_draws_of_different_prompts_and_pairs_are_independent():
    num = 2000
    samples = [sample(f"prompt {number}", "a", "b", "c") for number in range(num)]
    pairs, counts = label(samples, [[0.0, 0.0, 0.0]] * num, pairing="all", temperature=1.0)
    assert counts.labelled == 3 * num
    first_wins = [[], [], []]
    for number in range(num):
        for pair in pairs[3 * number : 3 * number + 3]:
            both = sorted((pair.comparison.chosen.text, pair.comparison.rejected.text))
            first_wins[["ab", "ac", "bc"].index("".join(both))].append(pair.comparison.chosen.text == both[0])
    for index in range(3):
        assert abs(sum(first_wins[index]) - num / 2) < 3.5 * math.sqrt(num / 4)
        agree = sum(x == y for x, y in zip(first_wins[index], first_wins[index - 1], strict=True))
        assert abs(agree - num / 2) < 3.5 * math.sqrt(num / 4)


def test_expected_and_realised_noise():
    num, temperature = 3000, 0.5
    samples = [sample(f"prompt {number}", "a", "b") for number in range(num)]
    rewards = [[0.0, (number % 10) / 10] for number in range(num)]
    pairs, counts = label(samples, rewards, temperature=temperature)
    against = [1 / (1 + math.exp(step / 10 / temperature)) for step in range(1, 10)]
    assert counts.expected_against_reward == pytest.approx(num / 10 * sum(against), rel=1e-9)
    spread = math.sqrt(num / 10 * sum(p * (1 - p) for p in against))
    assert abs(counts.against_reward - counts.expected_against_reward) < 3.5 * spread
    assert counts.against_reward == sum(pair.chosen_reward < pair.rejected_reward for pair in pairs)
    assert counts.label_noise == counts.against_reward / num
    assert counts.to_json()["expected_label_noise"] == counts.expected_against_reward / num


def test_without_noise_no_label_is_against_the_reward():
    pairs, counts = label([sample("p", "a", "b", "c")], [[0.1, 0.3, 0.2]], pairing="all")
    assert texts(pairs) == [("c", "a"), ("b", "a"), ("b", "c")]
    assert (counts.against_reward, counts.expected_against_reward) == (0, 0.0)


# --- which pairs ------------------------------------------------------------------------------------


def test_pairings_by_hand():
    one, rewards = [sample("p", "low", "high", "middle", "more")], [[0.0, 3.0, 1.0, 2.0]]
    assert texts(label(one, rewards, pairing="best-worst")[0]) == [("high", "low")]
    assert texts(label(one, rewards, pairing="adjacent")[0]) == [
        ("middle", "low"),
        ("more", "middle"),
        ("high", "more"),
    ]
    every = texts(label(one, rewards, pairing="all")[0])
    assert len(every) == len(set(every)) == 6
    drawn = texts(label(one, rewards, pairing="random", pairs_per_prompt=3)[0])
    assert len(set(drawn)) == 3
    assert set(drawn) <= set(every)
    assert sorted(texts(label(one, rewards, pairing="random", pairs_per_prompt=99)[0])) == sorted(every)


def test_random_pairs_are_drawn_evenly():
    num, one = 3000, [sample("p", "a", "b", "c", "d")]
    counts = {}
    for seed in range(num):
        pair = texts(label(one, [[0.0, 1.0, 2.0, 3.0]], pairing="random", pairs_per_prompt=1, seed=seed)[0])[
            0
        ]
        counts[pair] = counts.get(pair, 0) + 1
    assert len(counts) == 6
    # chi square with 5 degrees of freedom: 20.5 has probability 0.001.
    assert sum((count - num / 6) ** 2 / (num / 6) for count in counts.values()) < 20.5


def test_rewards_are_written_beside_the_comparison():
    pairs, _ = label([sample("p", "good", "bad")], [[0.25, -0.5]])
    assert pairs[0].to_json() == {
        "prompt": "p",
        "chosen": "good",
        "rejected": "bad",
        "chosen_reward": 0.25,
        "rejected_reward": -0.5,
    }


def test_sampled_tokens_are_kept():
    answers = tuple(Completion(text=text, token_ids=(ord(text), 0)) for text in "ab")
    pairs, _ = label([Sample(prompt=Prompt("p"), completions=answers, columns={})], [[0.0, 1.0]])
    assert pairs[0].comparison == Comparison(prompt=Prompt("p"), chosen=answers[1], rejected=answers[0])
    assert pairs[0].to_json()["chosen_completion"]["token_ids"] == [ord("b"), 0]


# --- what is left out -------------------------------------------------------------------------------


def test_ties_are_left_out_at_temperature_zero_only():
    one, rewards = [sample("p", "a", "b")], [[1.0, 1.0]]
    pairs, counts = label(one, rewards)
    assert (pairs, counts.ties, counts.labelled) == ([], 1, 0)
    pairs, counts = label(one, rewards, temperature=0.1)
    assert (len(pairs), counts.ties) == (1, 0)
    assert (counts.against_reward, counts.expected_against_reward) == (0, 0.0)


def test_identical_and_empty_answers_are_left_out():
    samples = [
        sample("p", "same", " same\n"),
        sample("q", "text", " \n"),
        sample("r", "", "  "),
        sample("s", "caf\u00e9", "cafe\u0301"),
    ]
    pairs, counts = label(samples, [[0.0, 1.0]] * 4, pairing="all")
    assert pairs == []
    assert (counts.identical, counts.empty, counts.pairs_considered) == (2, 2, 4)


def test_an_empty_answer_does_not_cost_best_worst_its_pair():
    pairs, counts = label([sample("p", "", "good", "bad", " ")], [[-9.0, 1.0, 0.0, 9.0]])
    assert texts(pairs) == [("good", "bad")]
    assert (counts.pairs_considered, counts.empty) == (1, 0)


def test_prompts_without_a_pair_are_counted():
    _, counts = label([sample("p", "a"), sample("q"), sample("r", "a", "b")], [[0.0], [], [0.0, 1.0]])
    assert (counts.num_prompts, counts.num_answers) == (3, 3)
    assert (counts.prompts_without_pair, counts.pairs_considered) == (2, 1)


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_answers_that_were_cut_off_are_left_out_where_asked(pairing):
    cut = Sample(
        prompt=Prompt("p"),
        completions=(
            Completion(text="long and lovely", finish_reason="length"),
            Completion(text="good"),
            Completion(text="bad"),
        ),
        columns={},
    )
    alone = Sample(prompt=Prompt("q"), completions=cut.completions[:2], columns={})
    rewards = [[9.0, 1.0, 0.0], [9.0, 1.0]]
    pairs, counts = label([cut, alone], rewards, pairing=pairing, finished_only=True)
    assert texts(pairs) == [("good", "bad")]
    assert (counts.num_answers, counts.unfinished, counts.prompts_without_pair) == (5, 2, 1)
    assert counts.pairs_considered == 1
    _, kept = label([cut, alone], rewards, pairing=pairing)
    assert (kept.unfinished, kept.prompts_without_pair) == (0, 0)


ANSWERS = st.lists(
    st.tuples(st.sampled_from(["", " ", "a", "a ", "b", "c"]), st.sampled_from([0.0, 0.5, 1.0])), max_size=5
)


@given(
    st.lists(ANSWERS, max_size=5),
    st.sampled_from(PAIRINGS),
    st.sampled_from([0.0, 0.3]),
    st.integers(0, 5),
)
@settings(derandomize=True, max_examples=300, deadline=None)
def test_counts_add_up(rows, pairing, temperature, seed):
    samples = [sample(f"p{number}", *(text for text, _ in row)) for number, row in enumerate(rows)]
    rewards = [[reward for _, reward in row] for row in rows]
    pairs, counts = label(samples, rewards, pairing=pairing, temperature=temperature, seed=seed)
    assert counts.pairs_considered == counts.labelled + counts.identical + counts.ties + counts.empty
    assert counts.labelled == len(pairs)
    possible = {"best-worst": lambda n: min(1, n // 2), "adjacent": lambda n: max(0, n - 1)}
    every = lambda n: n * (n - 1) // 2  # noqa: E731
    possible |= {"all": every, "random": lambda n: min(2, every(n))}
    assert counts.pairs_considered == sum(possible[pairing](len(row)) for row in rows)
    for pair in pairs:
        chosen, rejected = pair.comparison.chosen.text.strip(), pair.comparison.rejected.text.strip()
        assert chosen
        assert rejected
        assert chosen != rejected
        assert temperature > 0 or pair.chosen_reward > pair.rejected_reward


# --- what a label depends on ------------------------------------------------------------------------


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_labels_do_not_depend_on_order_or_company(pairing):
    rng = random.Random(0)
    samples = [sample(f"prompt {number}", "a", "b", "c", "d") for number in range(40)]
    rewards = [[rng.choice([0.0, 0.2, 0.4]) for _ in range(4)] for _ in samples]

    def labels(order, shuffle):
        picked, values = [], []
        for number in order:
            answers = list(zip(samples[number].completions, rewards[number], strict=True))
            if shuffle:
                rng.shuffle(answers)
            picked.append(replace(samples[number], completions=tuple(answer for answer, _ in answers)))
            values.append([value for _, value in answers])
        pairs, _ = label(picked, values, pairing=pairing, temperature=0.3, seed=1)
        return {(str(pair.comparison.prompt), *text) for pair, text in zip(pairs, texts(pairs), strict=True)}

    whole = labels(range(40), shuffle=False)
    assert labels(rng.sample(range(40), 40), shuffle=True) == whole
    assert labels([7], shuffle=False) == {row for row in whole if row[0] == "prompt 7"}


def test_another_seed_gives_other_labels():
    samples = [sample(f"prompt {number}", "a", "b") for number in range(64)]
    rewards = [[0.0, 0.0]] * 64
    first = texts(label(samples, rewards, temperature=1.0, seed=0)[0])
    assert first == texts(label(samples, rewards, temperature=1.0, seed=0)[0])
    assert first != texts(label(samples, rewards, temperature=1.0, seed=1)[0])


@pytest.mark.parametrize(
    "settings",
    [
        {"pairing": "worst-best"},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"pairing": "random", "pairs_per_prompt": 0},
    ],
)
def test_settings_that_mean_nothing_are_refused(settings):
    with pytest.raises(BadConfig):
        label([sample("p", "a", "b")], [[0.0, 1.0]], **settings)


def test_rewards_must_match_the_answers():
    with pytest.raises(BadConfig, match="do not match"):
        label([sample("p", "a", "b")], [[0.0]])
