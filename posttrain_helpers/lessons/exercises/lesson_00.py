"""The exercises of lesson 00: two ways to cut a distribution, a sampler to test, another number of shots."""

from __future__ import annotations

from typing import Any

import torch

from posttrain_helpers.lessons.exercises.exercise import (
    Exercise,
    NotYet,
    call,
    change_exercise,
    is_close,
    numbers,
    plain,
)
from posttrain_helpers.statistics.paired_tests import PairedResult, paired_binary

# 00.1: how many tokens does top-p keep?

SURE, UNSURE, TOP_P = (0.90, 0.06, 0.02, 0.01, 0.01), (0.30, 0.25, 0.20, 0.15, 0.10), 0.8


def kept_by_top_p(probabilities: tuple[float, ...], p: float) -> int:
    """Return the length of the shortest front part of sorted probabilities that adds up to p."""
    return next(n for n in range(1, len(probabilities) + 1) if sum(probabilities[:n]) >= p)


def grade_prediction(answer: Any) -> None:
    """Accept the two counts."""
    sure, unsure = numbers(answer, 2)
    if sure == unsure:
        raise NotYet(
            "The same number for both would be top-k. Top-p counts probability, not tokens: how much of it "
            "lies on the first token of each row?"
        )
    if sure != kept_by_top_p(SURE, TOP_P):
        raise NotYet("Begin with the sure row: which is the first place where the running sum reaches 0.8?")
    if unsure < kept_by_top_p(UNSURE, TOP_P):
        raise NotYet("Add up the tokens of the unsure row that you keep: the sum does not reach 0.8 yet.")
    if unsure > kept_by_top_p(UNSURE, TOP_P):
        raise NotYet("In the unsure row fewer tokens are enough: stop as soon as the sum reaches 0.8.")


# 00.2: min-p

MIN_P_CASES = (
    (SURE, 0.05),
    (UNSURE, 0.22),
    (UNSURE, 0.6),
    (UNSURE[::-1], 1.0),
    ((0.05, 0.4, 0.05, 0.4, 0.1), 0.2),
)


def keep_min_p(probabilities: torch.Tensor, min_p: float) -> torch.Tensor:
    """Keep the tokens that have at least the share `min_p` of the most likely one's probability."""
    return _scaled(probabilities * (probabilities >= min_p * probabilities.max()))


def _scaled(probabilities: torch.Tensor) -> torch.Tensor:
    return probabilities / probabilities.sum()


def grade_min_p(answer: Any) -> None:
    """Compare with the reference on distributions in several orders."""
    for values, min_p in MIN_P_CASES:
        probabilities = torch.tensor(values)
        result = call(answer, probabilities, min_p)
        case = f"For the probabilities {list(values)} and min_p={min_p}"
        found = plain(result)
        if isinstance(found, list) and any(isinstance(value, float) and value != value for value in found):
            raise NotYet(f"{case} no token is left. Which token always reaches the threshold, even at 1.0?")
        found = numbers(result, len(values))
        expected = keep_min_p(probabilities, min_p).tolist()
        kept, right = ([value > 0 for value in shares] for shares in (found, expected))
        if sum(kept) != sum(right):
            raise NotYet(
                f"{case} you keep {sum(kept)} tokens. The threshold is a share of the largest probability: "
                "work out that number for this case first."
            )
        if kept != right:
            raise NotYet(
                f"{case} you keep as many tokens as you should, but other ones. Every token must keep its "
                "place in the tensor."
            )
        if not is_close(sum(found), 1.0):
            raise NotYet(
                f"{case} you keep the right tokens, but what you return adds up to {sum(found):.3f}."
            )
        if not is_close(found, expected):
            raise NotYet(f"{case} you keep the right tokens, but their ratios to each other have changed.")


# 00.3: the colleague's sampler

DRAWS = 20_000
# The last token of the third case is never drawn, and has a share all the same.
SAMPLER_CASES = (((2.0, 1.0, 0.0), 0.25), ((2.0, 1.0, 0.0), 4.0), ((-1.0, 0.5, 3.0, -30.0), 0.5))


def draw(logits: torch.Tensor, temperature: float, draws: int = 1000) -> torch.Tensor:
    """Return how often each token is drawn at a temperature."""
    return _shares_of_draws((logits / temperature).softmax(-1), draws)


def _shares_of_draws(weights: torch.Tensor, draws: int) -> torch.Tensor:
    tokens = torch.multinomial(weights, draws, replacement=True)
    return tokens.bincount(minlength=len(weights)) / draws


