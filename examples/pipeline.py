"""From a model and a reward to a better model and a report: sample, label, check, SFT, DPO, evaluate, report.

python examples/pipeline.py embedded prompts.jsonl runs/pipeline
"""

import sys
from pathlib import Path

import logratio as lr


def brief(completions, **columns):
    """A reward is a function: a number for each answer. This one likes short answers that say something."""
    texts = [answer if isinstance(answer, str) else answer[0]["content"] for answer in completions]
    return [-abs(len(text) - 40) / 40 for text in texts]


def main(model: str, prompts: str, out: Path, **settings) -> lr.Run:
    """Take a model the whole way; settings are those of both trainers."""
    policy = lr.load_policy(model)
    samples = lr.sample(policy, prompts, num_samples=4, config=lr.SamplingConfig(max_new_tokens=32))
    pairs = lr.label(samples, brief, temperature=0.1, out=out / "comparisons.jsonl")
    print(lr.check(pairs, policy).summary())
    data = lr.PreferenceDataConfig(held_out=0.2)
    sft = lr.train_sft(policy, pairs, lr.SFTConfig.of(**settings), out=out / "sft", dataset=data)
    dpo = lr.train_dpo(sft, pairs, lr.DPOConfig.of(beta=0.1, **settings), out=out / "dpo", dataset=data)
    result = lr.evaluate(dpo, reference=sft, prompts=dpo.held_out, reward=brief, out=dpo.path / "evaluation")
    print(result.verdict.sentence)
    print(f"first loss {dpo.metrics[0]['loss']:.4f}; model {dpo.model_path}; report {dpo.report()}")
    return dpo


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