def grade_sampler(answer: Any) -> None:
    """Draw often and compare the shares with the softmax; then draw once."""
    found = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for logits, temperature in SAMPLER_CASES:
            shares = call(answer, torch.tensor(logits), temperature, DRAWS)
            found.append(numbers(shares, len(logits)))
        logits, temperature = SAMPLER_CASES[0]
        once = numbers(call(answer, torch.tensor(logits), temperature, 1), len(logits))
    for shares in found:
        if not is_close(sum(shares), 1.0):
            raise NotYet(
                f"For {DRAWS} draws your shares add up to {sum(shares):g}; all shares together make 1."
            )
    sharp, flat = found[0][0], found[1][0]
    if abs(sharp - flat) < 0.05:
        raise NotYet(
            f"At temperatures 0.25 and 4 the first token is drawn {sharp:.0%} and {flat:.0%} of the time: "
            "your temperature has no effect. What does torch.multinomial do with weights whose sum is not 1?"
        )
    if sharp < flat:
        raise NotYet(
            "A low temperature should make the likeliest token likelier still; yours does the opposite."
        )
    if sorted(once) != [0.0] * (len(once) - 1) + [1.0]:
        raise NotYet(
            f"With draws=1 a single token is drawn and gets the whole share; you return "
            f"{[round(share, 3) for share in once]}."
        )
    for shares, (logits, temperature) in zip(found, SAMPLER_CASES, strict=True):
        expected = (torch.tensor(logits) / temperature).softmax(-1).tolist()
        if any(abs(one - other) > 0.02 for one, other in zip(shares, expected, strict=True)):
            raise NotYet(
                f"For the logits {list(logits)} and temperature {temperature} the shares should be near "
                "softmax(logits / temperature), and yours are not."
            )


# 00.4: another number of examples

IN_THE_TABLE = (0, 1, 2, 4, 8)


def _comparison(up: int, down: int) -> PairedResult:
    before = [False] * up + [True] * (100 - up)
    after = [True] * up + [False] * down + [True] * (100 - up - down)
    return paired_binary(before, after, clusters=[place % 20 for place in range(100)])


_UNCLEAR, _BETTER = _comparison(8, 5), _comparison(30, 2)
_BETTER_BUT_ALONE = paired_binary([False] * 60 + [True] * 40, [True] * 100)


def check_shots(answer: dict[str, Any], result: PairedResult) -> None:
    """Accept a number of examples that the notebook has not tried, compared relation by relation."""
    shots = answer["changed"].partition("=")[2].strip()
    if not shots.isdecimal() or int(shots) in IN_THE_TABLE:
        raise NotYet(f"Choose a whole number of examples that is not in the table; {shots} was found.")
    if result.clusters is None:
        raise NotYet("Questions about one relation are answered alike: compare with clusters=relations.")


EXERCISES: tuple[Exercise, ...] = (
    Exercise(
        "00.1",
        "predict",
        grade_prediction,
        [kept_by_top_p(SURE, TOP_P), kept_by_top_p(UNSURE, TOP_P)],
        (([1, 3], "does not reach 0.8"), ([4, 4], "would be top-k"), ([2, 4], "Begin with the sure row")),
        "The cut follows the model's confidence: one token is enough where the model is sure, and most of "
        "them are kept where it is not. Top-k would keep the same number in both rows.",
    ),
    Exercise(
        "00.2",
        "function",
        grade_min_p,
        keep_min_p,
        (
            (lambda p, min_p: p * (p >= min_p * p.max()), "adds up to"),
            (lambda p, min_p: _scaled(p * (p >= min_p)), "share of the largest probability"),
            (lambda p, min_p: _scaled(p * (p > min_p * p.max())), "no token is left"),
            (lambda p, min_p: keep_min_p(p.sort().values, min_p), "its place in the tensor"),
        ),
        "The threshold moves with the largest probability, so a flat distribution keeps more tokens than a "
        "sharp one; and at min_p=1 sampling becomes greedy.",
    ),
    Exercise(
        "00.3",
        "bug",
        grade_sampler,
        draw,
        (
            (lambda logits, t, draws: _shares_of_draws(logits.softmax(-1) / t, draws), "no effect"),
            (lambda logits, t, draws: draw(logits, 1 / t, draws), "does the opposite"),
            (
                lambda logits, t, draws: _shares_of_draws((logits / t).log_softmax(-1), draws),
                "stops with RuntimeError",
            ),
            (lambda logits, t, draws: (logits / t).softmax(-1), "you return [0.982"),
            (lambda logits, t, draws: draw(logits, t), "a single token is drawn"),
            (lambda logits, t, draws: draw(logits, t, draws) * draws, "add up to 20000"),
        ),
        "The temperature divides the logits. Divided after the softmax, all probabilities shrink alike, and "
        "torch.multinomial scales them back without a word: the code runs, and the temperature does nothing.",
    ),
    change_exercise(
        "00.4",
        ("shots",),
        "shots=16",
        (
            ({"changed": "shots=2"}, "not in the table"),
            ({"result": _BETTER}, "leave 0 out, and"),
            ({"result": _BETTER_BUT_ALONE, "verdict": "improved"}, "clusters=relations"),
        ),
        "The same questions stand behind both numbers, so only those whose answer changed between right and "
        "wrong count, and the interval says which differences are compatible with what you saw.",
        result=_UNCLEAR,
        also=check_shots,
    ),
)
