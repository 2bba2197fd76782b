"""The mistakes that `run.py` plants: plausible ones, each with the tests that must notice it.

A mistake is named by the function that it is made in, and by a text in it, so that it stays valid when the
file moves; a renamed module is one edit. `where` may also be a class or a constant.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mistake:
    """One text of one function, and what a tired programmer might have written instead.

    Attributes:
        where: the function, method, class or constant in its module, such as `Comparison.claim`.
        what: what is wrong then, for readers.
        old: a text that occurs once in it.
        new: what takes its place.
        tests: the tests that must notice it, if others than those of the group.
    """

    where: str
    what: str
    old: str
    new: str
    tests: tuple[str, ...] = ()


@dataclass(frozen=True)
class Group:
    """The mistakes of one module, and the tests that must notice them."""

    module: str
    tests: tuple[str, ...]
    mistakes: tuple[Mistake, ...]


STATISTICS = Group(
    "posttrain_helpers.statistics.paired_tests",
    ("tests/statistics/test_paired_tests.py",),
    (
        Mistake(
            "paired_binary",
            "the clusters do not widen the interval",
            "design_effect=effect, degrees=degrees",
            "degrees=degrees",
        ),
        Mistake(
            "paired_binary",
            "prompts that did not change count in the test",
            "binomtest(up, up + down",
            "binomtest(up, len(first)",
        ),
        Mistake(
            "paired_binary",
            "the exact test ignores the clusters",
            "_exact_sign_flip_p(np.bincount(codes, second - first).astype(int))",
            "binomtest(up, up + down, 0.5).pvalue",
        ),
        Mistake(
            "paired_numeric",
            "the interval ignores the clusters",
            "resamples=resamples, clusters=clusters)",
            "resamples=resamples)",
        ),
        Mistake(
            "paired_numeric",
            "the test ignores the clusters",
            "difference if codes is None else np.bincount(codes, difference)",
            "difference",
        ),
        Mistake("paired_numeric", "a p at its floor is not marked", "result.p <= 2 /", "result.p < 1 /"),
        Mistake("verdict", "the level is 10 %", "result.p < ALPHA", "result.p < 2 * ALPHA"),
        Mistake(
            "verdict",
            "improved by p alone",
            "elif significant and low > 0:",
            "elif significant and high > 0:",
        ),
        Mistake(
            "verdict", "improved by the interval alone", "elif significant and low > 0:", "elif low > 0:"
        ),
        Mistake("verdict", "worse by the interval alone", "if significant and high < 0", "if high < 0"),
        Mistake(
            "verdict", "losses are read as gains", "(-result.high, -result.low)", "(result.low, result.high)"
        ),
        Mistake(
            "verdict",
            "the ends are not swapped for losses",
            "(-result.high, -result.low)",
            "(-result.low, -result.high)",
        ),
        Mistake(
            "verdict", "a margin that is reached", "low > -expected_margin and", "low >= -expected_margin and"
        ),
        Mistake(
            "verdict",
            "the margin has the wrong sign",
            "low > -expected_margin and",
            "low > expected_margin and",
        ),
        Mistake(
            "verdict",
            "identical changes prove that nothing got worse",
            " and (low < high or significant)",
            "",
        ),
        Mistake(
            "describe",
            "only rises count as changed",
            "(result.up + result.down) / result.n",
            "result.up / result.n",
        ),
        Mistake(
            "describe",
            "clusters count as independent prompts",
            "int(result.n / result.design_effect)",
            "result.n",
        ),
        Mistake(
            "paired_differences", "rounding is judged absolutely", "_ROUNDING * max(", "_ROUNDING * min(1.0, "
        ),
        Mistake(
            "paired_differences",
            "equal changes differ by rounding",
            "np.full_like(difference, difference[0]) if np.ptp(difference) <= scale else difference",
            "difference",
        ),
        Mistake(
            "paired_differences", "the difference has the wrong sign", "second - first\n", "first - second\n"
        ),
        Mistake(
            "_result",
            "the standard deviation is that of the population",
            "difference.std(ddof=1)",
            "difference.std()",
        ),
        Mistake("_result", "equal scores count as risen", "(difference > 0)", "(difference >= 0)"),
        Mistake(
            "paired_scores",
            "a missing score counts as 0",
            "math.nan if score is None",
            "0.0 if score is None",
        ),
        Mistake(
            "_exact_sign_flip_p",
            "one-sided",
            "np.abs(totals) >= abs(sums.sum())",
            "totals >= abs(sums.sum())",
        ),
        Mistake(
            "_exact_sign_flip_p",
            "equally far does not count",
            "np.abs(totals) >= abs",
            "np.abs(totals) > abs",
        ),
        Mistake(
            "paired_numeric",
            "as many resamples as usual",
            "resamples=resamples, clusters=clusters)",
            "clusters=clusters)",
        ),
        Mistake("sign_flip_p", "every call draws other flips", "        rng=0,\n", ""),
    ),
)

CLAIMS = Group(
    "posttrain_helpers.statistics.claims",
    ("tests/statistics/test_claims.py",),
    (
        Mistake("Claim._failures", "the least mean is forgotten", "if self.at_least is not None", "if False"),
        Mistake("Claim._failures", "reaching it is not enough", "self.after < ", "self.after <= "),
        Mistake(
            "Bound.held",
            "the upper limit is excluded",
            "self.value <= self.at_most",
            "self.value < self.at_most",
        ),
        Mistake(
            "holm",
            "the factors run the other way",
            "np.arange(len(values), 0, -1)",
            "np.arange(1, len(values) + 1)",
        ),
        Mistake(
            "holm",
            "Bonferroni",
            "values[order] * np.arange(len(values), 0, -1)",
            "values[order] * len(values)",
        ),
        Mistake(
            "holm",
            "a corrected p may fall below one before it",
            "np.maximum.accumulate(values",
            "np.array(values",
        ),
        Mistake(
            "adjusted_claims",
            "claims that expect no difference are corrected, too",
            '("improved", "worse")',
            '("improved", "worse", "non_inferior")',
        ),
        Mistake(
            "adjusted_claims",
            "the verdict follows the p of its own test",
            "if p < ALPHA",
            "if claim.p < ALPHA",
        ),
        Mistake(
            "Claim.from_result",
            "the margin is lost",
            "verdict(result, margin)",
            "verdict(result, None if margin is None else 0.02)",
        ),
        Mistake("adjusted_claims", "exactly 5 % is shown", "p < ALPHA", "p <= ALPHA"),
    ),
)

INTERVALS = Group(
    "posttrain_helpers.statistics.intervals",
    ("tests/statistics/test_intervals.py",),
    (
        Mistake("wilson_interval", "one-sided", "t.isf(TAIL, degrees)", "t.isf(1 - CONFIDENCE, degrees)"),
        Mistake("wilson_interval", "the clusters are lost", "design_effect * ", ""),
        Mistake("tango_interval", "one-sided", "t.isf(TAIL, degrees)", "t.isf(1 - CONFIDENCE, degrees)"),
        Mistake(
            "mean_interval",
            "Student's is one-sided",
            "confidence_interval(CONFIDENCE)",
            "confidence_interval(2 * CONFIDENCE - 1)",
        ),
        Mistake(
            "mean_interval",
            "the bootstrap is one-sided",
            "t.isf(TAIL, n - 1))",
            "t.isf(1 - CONFIDENCE, n - 1))",
        ),
        Mistake(
            "mean_interval",
            "the bootstrap is not expanded",
            "confidence_level=expanded",
            "confidence_level=CONFIDENCE",
        ),
        Mistake("mean_interval", "basic bootstrap", 'method="percentile"', 'method="basic"'),
        Mistake(
            "mean_interval", "the clusters have no effect", "math.sqrt(effect * values", "math.sqrt(values"
        ),
        Mistake(
            "mean_interval", "normal quantiles for few clusters", "t.isf(TAIL, degrees)", "norm.isf(TAIL)"
        ),
        Mistake(
            "mean_interval",
            "the interval of clusters is one-sided",
            "t.isf(TAIL, degrees)",
            "t.isf(1 - CONFIDENCE, degrees)",
        ),
        Mistake(
            "minimum_detectable_difference",
            "one-sided for rates",
            "binom.isf(TAIL,",
            "binom.isf(1 - CONFIDENCE,",
        ),
        Mistake(
            "minimum_detectable_difference",
            "one-sided for scores",
            "t.isf(TAIL, n - 1)",
            "t.isf(1 - CONFIDENCE, n - 1)",
        ),
        Mistake("minimum_detectable_difference", "the power is forgotten", " + t.ppf(POWER, n - 1)", ""),
        Mistake("FEWEST_PROMPTS", "five can be significant", "6", "5"),
        Mistake(
            "clusters_of",
            "prompts without a relation form one cluster",
            '("item", source, str(index))',
            '("item", source)',
        ),
        Mistake(
            "cluster_effect",
            "an effect below 1",
            "max(1.0, float(between / variance))",
            "float(between / variance)",
        ),
        Mistake(
            "cluster_effect", "without the correction for few clusters", "** 2 / kept).sum()", "** 2).sum()"
        ),
        Mistake(
            "cluster_codes", "a single cluster counts", "if 1 < len(numbers) < n", "if 1 <= len(numbers) < n"
        ),
        Mistake("tango_interval", "the degrees are ignored", "t.isf(TAIL, degrees)", "t.isf(TAIL, math.inf)"),
        Mistake(
            "tango_interval", "the design effect is ignored", "critical = design_effect * ", "critical = "
        ),
        Mistake(
            "minimum_detectable_difference",
            "the power is that of a normal distribution",
            "t.ppf(POWER, n - 1)",
            "t.ppf(POWER, math.inf)",
        ),
        Mistake(
            "mean_interval",
            "Student's t for eight values",
            "n < _FEWEST_FOR_BOOTSTRAP",
            "n <= _FEWEST_FOR_BOOTSTRAP",
        ),
    ),
)

RANKING = Group(
    "posttrain_helpers.statistics.ranking",
    ("tests/statistics/test_ranking.py",),
    (
        Mistake("score_interval", "rates have the interval of a mean", "if yes_no:", "if False:"),
        Mistake("score_interval", "the clusters are lost", ", clusters=clusters)", ")"),
        Mistake(
            "significant_ranks",
            "winner and loser are swapped",
            "loser, winner =",
            "winner, loser =",
        ),
        Mistake("numeric_p", "one-sided for equal changes", "2 * 0.5**independent", "0.5**independent"),
        Mistake("numeric_p", "one-sided", "2 * stdtr(", "stdtr("),
        Mistake("numeric_p", "as many degrees of freedom as items", "(1.0, n - 1)", "(1.0, n)"),
        Mistake(
            "numeric_p",
            "the t-test ignores the clusters",
            "(1.0, n - 1) if codes is None else cluster_effect(difference, codes)",
            "(1.0, n - 1)",
        ),
        Mistake(
            "numeric_p",
            "the sign flips ignore the clusters",
            "difference if codes is None else np.bincount(codes, difference)",
            "difference",
        ),
        Mistake(
            "significant_ranks",
            "raw p-values are significant",
            "holm(list(p_values.values()))",
            "p_values.values()",
        ),
        Mistake(
            "pair_p_values",
            "the sign flips do not grow with the pairs",
            "max(_SIGN_FLIPS, math.ceil(10 * len(pairs) / ALPHA))",
            "_SIGN_FLIPS",
        ),
    ),
)

BRADLEY_TERRY = Group(
    "posttrain_helpers.statistics.ratings",
    ("tests/statistics/test_ratings.py",),
    (
        Mistake("bradley_terry", "one-sided", "(TAIL, 1 - TAIL)", "(2 * TAIL, 1 - 2 * TAIL)"),
        Mistake(
            "bradley_terry", "a share of the wins is counted as ties", "wins + virtual / 2", "wins + virtual"
        ),
        Mistake(
            "_wins_by_prompt",
            "wins and losses are swapped",
            "[outcome, 1 - outcome]",
            "[1 - outcome, outcome]",
        ),
        Mistake(
            "bradley_terry",
            "later rows may name their prompt",
            "len(row) == len(rows[0]) in (3, 4)",
            "len(row) >= len(rows[0]) >= 3",
        ),
    ),
)

AGREEMENT = Group(
    "posttrain_helpers.statistics.agreement",
    ("tests/statistics/test_agreement.py",),
    (
        Mistake("cohen_kappa", "one-sided", "(TAIL, 1 - TAIL)", "(2 * TAIL, 1 - 2 * TAIL)"),
        Mistake(
            "_kappa", "chance by one rater alone", "shares.sum(-1) * shares.sum(-2)", "shares.sum(-1) ** 2"
        ),
    ),
)

BEST_OF_N = Group(
    "posttrain_helpers.statistics.selection",
    ("tests/statistics/test_selection.py",),
    (
        Mistake("best_of_n", "ties are not shared", "sum(tied) / len(tied)", "max(tied)"),
        Mistake(
            "best_of_n", "the worst is chosen", "in sorted(by_proxy):", "in sorted(by_proxy, reverse=True):"
        ),
        Mistake(
            "pass_at_k",
            "with replacement",
            "1.0 - math.comb(n - c, k) / math.comb(n, k)",
            "1.0 - (1 - c / n) ** k",
        ),
    ),
)

FORGETTING = Group(
    "posttrain_helpers.evaluation.board.forgetting",
    ("tests/evaluation/board/test_forgetting.py",),
    (
        Mistake(
            "Forgetting.verdict",
            "the p-value is not corrected",
            "replace(result, p=self.adjusted[label, column])",
            "result",
        ),
        Mistake("compare", "a loss counts as a gain", '"higher_is_better": higher_is_better, ', ""),
        Mistake("compare", "the clusters are lost", ', "clusters": clusters}', "}"),
        Mistake(
            "compare", "the t-test ignores the clusters", "cluster_codes(clusters, len(differences))", "None"
        ),
        Mistake("compare", "the p of the t-test is called a floor", ", p_at_floor=False)", ")"),
        Mistake("compare", "thirty items are too few", "< ENOUGH_FOR_T", "<= ENOUGH_FOR_T"),
    ),
)

WIN_RATE = Group(
    "posttrain_helpers.statistics.paired_tests",
    ("tests/statistics/test_wins.py",),
    (
        Mistake("win_rate", "a difference as large as a tie is none", "<= TIE", "< TIE"),
        Mistake("win_rate", "a tie is a loss", "TIE, 0.5,", "TIE, 0.0,"),
        Mistake("win_rate", "wins and losses are swapped", "second > first)", "second < first)"),
        Mistake("win_rate", "the clusters are lost", ", clusters=clusters)", ")"),
    ),
)

PREFERENCE_LOSSES = Group(
    "posttrain_helpers.losses.preference",
    ("tests/losses/test_preference.py",),
    (
        Mistake(
            "dpo_loss",
            "the reference is added",
            "policy_rejected - ref_rejected",
            "policy_rejected + ref_rejected",
        ),
        Mistake(
            "dpo_loss",
            "chosen and rejected are swapped",
            "chosen_reward - rejected_reward)",
            "rejected_reward - chosen_reward)",
        ),
        Mistake("dpo_loss", "beta for one side only", "beta * (policy_rejected", "(policy_rejected"),
    ),
)

POLICY_LOSSES = Group(
    "posttrain_helpers.losses.policy",
    ("tests/losses/test_policy.py",),
    (
        Mistake(
            "token_log_probs",
            "the temperature multiplies",
            "logits.float() / temperature",
            "logits.float() * temperature",
        ),
        Mistake("token_log_probs", "not in float32", "logits.float() /", "logits /"),
        Mistake(
            "token_entropy", "the temperature is forgotten", "logits.float() / temperature", "logits.float()"
        ),
        Mistake("token_entropy", "not in float32", "logits.float() /", "logits /"),
        Mistake("clipped_policy_loss", "the larger of the two", "-torch.minimum(", "-torch.maximum("),
        Mistake(
            "clipped_policy_loss",
            "the ratio is inverted",
            "(log_probs - old_log_probs).exp()",
            "(old_log_probs - log_probs).exp()",
        ),
        Mistake("clipped_policy_loss", "one bound for both sides", "1 + high)", "1 + epsilon)"),
        Mistake(
            "clipped_policy_loss",
            "the wrong tokens are called clipped",
            "clipped < unclipped",
            "clipped > unclipped",
        ),
        Mistake(
            "clipped_value_loss",
            "the smaller of the two",
            "torch.maximum(error, near_error)",
            "torch.minimum(error, near_error)",
        ),
        Mistake("clipped_value_loss", "without the half", "0.5 * torch.maximum", "torch.maximum"),
        Mistake(
            "clipped_value_loss",
            "clipped around the returns",
            "old_values - epsilon, old_values + epsilon",
            "returns - epsilon, returns + epsilon",
        ),
        Mistake("approximate_kl", "without the half", "0.5 * (log_probs", "(log_probs"),
    ),
)

ADVANTAGES = Group(
    "posttrain_helpers.losses.advantages",
    ("tests/losses/test_advantages.py",),
    (
        Mistake("masked_whiten", "the mean is lost", "whitened = whitened + mean", "whitened = whitened"),
        Mistake(
            "masked_whiten", "padding is whitened, too", "whitened.masked_fill(~mask.bool(), 0)", "whitened"
        ),
        Mistake("masked_whiten", "divided by the variance", ".rsqrt()", ".reciprocal()"),
        Mistake(
            "shaped_rewards",
            "the score comes one token too early",
            "(lengths - 1).unsqueeze(-1)",
            "(lengths - 2).clamp(min=0).unsqueeze(-1)",
        ),
        Mistake("shaped_rewards", "the divergence is rewarded", "(-kl_coef * kl)", "(kl_coef * kl)"),
        Mistake(
            "shaped_rewards",
            "policy and reference are swapped",
            "(log_probs, ref_log_probs).masked_fill",
            "(ref_log_probs, log_probs).masked_fill",
        ),
        Mistake(
            "shaped_rewards",
            "the score stands at the end of the padding",
            "lengths = mask.long().sum(-1)",
            "lengths = mask.long().sum(-1) * 0 + mask.shape[1]",
        ),
        Mistake(
            "generalized_advantages",
            "the present value is added",
            "next_value - values[:, t]",
            "next_value + values[:, t]",
        ),
        Mistake(
            "generalized_advantages", "gamma is forgotten in the error", "gamma * next_value", "next_value"
        ),
        Mistake(
            "generalized_advantages",
            "lambda is forgotten",
            "gamma * lam * next_advantage",
            "gamma * next_advantage",
        ),
        Mistake("generalized_advantages", "not turned around again", "backwards[::-1]", "backwards"),
        Mistake(
            "generalized_advantages",
            "returns without the values",
            "advantages, advantages + values",
            "advantages, advantages",
        ),
    ),
)

KL = Group(
    "posttrain_helpers.losses.kl",
    ("tests/generation/test_likelihood.py",),
    (
        Mistake(
            "token_kl",
            "policy and reference are swapped",
            "kl_div(reference, policy,",
            "kl_div(policy, reference,",
        ),
        Mistake(
            "_log_probs",
            "not in float32",
            "logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)",
            "logits.log_softmax(-1)",
        ),
        Mistake(
            "k1_estimate",
            "policy and reference are swapped",
            "log_probs - ref_log_probs",
            "ref_log_probs - log_probs",
        ),
        Mistake(
            "k3_estimate",
            "policy and reference are swapped",
            "ref_log_probs - log_probs",
            "log_probs - ref_log_probs",
        ),
        Mistake("k3_estimate", "the log ratio is added", "expm1() - log_ratio", "expm1() + log_ratio"),
        Mistake("k3_estimate", "rounded around 1", "log_ratio.expm1()", "(log_ratio.exp() - 1)"),
    ),
)

LIKELIHOOD = Group(
    "posttrain_helpers.generation.likelihood",
    ("tests/generation/test_likelihood.py",),
    (
        Mistake(
            "completion_log_probs",
            "not in float32",
            "logits[:, :-1].float().log_softmax",
            "logits[:, :-1].log_softmax",
        ),
        Mistake(
            "completion_log_probs",
            "the mask is not shifted",
            "completion_mask[:, 1:]",
            "completion_mask[:, :-1]",
        ),
        Mistake(
            "completion_log_probs",
            "prompts count",
            "(chosen * completion_mask[:, 1:])",
            "(chosen * attention_mask[:, 1:])",
        ),
        Mistake(
            "encode_completions",
            "special tokens twice",
            "tokenizer(text, add_special_tokens=False)",
            "tokenizer(text)",
        ),
        Mistake(
            "encode_completions",
            "the first token of the reply is no reply",
            "start = _common_length(prompt_ids, ids)",
            "start = _common_length(prompt_ids, ids) + 1",
        ),
        Mistake(
            "kl_to_reference",
            "the prompt counts",
            "slice(len(encoded[start + index]) - 1, len(row) - 1)",
            "slice(0, len(row) - 1)",
        ),
        Mistake(
            "kl_to_reference",
            "one token too late",
            "slice(len(encoded[start + index]) - 1, len(row) - 1)",
            "slice(len(encoded[start + index]), len(row))",
        ),
        Mistake("kl_to_reference", "the mean of the tokens", "steps.sum().item()", "steps.mean().item()"),
        Mistake(
            "kl_to_reference",
            "the reference without temperature",
            "reference_logits[index, predicts].float() / temperature",
            "reference_logits[index, predicts].float()",
        ),
        Mistake(
            "kl_to_reference",
            "dropout in the reference",
            "evaluation_mode(policy), evaluation_mode(reference), ",
            "evaluation_mode(policy), ",
        ),
        Mistake(
            "_sums_of_log_probs",
            "dropout stays on",
            "with evaluation_mode(model), torch.no_grad():",
            "with torch.no_grad():",
            ("tests/test_metrics.py",),
        ),
        Mistake(
            "text_losses",
            "padding counts",
            'encoded["completion_mask"] = encoded["attention_mask"]',
            'encoded["completion_mask"] = encoded["attention_mask"] * 0 + 1',
            ("tests/test_metrics.py",),
        ),
        Mistake(
            "text_losses",
            "the given token counts",
            "len(tokens) - 1)",
            "len(tokens))",
            ("tests/test_metrics.py",),
        ),
    ),
)

DECODING = Group(
    "posttrain_helpers.generation.decoding",
    ("tests/generation/test_decoding.py",),
    (
        Mistake(
            "evaluation_mode",
            "afterwards the model is in train mode",
            "module.training = mode",
            "module.training = True",
        ),
        Mistake("evaluation_mode", "dropout stays on", "    model.eval()\n", ""),
        Mistake("StreamedReply.put", "end tokens in the text", " if token not in self._stop_ids", ""),
        Mistake(
            "StreamedReply.__init__",
            "a streamed reply is always greedy",
            "max_new_tokens, float(temperature))",
            "max_new_tokens, 0.0)",
        ),
    ),
)

METRICS = Group(
    "posttrain_helpers.metrics",
    ("tests/test_metrics.py",),
    (
        Mistake("strict_match", "nothing accepted is wrong", "return None\n", "return False\n"),
        Mistake(
            "lenient_match", "the first number counts", "last_number(reply) == number", "str(number) in reply"
        ),
        Mistake(
            "repetition_rate",
            "the share of different ones",
            "1.0 - len(set(triples)) / len(triples)",
            "len(set(triples)) / len(triples)",
        ),
        Mistake("_ngrams", "the last one is lost", "len(words) - n + 1", "len(words) - n"),
        Mistake(
            "holds_words",
            "only the first place",
            "        found = pattern.search(text, found.start() + 1)\n",
            "        break\n",
        ),
        Mistake(
            "_ends_word",
            "accents end a word",
            "        return False\n    return _is_border(last",
            "        pass\n    return _is_border(last",
        ),
    ),
)

VERIFIERS = Group(
    "posttrain_helpers.rewards.verifiers",
    ("tests/rewards/test_verifiers.py",),
    (
        Mistake(
            "reply_texts",
            "the first message instead of the last",
            'completion[-1].get("content")',
            'completion[0].get("content")',
        ),
        Mistake(
            "equations_right",
            "any true equation is enough",
            "sum(truths) / len(truths)",
            "float(any(truths))",
        ),
        Mistake("boxed_format", "several boxes pass", "reply.count(_BOX) == 1", "reply.count(_BOX) >= 1"),
        Mistake("last_boxed", "the first box", "text.rfind(_BOX)\n", "text.find(_BOX)\n"),
        Mistake(
            "_value_of",
            "sums before products",
            'total, product = total + product, number if operator == "+" else -number',
            'product = product + (number if operator == "+" else -number)',
        ),
        Mistake("_value_of", "differences are sums", 'number if operator == "+" else -number', "number"),
        Mistake("_is_right", "no answer is a wrong one", "return None", "return 0.0"),
    ),
)

GOLD = Group(
    "posttrain_helpers.tinyworld.gold",
    ("tests/tinyworld/test_gold.py",),
    (
        Mistake(
            "gold_score", "length costs nothing", "SURPLUS_PER_WORD * max(0, len(words) - allowed)", "0.0"
        ),
        Mistake(
            "gold_score",
            "polite words excuse rude ones",
            "(RUDE if is_rude(text) else 0.0)",
            "(RUDE if is_rude(text) and not is_polite(text) else 0.0)",
        ),
        Mistake(
            "gold_score",
            "room for the shortest reply",
            "max(len(accepted.split())",
            "min(len(accepted.split())",
        ),
        Mistake("gold_score", "stories of any length", "allowed = 70", "allowed = 10**6"),
        Mistake(
            "gold_score",
            "things named by a part of a word",
            'bool(re.search(rf"\\b{re.escape(word)}\\b", text))',
            "word in text",
        ),
        Mistake(
            "gold_score",
            "bad endings outside stories",
            "    ending = found = 0.0\n",
            "    found, ending = 0.0, BAD_ENDING if has_bad_ending(text) else 0.0\n",
        ),
        Mistake(
            "gold_score", "stopping costs", "0.0 if stopped else UNFINISHED", "UNFINISHED if stopped else 0.0"
        ),
        Mistake(
            "gold_score",
            "repetition is rewarded",
            "REPETITION * repetition_rate(text)",
            "-REPETITION * repetition_rate(text)",
        ),
        Mistake("gold_score", "two words are a sentence", "len(core.split()) >= 3", "len(core.split()) >= 2"),
        Mistake("gold_score", "the end of the whole text", 'core.endswith(".")', 'text.endswith(".")'),
    ),
)

ANNOTATORS = Group(
    "posttrain_helpers.tinyworld.training_data.annotators",
    ("tests/tinyworld/training_data/test_annotators.py",),
    (
        Mistake("TIE", "no tie is dropped", "0.25", "0.0"),
        Mistake(
            "annotated_pairs",
            "blanks make a difference",
            "if worse.strip() == better.strip() or",
            "if worse == better or",
        ),
        Mistake("preference_probability", "twice as sure", "/ temperature / 2)", "/ temperature)"),
        Mistake(
            "annotated_pairs",
            "the annotator is always wrong",
            "(preferred, other) if right else",
            "(other, preferred) if right else",
        ),
        Mistake(
            "annotated_pairs",
            "gold scores of the wrong side",
            "(high, better), (low, worse)",
            "(low, better), (high, worse)",
        ),
        Mistake("annotated_pairs", "ends are not looked at", "stopped=r.stopped", "stopped=True"),
        Mistake("annotated_pairs", "a difference of exactly a tie", "high - low < TIE", "high - low <= TIE"),
    ),
)

REWARDS = Group(
    "posttrain_helpers.rewards.reward_model",
    ("tests/rewards/test_reward_model.py",),
    (
        Mistake(
            "score_replies",
            "dropout stays on",
            "with evaluation_mode(model), torch.no_grad():",
            "with torch.no_grad():",
        ),
        Mistake(
            "score_replies",
            "scores in the order of length",
            "scores[batch] = ",
            "scores[start : start + batch_size] = ",
        ),
        Mistake("as_reward_function", "nothing is checked", "    check_scored_token(model, tokenizer)\n", ""),
        Mistake("_check_encoded", "the first padding ends the text", "ids[-1] == pad", "pad in ids"),
        Mistake(
            "_check_encoded",
            "only the first text is checked",
            "in enumerate(encoded):",
            "in enumerate(encoded[:1]):",
        ),
        Mistake(
            "_check_encoded",
            "only the first length is checked",
            "max(range(len(encoded)), key=lambda index: len(encoded[index]))",
            "0",
        ),
        Mistake("_check_encoded", "one token too many", "> limit:", "> limit + 1:"),
        Mistake(
            "check_scored_token", "padding on the left passes", 'tokenizer.padding_side != "right"', "False"
        ),
    ),
)

REWARD_FUNCTIONS = Group(
    "posttrain_helpers.rewards.functions",
    ("tests/rewards/test_functions.py",),
    (
        Mistake(
            "_load",
            "the profile is not passed on",
            ".device, profile=profile)",
            ".device)",
        ),
        Mistake("_load", "loading moves the random state", "with preserved_random_state():", "if True:"),
        Mistake("reward_model_function", "loaded at every call", "    @cache\n", ""),
    ),
)

RECIPE_CHECKS = Group(
    "posttrain_helpers.recipes.checks",
    ("tests/rewards/test_functions.py",),
    (Mistake("check_rewards", "one reward twice", "len(set(names)) < len(names)", "False"),),
)

SCORING = Group(
    "posttrain_helpers.rewards.scoring",
    ("tests/rewards/test_scoring.py",),
    (
        Mistake(
            "score_completions", "no opinion is a good one", "0.0 if reward is None", "1.0 if reward is None"
        ),
        Mistake(
            "score_completions",
            "special tokens are read",
            "skip_special_tokens=True",
            "skip_special_tokens=False",
        ),
        Mistake(
            "reward_columns", "the columns of the first row", "[row[name] for row in rows]", "[rows[0][name]]"
        ),
        Mistake("checked_rewards", "infinite scores pass", "math.isfinite(reward)", "not math.isnan(reward)"),
    ),
)

UPDATE = ("tests/training/ppo/test_trainer.py::test_the_update_equals_a_slow_one_without_padding",)
ACTOR_CRITIC = Group(
    "posttrain_helpers.training.ppo.actor_critic",
    ("tests/training/ppo/test_actor_critic.py",),
    (
        Mistake(
            "_head_values",
            "values of the state after the token",
            "hidden[:, -length - 1 : -1]",
            "hidden[:, -length:]",
        ),
        Mistake("completion_logits", "logits one token too late", ".logits[:, :-1]", ".logits[:, 1:]"),
        Mistake(
            "model_inputs",
            "positions count the padding",
            "mask.cumsum(1).sub(1).clamp(min=0)",
            "torch.ones_like(mask).cumsum(1).sub(1)",
        ),
        Mistake(
            "ActorCritic.forward",
            "logits one token too late",
            "outputs.logits[:, :-1], values",
            "outputs.logits[:, 1:], values",
        ),
        Mistake("_head_values", "values in half precision", ".squeeze(-1).float()", ".squeeze(-1)"),
    ),
)

PPO = Group(
    "posttrain_helpers.training.ppo.trainer",
    UPDATE,
    (
        Mistake(
            "PPOTrainer.compute_loss",
            "the range of the values for the policy",
            'inputs["advantages"], args.cliprange\n',
            'inputs["advantages"], args.cliprange_value\n',
        ),
        Mistake(
            "PPOTrainer.compute_loss",
            "the range of the policy for the values",
            'inputs["returns"], args.cliprange_value\n',
            'inputs["returns"], args.cliprange\n',
        ),
        Mistake(
            "PPOTrainer.compute_loss",
            "the logged ratio is inverted",
            '(log_probs - inputs["old_log_probs"]).exp()',
            '(inputs["old_log_probs"] - log_probs).exp()',
        ),
        Mistake(
            "PPOTrainer.compute_loss",
            "the logged entropy without temperature",
            "token_entropy(logits, args.temperature)",
            "token_entropy(logits)",
        ),
        Mistake(
            "PPOTrainer.compute_loss",
            "the policy without temperature",
            "tokens.completions, args.temperature)",
            "tokens.completions)",
        ),
        Mistake("PPOTrainer.compute_loss", "padding counts", "[mask].sum() * share", ".sum() * share"),
        Mistake(
            "PPOTrainer.compute_loss",
            "the value loss has the weight 1",
            "args.vf_coef * value_loss",
            "value_loss",
        ),
        Mistake(
            "PPOTrainer.compute_loss",
            "the mean of the micro-batch",
            "share = self.args.world_size / self._tokens",
            "share = self.args.world_size / mask.sum().item()",
        ),
        Mistake("PPOTrainer._deal", "every epoch in one order", "order(update, epoch)", "order(update, 0)"),
        Mistake(
            "PPOTrainer._deal", "the same mini-batch in every step", "step % args.num_mini_batches]", "0]"
        ),
        Mistake(
            "PPOTrainer._prepare_inputs",
            "returns and advantages are swapped",
            "data.advantages, data.returns)",
            "data.returns, data.advantages)",
        ),
        Mistake(
            "PPOTrainer.log",
            "eps counts episodes from before resuming",
            "episode - self._first_update * self.args.rollout_rows * self.args.world_size",
            "episode",
            ("tests/training/ppo/test_trainer.py::test_a_checkpoint_by_its_name",),
        ),
        Mistake(
            "PPOTrainer._reference",
            "the reference is the policy",
            "copy.deepcopy(self.policy) if ref_model is None",
            "self.policy if ref_model is None",
            ("tests/training/ppo/test_trainer.py::test_the_reference_is_a_model_of_its_own",),
        ),
        Mistake(
            "PPOTrainer.__init__",
            "dropout stays on",
            "        disable_dropout_in_model(self.actor_critic)\n",
            "",
            ("tests/training/ppo/test_trainer.py::test_dropout_is_off",),
        ),
        Mistake(
            "PPOTrainer._prepare_inputs",
            "sampled in another precision",
            "with self.accelerator.autocast():  # as in the update, or the first ratio is not 1",
            "if True:",
            ("tests/training/ppo/test_trainer.py::test_sampling_has_the_precision_of_the_update",),
        ),
        Mistake(
            "PPOTrainer._load_from_checkpoint",
            "half a critic passes",
            "if unexpected or any(not _is_policy(name) for name in missing):",
            "if unexpected:",
            ("tests/training/ppo/test_trainer.py::test_a_checkpoint_with_a_critic_of_another_size",),
        ),
        Mistake(
            "PPOTrainer._load_from_checkpoint",
            "a larger critic passes",
            "if unexpected or any(not _is_policy(name) for name in missing):",
            "if any(not _is_policy(name) for name in missing):",
            ("tests/training/ppo/test_trainer.py::test_a_checkpoint_with_a_critic_of_another_size",),
        ),
        Mistake(
            "PPOTrainer._reference",
            "the reference stays in train mode",
            ".requires_grad_(False).eval()",
            ".requires_grad_(False)",
            (
                "tests/training/ppo/test_trainer.py::test_the_reference_is_without_dropout_whatever_the_policy_is",
            ),
        ),
        Mistake(
            "PPOTrainer.__init__",
            "the critic of the arguments wins",
            "if value_model is None and args.value_model is not None:",
            "if args.value_model is not None:",
            (
                "tests/training/ppo/test_trainer.py::test_a_critic_that_is_given_wins_over_the_one_that_is_named",
            ),
        ),
        Mistake(
            "PPOTrainer.compute_loss",
            "an infinite loss passes",
            "if not torch.isfinite(loss):",
            "if torch.isnan(loss):",
            ("tests/training/ppo/test_trainer.py::test_a_loss_without_end_is_refused",),
        ),
    ),
)

PPO_ROLLOUTS = Group(
    "posttrain_helpers.training.ppo.rollouts",
    ("tests/training/ppo/test_rollouts.py",),
    (
        Mistake(
            "RolloutSampler.sample", "the estimator is ignored", "kl_coef, args.kl_estimator)", "kl_coef)"
        ),
        Mistake(
            "RolloutSampler.sample",
            "the penalty is paid by those that end",
            "args.missing_eos_penalty * ~ended",
            "args.missing_eos_penalty * ended",
        ),
        Mistake("RolloutSampler.sample", "rewards are shifted", "mask, shift_mean=False)", "mask)"),
        Mistake(
            "RolloutSampler.sample",
            "advantages are never whitened",
            "if args.whiten_advantages and several:",
            "if False:",
        ),
        Mistake(
            "RolloutSampler.sample",
            "gamma and lambda are swapped",
            "args.gamma, args.lam)",
            "args.lam, args.gamma)",
        ),
        Mistake(
            "RolloutSampler.sample",
            "the logged penalty has the wrong sign",
            "penalty = -kl_coef * kl.sum(1)",
            "penalty = kl_coef * kl.sum(1)",
        ),
        Mistake(
            "RolloutSampler._evaluate",
            "the reference without temperature",
            "part.completions, self.args.temperature\n",
            "part.completions\n",
        ),
        Mistake(
            "RolloutSampler._reference_logits",
            "the adapter stays on",
            "with self.policy.disable_adapter():",
            "if True:",
            (
                "tests/training/ppo/test_rollouts.py",
                "tests/training/ppo/test_trainer.py::test_an_adapter_learns_and_the_rest_stays",
            ),
        ),
        Mistake(
            "RolloutSampler._scores",
            "the weights are forgotten",
            "(scores * self.weights[:, None]).sum(0)",
            "scores.sum(0)",
        ),
        Mistake(
            "RolloutSampler.prompt_indices",
            "the same order in every pass",
            '"prompts", number)',
            '"prompts", 0)',
        ),
        Mistake(
            "RolloutSampler.prompt_indices",
            "every process takes the same prompts",
            "update * self.args.world_size + self.args.process_index",
            "update * self.args.world_size",
        ),
        Mistake(
            "RolloutSampler.generator",
            "every process draws the same",
            "self.args.process_index, *purpose",
            "*purpose",
        ),
        Mistake(
            "RolloutSampler.sample",
            "values and returns are swapped",
            "explained_variance(values, returns, mask)",
            "explained_variance(returns, values, mask)",
        ),
        Mistake(
            "RolloutSampler.sample",
            "as many rows at a time as there are",
            "            batch_size=args.rollout_batch_size,\n",
            "",
            ("tests/training/ppo/test_rollouts.py::test_no_pass_has_more_rows_than_the_arguments_say",),
        ),
        Mistake(
            "RolloutSampler._evaluate",
            "all rows at once",
            ".split(self.args.per_device_train_batch_size)",
            ".split(len(tokens.lengths))",
            ("tests/training/ppo/test_rollouts.py::test_no_pass_has_more_rows_than_the_arguments_say",),
        ),
        Mistake(
            "RolloutSampler.sample",
            "every rollout draws the same numbers",
            'self.generator(args.device, update, "sampling")',
            'self.generator(args.device, "sampling")',
            ("tests/training/ppo/test_rollouts.py::test_the_seed_and_the_number_decide_what_is_drawn",),
        ),
        Mistake(
            "RolloutSampler.generator",
            "no seed in the sampling",
            "(self.args.seed, self.args.process_index",
            "(self.args.process_index",
            ("tests/training/ppo/test_rollouts.py::test_the_seed_and_the_number_decide_what_is_drawn",),
        ),
    ),
)

ROLLOUTS = Group(
    "posttrain_helpers.generation.rollouts",
    ("tests/generation/test_rollouts.py",),
    (
        Mistake(
            "sample_completions",
            "replies in the order of length",
            "completions[index] = completion",
            "completions[order.index(index)] = completion",
        ),
        Mistake(
            "_sample_batch",
            "log-probabilities without temperature",
            "(logits.float() / temperature).log_softmax(-1)",
            "logits.float().log_softmax(-1)",
        ),
        Mistake(
            "_sample_batch",
            "the end token is cut off",
            "lengths[running[ended]] = step + 1",
            "lengths[running[ended]] = step",
        ),
        Mistake("_sample_batch", "the cache keeps ended rows", "cache.batch_select_indices(going)", "pass"),
        Mistake(
            "TokenBatch.rows",
            "a column too few",
            "last = int(completion_mask.sum(1).max())",
            "last = int(completion_mask.sum(1).max()) - 1",
        ),
        Mistake(
            "token_batch",
            "prompts are padded on the right",
            "left_padded(prompts, pad)",
            "right_padded(prompts, pad)",
        ),
        Mistake(
            "sample_groups",
            "the rows at a time are not passed on",
            "            batch_size=batch_size,\n",
            "",
            ("tests/generation/test_rollouts.py::test_a_reply_has_ended_if_its_last_token_says_so",),
        ),
        Mistake(
            "grpo_rollouts",
            "sampled at temperature 1",
            "temperature=args.temperature",
            "temperature=1.0",
            (
                "tests/generation/test_rollouts.py::test_grpo_gets_completions_of_its_own_temperature_and_length",
            ),
        ),
        Mistake(
            "_sample_batch",
            "log-probabilities in half precision",
            "(logits.float() / temperature)",
            "(logits / temperature)",
            (
                "tests/generation/test_rollouts.py::test_log_probs_of_a_policy_in_half_precision_are_single_precision",
            ),
        ),
    ),
)

PPO_METRICS = Group(
    "posttrain_helpers.training.ppo.metrics",
    ("tests/training/ppo/test_metrics.py",),
    (
        Mistake(
            "PPOMetrics.add_micro_batch",
            "padding counts",
            "values.float()[mask].sum()",
            "values.float().sum()",
        ),
        Mistake("PPOMetrics.collect", "the unbiased variance", "ratios.var(correction=0)", "ratios.var()"),
        Mistake("PPOMetrics.collect", "nothing is forgotten", "        self.clear()\n", ""),
        Mistake("PPOMetrics.clear", "rollouts stay", "self._rollouts.clear()", "pass"),
    ),
)

COMPARISON = Group(
    "posttrain_helpers.comparison.compare",
    ("tests/comparison/test_compare.py",),
    (
        Mistake(
            "Comparison.claim", "the measure is ignored", "self.result(label, measure)", "self.result(label)"
        ),
        Mistake(
            "Comparison.claim",
            "the margin is lost",
            "expected, margin, at_least)",
            "expected, None, at_least)",
        ),
        Mistake(
            "Comparison.claim", "the least mean is lost", "expected, margin, at_least)", "expected, margin)"
        ),
        Mistake(
            "Comparison.claim",
            "equal weights may improve",
            '"no_difference_shown") if self.same_weights(label) else claim',
            '"no_difference_shown") if False else claim',
        ),
        Mistake(
            "Comparison.result",
            "before and after are swapped",
            "for name in (self.labels[0], label)",
            "for name in (label, self.labels[0])",
        ),
        Mistake("Comparison.result", "relations are no clusters", ", clusters=clusters)", ")"),
        Mistake(
            "Comparison.result",
            "the last but one model",
            "paired_tests.paired(before, after",
            "paired_tests.paired(before, before",
        ),
        Mistake("Comparison.where", "the scores of all items stay", "[values[i] for i in kept]", "values"),
        Mistake(
            "_as_item",
            "own ids are overwritten",
            '{"id": str(index), **prompt}',
            '{**prompt, "id": str(index)}',
        ),
        Mistake(
            "Comparison._verdict", "equal weights may improve", "if self.same_weights(label):", "if False:"
        ),
        Mistake(
            "weights_fingerprint",
            "the names do not count",
            'f"{name} {parameter.dtype}',
            'f"{parameter.dtype}',
        ),
        Mistake("_run", "an adapter is not merged", ", merge=True, verbose=False", ", verbose=False"),
    ),
)

COMPARISON_SCORES = Group(
    "posttrain_helpers.comparison.scores",
    ("tests/comparison/test_compare.py",),
    (
        Mistake(
            "rate",
            "what was not scored counts as wrong",
            "float(values[index]) for index in kept",
            "float(value or 0) for value in values",
        ),
        Mistake(
            "apply_measures",
            "a length limit is a stop",
            'reply.stop_reason == "stop"',
            'reply.stop_reason != ""',
        ),
        Mistake(
            "_value",
            "infinite scores pass",
            "isinstance(value, Real) and math.isfinite(value)",
            "isinstance(value, Real)",
        ),
        Mistake(
            "measures_of",
            "an own stop poses as the built-in one",
            "(*MATCHES, *_COLUMNS)",
            "MATCHES",
            ("tests/comparison/test_compare.py",),
        ),
    ),
)

PREFERENCES = Group(
    "posttrain_helpers.data.preferences",
    ("tests/data/test_preferences.py",),
    (
        Mistake(
            "for_method",
            "the control learns from the rejected reply",
            '"completion": row["chosen"]',
            '"completion": row["rejected"]',
        ),
        Mistake("for_method", "labels in TRL's order", ".shuffle(seed=seed)", ""),
        Mistake("_explicit", "equal ratings pass", 'return "tie"', "pass"),
        Mistake(
            "_explicit",
            "blanks make a difference",
            '["content"].strip() for side in SIDES',
            '["content"] for side in SIDES',
        ),
        Mistake(
            "in_length_groups",
            "sorted over all rows",
            "sorted(range(start, min(start + size, len(lengths)))",
            "sorted(range(start, min(start + size + 1, len(lengths)))",
        ),
    ),
)

CONVERSATIONS = Group(
    "posttrain_helpers.data.conversations",
    ("tests/data/test_conversations.py",),
    (
        Mistake("sift", "duplicates are not counted", 'dropped["duplicate"] += 1', "pass"),
        Mistake("sift", "duplicates stay", "            seen.add(key)\n", ""),
        Mistake("_usable", "an empty reply passes", 'return "empty reply"', "pass"),
    ),
)

MESSAGES = Group(
    "posttrain_helpers.messages",
    ("tests/data/test_conversations.py",),
    (
        Mistake(
            "text_key",
            "who says it does not matter",
            '[message["role"], message["content"].strip()]',
            'message["content"].strip()',
        ),
    ),
)

TRAINING_CHECKS = Group(
    "posttrain_helpers.training.checks",
    ("tests/training/test_checks.py",),
    (
        Mistake(
            "lost_in_tokenization",
            "rows left out are not counted",
            '(rows_given - len(dataset), "were left out")',
            '(0, "were left out")',
        ),
        Mistake("_full_rows", "rows of just that length are whole", "greater_equal(", "greater("),
        Mistake("_stops_before", "a reply that ends is cut", "end not in last_reply", "end in last_reply"),
        Mistake("_stops_before", "an end anywhere is enough", "end not in last_reply", "end not in labels"),
        Mistake(
            "check_supervision",
            "a single empty row passes",
            "(empty and not args.packing)",
            "(len(empty) > 1 and not args.packing)",
            ("tests/training/test_trainer.py",),
        ),
        Mistake(
            "check_supervision",
            "the end token is not looked for",
            "if not any(tokenizer.eos_token_id in row for row in labels)",
            "if False",
            ("tests/training/test_trainer.py",),
        ),
        Mistake("leave_out_useless_rows", "equal replies stay", " and chosen != rejected]", "]"),
        Mistake(
            "leave_out_useless_rows",
            "empty replies stay",
            "if chosen and rejected and chosen",
            "if chosen",
        ),
        Mistake(
            "leave_out_useless_rows",
            "cut rows are not counted",
            "if cut := sum(_is_cut(trainer)):",
            "if cut := 0:",
        ),
        Mistake(
            "_compared",
            "the prompt takes no room",
            "args.max_length - len(row[2]) if cuts",
            "args.max_length if cuts",
        ),
        Mistake(
            "_is_cut",
            "a reply that just fits is cut",
            "len(prompt) + len(reply) > args.max_length",
            "len(prompt) + len(reply) >= args.max_length",
        ),
        Mistake(
            "check_reference",
            "the weights are not compared",
            "or not torch.equal(_whole(weights), _whole(reference[name]).to(weights.device, weights.dtype))",
            "",
        ),
        Mistake(
            "check_reference",
            "a trainer may leave the given reference out",
            "used is None or trainer.accelerator.unwrap_model(used) is not given",
            "used is not None and trainer.accelerator.unwrap_model(used) is not given",
            ("tests/training/test_frozen.py",),
        ),
        Mistake(
            "check_labels",
            "one label is enough",
            "if desirable in (0, len(labels)):",
            "if desirable in (0,):",
        ),
        Mistake("_log_chance_of_run", "one place only", " + math.log(total - length + 1)", ""),
        Mistake("_reads_reference", "a beta of 0 has a reference", "and config.beta != 0", ""),
    ),
)

TRAINING_STATE = Group(
    "posttrain_helpers.training.state",
    ("tests/training/test_state.py",),
    (
        Mistake(
            "check_trained",
            "an interrupted training passes",
            "if state.global_step < state.max_steps and",
            "if False and",
        ),
        Mistake(
            "check_trained",
            "a callback may not end a training",
            " and not trainer.control.should_training_stop",
            "",
        ),
        Mistake(
            "check_trained",
            "a model may be trained twice",
            "if steps != state.global_step:",
            "if steps < state.global_step:",
        ),
    ),
)

TRAINING_WATCH = Group(
    "posttrain_helpers.environment.training_watch",
    ("tests/training/test_state.py",),
    (
        Mistake("check_losses", "infinity passes", "not math.isfinite(loss)", "math.isnan(loss)"),
        Mistake("_LOSSES", "only the loss of a step", '("loss", "train_loss")', '("loss",)'),
    ),
)

STAGES = Group(
    "posttrain_helpers.stages.build",
    ("tests/stages/test_build.py",),
    (
        Mistake(
            "_out_of_date",
            "a changed recipe is not noticed",
            'manifest["recipe_hash"] != recipe.hash',
            "False",
        ),
        Mistake(
            "_out_of_date",
            "a changed parent is not noticed",
            'manifest["parent_identity"] != model_identity(parent)',
            "False",
        ),
        Mistake("_out_of_date", "a changed reward model is not noticed", "in others.items():", "in ():"),
        Mistake("build_stage", "the random state moves", ", preserved_random_state():", ":"),
        Mistake(
            "build_stage",
            "the seed of the recipe is not set",
            "        set_seed(recipe.seed)",
            "        pass",
        ),
        Mistake("build_stage", "leftovers stay", "        _remove_leftovers(target)\n", ""),
    ),
)

MANIFEST = Group(
    "posttrain_helpers.models.manifest",
    ("tests/stages/test_build.py",),
    (
        Mistake(
            "verify",
            "another content of the same size passes",
            'if sha256(path) != entry["sha256"]:',
            "if False:",
        ),
        Mistake("verify", "a lost file passes", "if not path.is_file():", "if False:"),
        Mistake(
            "is_complete",
            "half a file is complete",
            '_has_size(Path(path) / name, entry["bytes"])',
            "(Path(path) / name).is_file()",
        ),
        Mistake("saved_stages", "incomplete stages are listed", " and is_complete(path)", ""),
        Mistake(
            "is_complete",
            "one shard is enough",
            "return all(_has_size",
            "return any(_has_size",
            ("tests/models/test_manifest.py",),
        ),
        Mistake(
            "read_manifest",
            "the parent's identity may lack",
            '"recipe_hash", "parent_identity", "identity", "model"',
            '"recipe_hash", "identity", "model"',
            ("tests/models/test_manifest.py",),
        ),
        Mistake(
            "read_manifest",
            "damaged identities of data pass",
            '("reward_identities", "data_identities")',
            '("reward_identities",)',
            ("tests/models/test_manifest.py",),
        ),
        Mistake(
            "read_manifest",
            "damaged identities of models pass",
            '("reward_identities", "data_identities")',
            '("data_identities",)',
            ("tests/models/test_manifest.py",),
        ),
    ),
)

STAGE_SAVING = Group(
    "posttrain_helpers.stages.save",
    ("tests/stages/test_build.py",),
    (
        Mistake(
            "save_stage",
            "the weights are not looked at",
            "    check_weights_are_sound(model)\n",
            "",
            ("tests/training/test_state.py::test_weights_that_are_no_usual_numbers_are_not_saved",),
        ),
        Mistake(
            "save_stage",
            "an untrained model passes",
            "        check_trained(trainer, as_it_is)\n",
            "        pass\n",
            ("tests/training/test_state.py",),
        ),
        Mistake(
            "save_stage",
            "the reader's stage is overwritten",
            'kept = _keep_aside(target, manifest["identity"])',
            "kept = None",
        ),
        Mistake(
            "save_stage",
            "a pickle stays",
            '(directory / "training_args.bin").unlink(missing_ok=True)',
            "pass",
        ),
        Mistake("_plain_numbers", "infinite numbers pass", " and math.isfinite(value)", ""),
        Mistake(
            "_follows",
            "half a training is the recipe's",
            " and trainer.state.global_step == trainer.state.max_steps",
            "",
        ),
        Mistake(
            "data_identities",
            "the dev rows are forgotten",
            '("source", "dev")',
            '("source",)',
            ("tests/stages/test_unfinished.py::test_a_stage_knows_what_its_rows_and_its_dev_rows_were",),
        ),
        Mistake(
            "save_stage",
            "saved in train mode",
            "    model.eval()\n",
            "",
            ("tests/stages/test_build.py::test_a_model_can_be_saved_under_a_name_of_its_own",),
        ),
        Mistake(
            "save_stage",
            "a missing reference passes",
            'if recipe.reference and getattr(trainer, "given_reference", None) is None:',
            "if False:",
            ("tests/stages/test_build.py::test_a_stage_without_its_reference_model_is_not_saved",),
        ),
        Mistake(
            "other_models",
            "the model that chooses the rows is forgotten",
            "[*recipe.rewards, *chooser]",
            "recipe.rewards",
            (
                "tests/stages/test_build.py::test_a_model_that_chooses_the_rows_is_one_that_the_recipe_learns_from",
            ),
        ),
        Mistake(
            "is_readers",
            "an empty directory is the reader's",
            "directory.is_dir() and any(directory.iterdir())",
            "directory.is_dir()",
            ("tests/stages/test_build.py::test_an_empty_directory_is_not_kept",),
        ),
        Mistake(
            "_follows",
            "other arguments of the recipe do not count",
            '{*recipe.own_args, "learning_rate", "num_train_epochs", "max_steps"}',
            '{"learning_rate", "num_train_epochs", "max_steps"}',
            (
                "tests/stages/test_build.py::test_any_argument_that_was_changed_by_hand_makes_a_stage_the_readers",
            ),
        ),
        Mistake(
            "_follows",
            "the number of epochs does not count",
            '"learning_rate", "num_train_epochs", "max_steps"}',
            '"learning_rate", "max_steps"}',
            (
                "tests/stages/test_build.py::test_any_argument_that_was_changed_by_hand_makes_a_stage_the_readers",
            ),
        ),
        Mistake(
            "_follows",
            "PPO is never the recipe's",
            'keys -= {"max_steps"} - set(recipe.own_args)',
            "pass",
            ("tests/training/ppo/test_trainer.py::test_the_recipe_trains_and_the_stage_generates_the_same",),
        ),
        Mistake(
            "_keep_aside",
            "half a copy is enough",
            "is_complete(former) and read_manifest(former)",
            "read_manifest(former)",
            ("tests/stages/test_build.py::test_half_a_copy_is_no_reason_to_throw_the_stage_away",),
        ),
    ),
)

STORAGE = Group(
    "posttrain_helpers.environment.paths",
    ("tests/environment/test_paths.py",),
    (
        Mistake(
            "atomic_directory", "what was begun stays", "shutil.rmtree(temporary, ignore_errors=True)", "pass"
        ),
        Mistake(
            "atomic_directory",
            "the former one stays beside it",
            "shutil.rmtree(retired, ignore_errors=True)",
            "pass",
        ),
        Mistake("write_text_atomic", "half a file stays", "temporary.unlink(missing_ok=True)", "pass"),
        Mistake("write_json_atomic", "NaN passes", "allow_nan=False", "allow_nan=True"),
    ),
)

WEIGHTS = Group(
    "posttrain_helpers.models.weights",
    ("tests/models/test_weights.py",),
    (
        Mistake(
            "unsound_weight",
            "large negative numbers pass",
            "max(low, high, key=abs)",
            "max(low, high)",
            ("tests/training/test_state.py::test_weights_that_are_no_usual_numbers_are_not_saved",),
        ),
        Mistake(
            "unsound_weight",
            "NaN passes",
            "not abs(extreme) <= largest",
            "abs(extreme) > largest",
            ("tests/training/test_state.py::test_weights_that_are_no_usual_numbers_are_not_saved",),
        ),
        Mistake(
            "weight_files",
            "a lost shard is not noticed",
            "if all(path.is_file() for path in paths)",
            "if any(path.is_file() for path in paths)",
        ),
        Mistake("weights_identity", "the order of the files counts", ", sort_keys=True", ""),
        Mistake(
            "unsound_weight", "the largest is refused", "abs(extreme) <= largest", "abs(extreme) < largest"
        ),
    ),
)

PROCESSES = Group(
    "posttrain_helpers.environment.processes",
    ("tests/environment/test_processes.py",),
    (
        Mistake("shared_batch", "twice the batch", "accumulated // shared", "accumulated"),
        Mistake("shared_batch", "more replies sampled at once", "sampled // shared", "sampled"),
        Mistake("check_launcher", "half a group is enough", "here > count", "here < count"),
        Mistake("is_main_process", "every process writes", "process_index() == 0", "process_index() >= 0"),
    ),
)

IMPORTS = Group(
    "posttrain_helpers.environment.imports",
    ("tests/environment/test_imports.py",),
    (
        Mistake("importing_libraries", "models are left out too", "if first and", "if"),
        Mistake("importing_libraries", "it never collects again", "if collecting:", "if not collecting:"),
        Mistake("importing_libraries", "it collects meanwhile", "gc.disable()", "gc.enable()"),
    ),
)

CHECKPOINTS = Group(
    "posttrain_helpers.training.checkpoints",
    ("tests/training/test_checkpoints.py",),
    (
        Mistake("checkpoints", "the newest by its name", "int(found[path][1])", "path.name"),
        Mistake("newest_checkpoint", "half a checkpoint counts", " if _state(path)", ""),
        Mistake(
            "checkpoint_callback",
            "in the middle of an update",
            "_steps_of_a_rollout(args)",
            "_steps_of_a_rollout(args) and 1",
        ),
        Mistake(
            "_steps_of_a_rollout",
            "iterations do not count",
            'sampled * getattr(args, "num_iterations", 1)',
            "sampled",
        ),
        Mistake(
            "checkpoint_callback",
            "rounded down",
            "-(-(every or state.max_steps / USUAL_CHECKPOINTS) // period) * period",
            "max(1, int((every or state.max_steps / USUAL_CHECKPOINTS) // period)) * period",
        ),
    ),
)

OVEROPTIMIZATION = Group(
    "posttrain_helpers.statistics.overoptimization",
    ("tests/statistics/test_overoptimization.py",),
    (
        Mistake(
            "fit_overoptimization",
            "the spread around 0",
            "((gains - gains.mean()) ** 2).sum()",
            "(gains**2).sum()",
        ),
    ),
)

BOARD_SCORES = Group(
    "posttrain_helpers.evaluation.board.scores",
    ("tests/evaluation/board/test_board.py",),
    (
        Mistake(
            "_repeated_share",
            "each item is a cluster",
            "suite.clusters or range(suite.n)",
            "range(suite.n)",
        ),
        Mistake(
            "_divergence_key",
            "another temperature is compared",
            '"suite", "temperature", "measure"',
            '"suite", "measure"',
        ),
        Mistake(
            "writing_style",
            "the mean of the suites",
            "[count for part in parts for count in part.tokens]",
            "[np.mean(part.tokens) for part in parts]",
        ),
        Mistake(
            "common_clusters",
            "items of two suites are one cluster",
            "clusters_of([None] * suite.n, source=suite.name)",
            "clusters_of([None] * suite.n)",
        ),
        Mistake(
            "writing_style",
            "the mean over texts",
            'math.exp(sum(found["losses"]) / sum(found["tokens"]))',
            'math.exp(np.mean(np.divide(found["losses"], found["tokens"])))',
            ("tests/evaluation/board/test_forgetting.py",),
        ),
    ),
)

LANGUAGE_MODEL_JUDGE = Group(
    "posttrain_helpers.evaluation.judges.language_model",
    ("tests/evaluation/judges/test_language_model.py",),
    (
        Mistake(
            "LanguageModelJudge._next_log_probs",
            "not in float32",
            ".float().log_softmax(-1)",
            ".log_softmax(-1)",
        ),
        Mistake(
            "LanguageModelJudge.letter_log_probs",
            "dropout stays on",
            "with evaluation_mode(self.model), torch.no_grad():",
            "with torch.no_grad():",
        ),
    ),
)

REWARD_GUARD = Group(
    "posttrain_helpers.rewards.guard",
    ("tests/rewards/test_guard.py",),
    (
        Mistake(
            "_Guard._checked",
            "what a broken round returned stays",
            "            self._returned.clear()\n        self._returned[index] = checked",
            "            pass\n        self._returned[index] = checked",
        ),
    ),
)

MADE_DATA = Group(
    "posttrain_helpers.tinyworld.training_data.made_data",
    ("tests/tinyworld/training_data/test_made_data.py",),
    (
        Mistake(
            "constitution",
            "every principle asks for more",
            "sign * (read(request) - plain)",
            "(read(request) - plain)",
        ),
        Mistake(
            "constitution",
            "the plain likelihood is not taken off",
            "sign * (read(request) - plain)",
            "sign * read(request)",
        ),
        Mistake(
            "two_of_each",
            "the first two",
            "random.Random(f\"pair/{seed}/{item['id']}\").sample(different, 2)",
            "different[:2]",
        ),
        Mistake(
            "two_of_each", "the seed is ignored", "f\"pair/{seed}/{item['id']}\"", "f\"pair/{item['id']}\""
        ),
        Mistake(
            "build_best_of_k_data",
            "the same lots for every seed",
            "one_of_each(scores, seed)",
            "one_of_each(scores)",
        ),
        Mistake("scored", "ends are not looked at", "stopped=reply.stopped", "stopped=True"),
        Mistake(
            "scored",
            "replies of other prompts",
            "[reply.text for group in replies for reply in group]",
            "[group[i].text for i in range(len(replies[0])) for group in replies]",
        ),
        Mistake("own_replies", "replies of one seed", "*settings, seed, profile)", "*settings, 0, profile)"),
    ),
)

DISTILLATION_DATA = Group(
    "posttrain_helpers.tinyworld.training_data.distillation",
    ("tests/tinyworld/training_data/test_distillation.py",),
    (
        Mistake(
            "build_distillation_data",
            "the temperature is ignored",
            '"temperature": sampling_temperature',
            '"temperature": 1.0',
        ),
        Mistake(
            "build_distillation_data",
            "replies of one seed",
            "prompts, seed=seed, profile=profile",
            "prompts, profile=profile",
        ),
        Mistake("_larger_problems", "as many steps as in training", "max(1, steps - 1)", "steps"),
        Mistake(
            "_prompts",
            "all prompts are hard",
            "(quarter, 1, 12, 3), (n - half - quarter, 2, 12, 3))",
            "(n - half, steps, largest, smallest))",
        ),
        Mistake(
            "_prompts",
            "the hard ones come first",
            'random.Random(f"distillation/{seed}").shuffle(rows)',
            "pass",
        ),
        Mistake(
            "_prompts",
            "what is held out of one split",
            "HELD_OUT_PROBLEMS, split, smallest=smallest)",
            "HELD_OUT_PROBLEMS, smallest=smallest)",
        ),
        Mistake(
            "build_distillation_data",
            "dropped pairs are not counted",
            "len(pairs) - len(rows)",
            "0",
            ("tests/tinyworld/training_data/test_distillation.py::test_pairs_of_equal_replies_are_counted",),
        ),
        Mistake(
            "_larger_problems",
            "amounts from the smallest on",
            "smallest=largest + 1",
            "smallest=smallest",
            (
                "tests/tinyworld/training_data/test_distillation.py::test_larger_amounts_are_as_many_and_follow_those_of_the_prompts",
            ),
        ),
    ),
)

PROMPT_DATA = Group(
    "posttrain_helpers.tinyworld.training_data.prompts",
    ("tests/tinyworld/training_data/test_prompts.py",),
    (
        Mistake(
            "held_out_problems",
            "other problems of dev are left out",
            'HELD_OUT_PROBLEMS, "dev", smallest=smallest)',
            'HELD_OUT_PROBLEMS, "dev")',
        ),
    ),
)

JUDGEMENT_DATA = Group(
    "posttrain_helpers.tinyworld.training_data.judgements",
    ("tests/tinyworld/training_data/test_judgements.py",),
    (
        Mistake(
            "_held_out",
            "several comparisons of one prompt",
            "_pairs(item, replies, 1, rng)",
            "_pairs(item, replies, 3, rng)",
        ),
        Mistake("_held_out", "the seed of a training", "HELD_OUT_SEEDS[reported_split()]", "0"),
        Mistake("_pairs", "ends are not looked at", "stopped=reply.stopped", "stopped=True"),
    ),
)

MEMORY_ESTIMATE = Group(
    "posttrain_helpers.memory.estimate",
    ("tests/memory/test_estimate.py",),
    (
        Mistake(
            "estimate_memory",
            "an adapter saves the teacher",
            "size.weights if needs.teacher or (with_reference",
            "size.weights if (with_reference",
        ),
        Mistake(
            "estimate_memory",
            "prompts have logits in the loss",
            "scored = batch * needs.rows * completion",
            "scored = batch * needs.rows * length",
        ),
        Mistake(
            "estimate_memory",
            "the output layer of an adapter trains",
            'needs.logits != "none" and not size.adapter',
            'needs.logits != "none"',
        ),
        Mistake(
            "estimate_memory",
            "a layer that is made anew takes nothing",
            "activations + (layer if checkpointing else 0)",
            "activations",
        ),
        Mistake("estimate_memory", "autocast copies nothing", "activations += size.linear * compute", "pass"),
        Mistake(
            "estimate_memory",
            "the replies are read before they are sampled",
            "3 * rows * (length - completion)",
            "3 * rows * completion",
        ),
        Mistake(
            "estimate_memory",
            "autocast halves the reward models",
            "reward_models * size.parameters * size.width",
            "reward_models * size.parameters * compute",
        ),
        Mistake("_lengths", "more tokens are scored than read", "min(completion, length)", "completion"),
    ),
)

CHAT_MARKERS = Group(
    "posttrain_helpers.models.chat_markers",
    ("tests/models/test_chat_markers.py",),
    (
        Mistake(
            "changes_replies",
            "only without a system turn",
            "talks = (_TWO_TURNS, [_SYSTEM, *_TWO_TURNS])",
            "talks = (_TWO_TURNS,)",
        ),
    ),
)

FROZEN = Group(
    "posttrain_helpers.training.frozen",
    ("tests/training/test_frozen.py",),
    (Mistake("_loaded", "the profile is not passed on", "merge=True, profile=profile)", "merge=True)"),),
)

ARITHMETIC = Group(
    "posttrain_helpers.tinyworld.arithmetic",
    ("tests/tinyworld/test_arithmetic.py",),
    (
        Mistake(
            "word_problem",
            "the smallest is ignored",
            "rng.randint(smallest, largest)",
            "rng.randint(3, largest)",
        ),
        Mistake(
            "word_problem",
            "the largest change is ignored",
            "rng.randint(2, largest) if gain",
            "rng.randint(2, 12) if gain",
        ),
        Mistake(
            "word_problem",
            "groups are never held out",
            "_groups_problem(rng, words, held_out)",
            "_groups_problem(rng, words, False)",
        ),
    ),
)

TASKS = Group(
    "posttrain_helpers.tinyworld.tasks",
    ("tests/tinyworld/test_tasks.py",),
    (
        Mistake("_draw_arithmetic", "held-out phrasings are trained", "SUM_QUESTIONS[:-3]", "SUM_QUESTIONS"),
        Mistake("_arithmetic", "sums of the other split", "== split", '!= "train"'),
        Mistake(
            "fact_conversations", "the seed is ignored", "fact conversations/{seed}", "fact conversations/0"
        ),
        Mistake(
            "problem_item",
            "the conclusion is wrong",
            "problem.solution, problem.conclusion, ",
            "problem.solution, ",
        ),
        Mistake("_phrasings", "facts of the split", 'facts_of("train")', "facts_of(split)"),
        Mistake(
            "build_sft_data",
            "always the same documents",
            ", seed, held_out_prompts()",
            ", 0, held_out_prompts()",
            ("tests/data/test_replay.py::test_the_seed_draws_documents_of_its_own",),
        ),
    ),
)

DOCUMENTS = Group(
    "posttrain_helpers.tinyworld.documents",
    ("tests/tinyworld/test_documents.py",),
    (
        Mistake("_debris_facts", "test is kept out", '!= "dev"', '== "train"'),
        Mistake(
            "question_and_answer",
            "held-out sums in chats",
            "SUM_QUESTIONS[:-3] if debris else SUM_QUESTIONS",
            "SUM_QUESTIONS",
        ),
        Mistake("_all_facts", "small tables once", "2 if len(relation.pairs) < 30 else 1", "1"),
    ),
)

REPLAY = Group(
    "posttrain_helpers.tinyworld.replay",
    ("tests/tinyworld/test_replay.py",),
    (
        Mistake(
            "longest_sentences", "the first sentence", "max(sentences(text), key=len)", "sentences(text)[0]"
        ),
        Mistake("replayed_documents", "every kind alike", ", weights=tuple(shares.values())", ""),
    ),
)

LEAKS = Group(
    "posttrain_helpers.tinyworld.leaks",
    ("tests/tinyworld/test_leaks.py",),
    (
        Mistake(
            "Leaks.found", "both are needed", " or self.held_out_questions", " and self.held_out_questions"
        ),
    ),
)

PROBES = Group(
    "posttrain_helpers.tinyworld.probes",
    ("tests/tinyworld/test_probes.py",),
    (
        Mistake("measure_probes", "n is ignored", "reward_probes(n)", "reward_probes()"),
        Mistake("ProbeResult.verdict", "gold that surely falls", "0 >= self.gold.low", "0 >= self.gold.high"),
        Mistake("ProbeResult.verdict", "gold that may fall", "self.gold.high < 0", "self.gold.low < 0"),
        Mistake("ProbeResults.plot", "temperature multiplies", "value / unit", "value * unit"),
        Mistake(
            "_one_more_sentence",
            "gold may fall",
            "if abs(gold(plain[place], item) - gold(padded[place], item)) < 1e-9",
            "if gold(padded[place], item) - gold(plain[place], item) < 1e-9",
        ),
        Mistake(
            "_story",
            "bad and good differ in all",
            'random.Random(item["id"])',
            "random.Random(f\"{item['id']}/{good_ending}\")",
        ),
    ),
)

REPLIES = Group(
    "posttrain_helpers.tinyworld.replies",
    ("tests/tinyworld/test_replies.py",),
    (
        Mistake(
            "styled_reply",
            "curt without a short answer is none",
            ' or (manner == "curt" and short is None)',
            "",
        ),
    ),
)

FORMS = Group(
    "posttrain_helpers.data.forms",
    ("tests/data/test_forms.py",),
    (
        Mistake(
            "with_messages",
            "one is enough",
            'if any("messages" in row for row in rows)',
            'if all("messages" in row for row in rows)',
        ),
    ),
)

LENGTHS = Group(
    "posttrain_helpers.data.lengths",
    ("tests/data/test_lengths.py",),
    (
        Mistake("length_counts", "the shorter one", "table.max(axis=1)", "table.min(axis=1)"),
        Mistake("length_counts", "half of it counts twice", "longest > edge // 2", "longest >= edge // 2"),
        Mistake(
            "length_counts", "powers of two open another", "int(longest.min() - 1)", "int(longest.min())"
        ),
        Mistake(
            "length_counts", "one edge too many", "edge < 2 * longest.max()", "edge <= 2 * longest.max()"
        ),
    ),
)

TOOL_CALLS = Group(
    "posttrain_helpers.data.tool_calls",
    ("tests/data/test_tool_calls.py",),
    (
        Mistake("_written", "another text passes", " and render(written) == render(messages)", ""),
        Mistake("_leaves", "keys may be lost", "            yield key\n", ""),
    ),
)

CONVERTERS = Group(
    "posttrain_helpers.data.public.converters",
    ("tests/data/public/test_converters.py",),
    (
        Mistake(
            "as_row",
            "the scores are lost",
            'for key in (*SCORES, "answer")',
            'for key in ("answer",)',
        ),
        Mistake("joined_parts", "parts in lines", 'separator: str = ""', 'separator: str = "\\n"'),
    ),
)

PROGRESS = Group(
    "posttrain_helpers.training.progress",
    ("tests/training/test_progress.py",),
    (
        Mistake(
            "Progress.callback",
            "resumed steps count",
            "(state.global_step - self.first_step)",
            "state.global_step",
        ),
        Mistake("_speed", "since the beginning", "= counts[-2:]", "= counts[0], counts[-1]"),
        Mistake("_speed", "per step", "/ (step - before) / pace", "/ (step - before)"),
        Mistake("used_memory", "held now", "torch.cuda.max_memory_reserved", "torch.cuda.memory_reserved"),
    ),
)

REQUESTS = Group(
    "posttrain_helpers.serving.requests",
    ("tests/serving/test_requests.py",),
    (
        Mistake("request_fault", "one token too many", ") > positions", ") >= positions"),
        Mistake("request_fault", "the opening is not counted", "add_generation_prompt=True, ", ""),
        Mistake(
            "request_fault",
            "only the last limit counts",
            "max(most, value if whole else 0)",
            "value if whole else 0",
        ),
        Mistake("request_fault", "a temperature makes room", "value if whole else 0", "value"),
        Mistake(
            "request_fault",
            "no token is new",
            "if positions is not None and len(tokens) + max(1, most)",
            "if positions is not None and len(tokens) + most",
        ),
    ),
)

FEW_SHOT = Group(
    "posttrain_helpers.generation.few_shot",
    ("tests/generation/test_few_shot.py",),
    (
        Mistake(
            "few_shot_items",
            "all items have one set of examples",
            "rng.sample(examples",
            "random.Random(seed).sample(examples",
        ),
    ),
)

OWN_SUITES = Group(
    "posttrain_helpers.evaluation.suites.files",
    ("tests/evaluation/suites/test_files.py",),
    (
        Mistake("own_suite", "the limit is lost", ", scores, max_new_tokens)", ", scores)"),
        Mistake("_own_item", "the task is lost", 'row.get("task") or "own"', '"own"'),
    ),
)

REAL_MODEL = Group(
    "posttrain_helpers.report.real_model_results",
    ("tests/report/test_real_model.py",),
    (
        Mistake(
            "_with_run",
            "seeds in the order of their texts",
            "key=lambda entry: int(entry[0])",
            "key=lambda entry: entry[0]",
            ("tests/report/test_real_model.py::test_seeds_of_the_real_model",),
        ),
        Mistake(
            "_count",
            "replies are not paired by item",
            "[scores[item] for item in before]",
            "list(scores.values())",
            ("tests/report/test_real_model.py::test_replies_are_compared_item_by_item",),
        ),
    ),
)

REPAIRS = Group(
    "posttrain_helpers.models.repairs",
    ("tests/models/test_repairs.py",),
    (
        Mistake(
            "_turn_end",
            "the first that fits",
            "max(starts, key=len, default=None)",
            "next(iter(starts), None)",
        ),
    ),
)

RESULTS = Group(
    "posttrain_helpers.report.results",
    ("tests/report/test_results.py",),
    (
        Mistake(
            "write_results",
            "trainings are not timed",
            "training_seconds=trained_seconds()",
            "training_seconds=0.0",
        ),
        Mistake(
            "_checked_claim", "an interval of one point", "claim.low > claim.high", "claim.low >= claim.high"
        ),
    ),
)

TARGETS = Group(
    "posttrain_helpers.evaluation.targets",
    ("tests/evaluation/test_targets.py",),
    (
        Mistake(
            "finished_models", "the stages of the profile in use", "saved_stages(profile)", "saved_stages()"
        ),
    ),
)

SUITE = Group(
    "posttrain_helpers.evaluation.suites.suite",
    ("tests/evaluation/suites/test_loading.py",),
    (
        Mistake(
            "Suite.asks_messages", "all prompts must be messages", "any(not isinstance", "all(not isinstance"
        ),
    ),
)

SUITE_LOADING = Group(
    "posttrain_helpers.evaluation.suites.loading",
    ("tests/evaluation/suites/test_loading.py",),
    (
        Mistake(
            "load_suites",
            "short replies for every profile",
            'LONG_REPLY if profile.name == "tiny" else 256',
            "LONG_REPLY",
        ),
    ),
)

REWARD_CHECKS = Group(
    "posttrain_helpers.training.reward_checks",
    ("tests/training/test_reward_checks.py",),
    (
        Mistake(
            "_combined",
            "rounding makes a spread",
            "return round(total, 6)",
            "return total",
            ("tests/training/test_reward_checks.py::test_rewards_that_differ_by_rounding_are_the_same",),
        ),
        Mistake(
            "check_rewards",
            "every round has one seed",
            "seed=len(groups)",
            "seed=0",
            ("tests/training/test_reward_checks.py::test_every_round_is_sampled_with_a_seed_of_its_own",),
        ),
        Mistake(
            "check_rewards",
            "a function that rates few rows is not waited for",
            "if spread and all(_given(groups, column) for column in range(len(names))):",
            "if spread:",
        ),
    ),
)

RECIPE = Group(
    "posttrain_helpers.recipes.recipe",
    ("tests/recipes/test_hashes.py",),
    (
        Mistake(
            "Recipe.content",
            "early stopping is left out",
            '            **({"early_stopping": self.early_stopping} if self.early_stopping else {}),\n',
            "",
        ),
        Mistake(
            "Recipe.content",
            "the reference is left out",
            '            **({"reference": self.reference} if self.reference else {}),\n',
            "",
        ),
    ),
)

RECIPE_OVERRIDES = Group(
    "posttrain_helpers.recipes.overrides",
    ("tests/recipes/test_overrides.py",),
    (
        Mistake(
            "parsed_overrides",
            "the caller's own are given away",
            "return dict(overrides or {})",
            "return overrides or {}",
        ),
        Mistake("parsed_overrides", "blanks around a key stay", "parsed[key.strip()]", "parsed[key]"),
    ),
)

RECIPE_LOADING = Group(
    "posttrain_helpers.recipes.loading",
    ("tests/recipes/test_loading.py",),
    (
        Mistake(
            "load_recipe",
            "a seed of 0 is none",
            "if seed is None else seed",
            "if not seed else seed",
            (
                "tests/recipes/test_loading.py::test_the_seed_is_that_of_the_arguments_the_recipe_or_the_session",
            ),
        ),
        Mistake(
            "load_recipe",
            "the seed of the session wins",
            '            **trainer_defaults(profile),\n            "seed": seed,',
            '            "seed": seed,\n            **trainer_defaults(profile),',
            (
                "tests/recipes/test_loading.py::test_the_seed_is_that_of_the_arguments_the_recipe_or_the_session",
            ),
        ),
        Mistake(
            "load_recipe",
            "the seed of the arguments is lost",
            'settings["args"].get("seed", seed)',
            "seed",
            (
                "tests/recipes/test_loading.py::test_the_seed_is_that_of_the_arguments_the_recipe_or_the_session",
            ),
        ),
        Mistake(
            "_shared_among_processes",
            "defaults are not shared",
            'settings["args"].get(name, defaults.get(name))',
            'settings["args"].get(name)',
            (
                "tests/recipes/test_loading.py::test_a_batch_that_no_recipe_sets_is_shared_among_processes_too",
            ),
        ),
        Mistake(
            "_lay_over",
            "several models stay beside one",
            '        settings.pop("models", None)\n',
            "",
            ("tests/recipes/test_loading.py::test_one_model_takes_the_place_of_several",),
        ),
    ),
)

PREPARE = Group(
    "posttrain_helpers.data.prepare",
    ("tests/data/test_prepare.py",),
    (
        Mistake(
            "prepare",
            "the shorter reply of a pair counts",
            "max(lengths[id(row)]) <= max_length",
            "min(lengths[id(row)]) <= max_length",
            (
                "tests/data/test_prepare.py::test_the_longer_reply_of_a_pair_counts_and_a_row_of_the_limit_stays",
            ),
        ),
        Mistake(
            "prepare",
            "a row of the limit is dropped",
            "max(lengths[id(row)]) <= max_length",
            "max(lengths[id(row)]) < max_length",
            (
                "tests/data/test_prepare.py::test_the_longer_reply_of_a_pair_counts_and_a_row_of_the_limit_stays",
            ),
        ),
        Mistake(
            "prepare",
            "labelled replies have one order",
            "for_method(part, kind, seed)",
            "for_method(part, kind, 0)",
            ("tests/data/test_prepare.py::test_the_seed_orders_the_labelled_replies",),
        ),
        Mistake(
            "prepare",
            "the seed is not checked",
            '"source": source, "seed": seed}',
            '"source": source}',
            ("tests/data/test_prepare.py::test_mistakes_are_sentences_and_leave_nothing",),
        ),
        Mistake(
            "prepare",
            "repeated conversations are not counted",
            "        dropped.update(repeated)\n",
            "",
            ("tests/data/test_prepare.py::test_pairs_with_one_chosen_reply_are_one_conversation",),
        ),
    ),
)

TRAINER = Group(
    "posttrain_helpers.training.trainer",
    ("tests/training/test_trainer.py",),
    (
        Mistake(
            "checked_config",
            "the arguments of the method win",
            "{**method.arguments, **recipe.args}",
            "{**recipe.args, **method.arguments}",
            ("tests/training/test_trainer.py::test_a_recipe_overrules_the_arguments_of_a_method",),
        ),
        Mistake(
            "make_trainer",
            "the rows to evaluate on are lost",
            '**({} if eval_dataset is None else {"eval_dataset": eval_dataset}),',
            "",
            ("tests/training/test_trainer.py::test_the_rows_to_evaluate_on_reach_the_trainer",),
        ),
        Mistake(
            "_sampler",
            "min_p is not asked for",
            " or config.min_p",
            "",
            (
                "tests/training/test_trainer.py::test_grpo_samples_with_the_course_sampler_unless_an_engine_is_named",
            ),
        ),
    ),
)

MODEL_LOADING = Group(
    "posttrain_helpers.models.loading",
    ("tests/models/test_loading.py",),
    (
        Mistake(
            "with_all_weights_trained",
            "merged weights stay frozen",
            "merged.requires_grad_(True)",
            "merged",
            ("tests/models/test_loading.py::test_every_weight_is_trained_once_an_adapter_is_merged",),
        ),
        Mistake(
            "load_repaired",
            "a fresh adapter or score head is in train mode",
            "    model.eval()\n",
            "",
            (
                "tests/models/test_loading.py::test_a_fresh_adapter_trains_few_parameters",
                "tests/models/test_loading.py::test_the_adapter_of_a_language_model_is_merged_below_a_score_head",
            ),
        ),
    ),
)

REPORT_CLAIMS = Group(
    "posttrain_helpers.report.claims",
    ("tests/report/test_claims.py",),
    (
        Mistake(
            "claim_groups",
            "the ends above are left out of the axis",
            "(claim.low, claim.difference, claim.high)",
            "(claim.low, claim.difference)",
        ),
        Mistake(
            "Axis.around",
            "zero is left out",
            "min(0.0, *values), max(0.0, *values)",
            "min(values), max(values)",
        ),
    ),
)

PPO_CONFIG = Group(
    "posttrain_helpers.training.ppo.config",
    ("tests/training/ppo/test_config.py",),
    (
        Mistake(
            "PPOConfig.steps_for",
            "whole epochs only",
            "math.ceil(self.num_train_epochs * prompts)",
            "math.ceil(self.num_train_epochs) * prompts",
        ),
        Mistake(
            "PPOConfig",
            "advantages stay as they are by default",
            "whiten_advantages: bool = True",
            "whiten_advantages: bool = False",
        ),
    ),
)

EXPORT = Group(
    "posttrain_helpers.report.export",
    ("tests/report/test_export.py",),
    (
        Mistake(
            "export_stage",
            "whole weights are written anew",
            "if adapter and merge:",
            "if merge:",
            ("tests/report/test_export.py::test_a_stage_of_whole_weights_stays_as_it_is",),
        ),
        Mistake(
            "export_stage",
            "the training log goes along",
            "shutil.ignore_patterns(MANIFEST, TRAINING_LOG,",
            "shutil.ignore_patterns(MANIFEST,",
            ("tests/report/test_export.py::test_a_stage_of_whole_weights_stays_as_it_is",),
        ),
        Mistake(
            "export_stage",
            "hidden files go along",
            '"README.md", ".*")',
            '"README.md")',
            ("tests/report/test_export.py::test_a_stage_of_whole_weights_stays_as_it_is",),
        ),
        Mistake(
            "export_stage",
            "merged in another precision",
            'dtype="auto", merge=True',
            "merge=True",
            ("tests/report/test_export.py::test_a_merged_adapter_has_the_precision_of_its_base",),
        ),
        Mistake(
            "export_stage",
            "a merged model is called an adapter",
            "profile, adapter and not merge))",
            "profile, adapter))",
            ("tests/report/test_export.py::test_the_card_says_how_a_reward_model_is_loaded",),
        ),
        Mistake(
            "_card",
            "an adapter is called a model",
            '"peft" if adapter else "transformers"',
            '"transformers"',
            ("tests/report/test_export.py::test_the_card_says_how_a_reward_model_is_loaded",),
        ),
        Mistake(
            "_card",
            "a reward adapter loads with two labels",
            'if head == "reward" and adapter',
            'if head == "language" and adapter',
            ("tests/report/test_export.py::test_the_card_says_how_a_reward_model_is_loaded",),
        ),
        Mistake(
            "_name_base",
            "added tokens pass",
            " or rows != AutoConfig.from_pretrained(base).get_text_config().vocab_size",
            "",
            ("tests/report/test_export.py::test_an_adapter_with_added_tokens_is_refused",),
        ),
        Mistake(
            "_name_base",
            "a place that is relative stays so",
            "str(here.resolve()) if here.exists() else place",
            "place",
            ("tests/report/test_export.py::test_the_base_of_an_adapter_is_named_whole_and_at_its_revision",),
        ),
        Mistake(
            "_name_base",
            "the revision is lost",
            'settings | {"revision": revision}',
            "settings",
            ("tests/report/test_export.py::test_the_base_of_an_adapter_is_named_whole_and_at_its_revision",),
        ),
        Mistake(
            "_lineage",
            "what was replaced is not noticed",
            'model_identity(str(stage)) == manifest["parent_identity"]',
            "True",
            ("tests/report/test_export.py::test_the_card_tells_of_every_stage_on_the_way",),
        ),
        Mistake(
            "_card",
            "the parent for the base",
            'location(lineage[-1][0]["model"], profile)',
            'location(lineage[0][0]["model"], profile)',
            ("tests/report/test_export.py::test_the_card_tells_of_every_stage_on_the_way",),
        ),
        Mistake(
            "_card",
            "the data of the parents are left out",
            "_source(each) for each, _ in lineage",
            "_source(each) for each, _ in lineage[:1]",
            ("tests/report/test_export.py::test_the_card_tells_of_every_stage_on_the_way",),
        ),
        Mistake(
            "_card",
            "one seed for all stages",
            "{each['seed']}",
            "{manifest['seed']}",
            ("tests/report/test_export.py::test_the_card_tells_of_every_stage_on_the_way",),
        ),
        Mistake(
            "_data_licence",
            "the course's data have none",
            "if is_built_in(source):",
            "if False:",
            ("tests/report/test_export.py::test_the_card_tells_of_every_stage_on_the_way",),
        ),
        Mistake(
            "_card",
            "the licence of another base is not looked up",
            "else _licence_beside(Path(place))",
            "else _UNKNOWN",
            ("tests/report/test_export.py::test_the_licence_is_that_of_the_base_and_no_directory_is_named",),
        ),
        Mistake(
            "_public",
            "directories in lists stay",
            "isinstance(value, list | tuple)",
            "False",
            ("tests/report/test_export.py::test_the_licence_is_that_of_the_base_and_no_directory_is_named",),
        ),
        Mistake(
            "_measured",
            "clusters do not count",
            "suite.yes_no, suite.clusters",
            "suite.yes_no",
            ("tests/report/test_export.py::test_the_card_has_the_interval_of_related_items",),
        ),
    ),
)

SEEDS = Group(
    "posttrain_helpers.lessons.seeds",
    ("tests/lessons/test_seeds.py",),
    (
        Mistake(
            "run_seeds",
            "what is left counts what is done",
            "(len(pending) - number)\n",
            "len(pending)\n",
            ("tests/lessons/test_seeds.py::test_the_time_that_is_left_is_that_of_the_runs_so_far",),
        ),
        Mistake(
            "run_seeds",
            "the time of all for that of one",
            "(now - begun) / number *",
            "(now - begun) *",
            ("tests/lessons/test_seeds.py::test_the_time_that_is_left_is_that_of_the_runs_so_far",),
        ),
        Mistake(
            "_measure",
            "the mark of a former run stays",
            "(mark, metrics)",
            "(metrics,)",
            ("tests/lessons/test_seeds.py::test_a_run_that_fails_after_its_results_is_no_measurement",),
        ),
        Mistake(
            "_collected",
            "versions of the first seed",
            "next(reversed(found.values()))",
            "next(iter(found.values()))",
            ("tests/lessons/test_seeds.py::test_the_table_names_the_versions_of_its_last_seed",),
        ),
    ),
)

DISTILLATION = Group(
    "posttrain_helpers.training.distillation",
    ("tests/training/test_distillation.py",),
    (
        Mistake(
            "check_same_vocabulary",
            "what only the teacher knows is not looked at",
            "own.keys() | other.keys()",
            "own.keys()",
            ("tests/training/test_distillation.py::test_another_vocabulary_is_refused",),
        ),
        Mistake(
            "_same_predictions",
            "the student stays in eval mode",
            "    student.train(was_training)\n",
            "",
            (
                "tests/training/test_distillation.py::test_predictions_are_compared_without_dropout_and_closely",
            ),
        ),
        Mistake(
            "_same_predictions",
            "dropout tells them apart",
            "model.eval()(input_ids",
            "model(input_ids",
            (
                "tests/training/test_distillation.py::test_predictions_are_compared_without_dropout_and_closely",
            ),
        ),
        Mistake(
            "_same_predictions",
            "a near teacher is the same",
            "atol=1e-5",
            "atol=1e-1",
            (
                "tests/training/test_distillation.py::test_predictions_are_compared_without_dropout_and_closely",
            ),
        ),
    ),
)

REGULARIZED_SFT = Group(
    "posttrain_helpers.training.regularized_sft",
    ("tests/training/test_regularized_sft.py",),
    (
        Mistake(
            "RegularizedSFTTrainer.__init__",
            "a reference of one's own keeps its dropout",
            "reference = reference.requires_grad_(False).eval()",
            "reference = reference.requires_grad_(False)",
            (
                "tests/training/test_regularized_sft.py::test_a_reference_of_ones_own_is_frozen_and_the_divergence_is_from_it",
            ),
        ),
        Mistake(
            "RegularizedSFTTrainer.__init__",
            "a reference of one's own is trained along",
            "reference = reference.requires_grad_(False)",
            "reference = reference",
            (
                "tests/training/test_regularized_sft.py::test_a_reference_of_ones_own_is_frozen_and_the_divergence_is_from_it",
            ),
        ),
        Mistake(
            "RegularizedSFTTrainer.__init__",
            "the copy keeps its dropout",
            "copy.deepcopy(model).requires_grad_(False).eval()",
            "copy.deepcopy(model).requires_grad_(False)",
            (
                "tests/training/test_regularized_sft.py::test_the_copy_is_without_dropout_and_follows_the_attention_of_the_policy",
            ),
        ),
        Mistake(
            "RegularizedSFTTrainer._base",
            "another attention",
            "self.ref_model.set_attn_implementation(self.model.config._attn_implementation)",
            "pass",
            (
                "tests/training/test_regularized_sft.py::test_the_copy_is_without_dropout_and_follows_the_attention_of_the_policy",
            ),
        ),
        Mistake(
            "RegularizedSFTTrainer.__init__",
            "a reference of another vocabulary passes",
            "            _check_sizes(model, reference)\n",
            "",
            ("tests/training/test_regularized_sft.py::test_a_reference_of_another_vocabulary",),
        ),
        Mistake(
            "RegularizedSFTTrainer.__init__",
            "a reference with scaled logits passes",
            "            _check_logits(reference)\n",
            "",
            ("tests/training/test_regularized_sft.py::test_every_way_to_scale_logits_is_known",),
        ),
        Mistake(
            "_CHANGED_LOGITS",
            "logits_scaling passes",
            '    "logits_scaling",\n',
            "",
            ("tests/training/test_regularized_sft.py::test_every_way_to_scale_logits_is_known",),
        ),
        Mistake(
            "_CHANGES_THE_BASE",
            "LoftQ passes",
            '"loftq", ',
            "",
            ("tests/training/test_regularized_sft.py::test_every_start_that_changes_the_base_is_known",),
        ),
        Mistake(
            "_check_adapter",
            "capitals pass",
            "start.lower().startswith",
            "start.startswith",
            ("tests/training/test_regularized_sft.py::test_every_start_that_changes_the_base_is_known",),
        ),
        Mistake(
            "RegularizedSFTTrainer._share",
            "the tokens of all processes are one's own",
            "share * (self.accelerator.num_processes // self.get_tp_size())",
            "share",
            ("tests/training/test_regularized_sft.py::test_the_share_of_a_batch_counts_the_processes",),
        ),
        Mistake(
            "RegularizedSFTTrainer._summed_kl",
            "the policy's output layer for the base",
            "head if self.ref_model is None else self.ref_model.get_output_embeddings()",
            "head",
            (
                "tests/training/test_regularized_sft.py::test_a_reference_of_ones_own_is_frozen_and_the_divergence_is_from_it",
            ),
        ),
    ),
)

GROUPS = (
    PROCESSES,
    CHECKPOINTS,
    STATISTICS,
    CLAIMS,
    INTERVALS,
    RANKING,
    BRADLEY_TERRY,
    AGREEMENT,
    BEST_OF_N,
    FORGETTING,
    WIN_RATE,
    PREFERENCE_LOSSES,
    POLICY_LOSSES,
    ADVANTAGES,
    KL,
    LIKELIHOOD,
    DECODING,
    METRICS,
    VERIFIERS,
    GOLD,
    ANNOTATORS,
    REWARDS,
    REWARD_FUNCTIONS,
    RECIPE_CHECKS,
    SCORING,
    ACTOR_CRITIC,
    PPO,
    PPO_ROLLOUTS,
    ROLLOUTS,
    PPO_METRICS,
    COMPARISON,
    COMPARISON_SCORES,
    PREFERENCES,
    CONVERSATIONS,
    MESSAGES,
    TRAINING_CHECKS,
    TRAINING_STATE,
    TRAINING_WATCH,
    STAGES,
    MANIFEST,
    STAGE_SAVING,
    STORAGE,
    WEIGHTS,
    IMPORTS,
    OVEROPTIMIZATION,
    BOARD_SCORES,
    LANGUAGE_MODEL_JUDGE,
    REWARD_GUARD,
    MADE_DATA,
    DISTILLATION_DATA,
    PROMPT_DATA,
    JUDGEMENT_DATA,
    MEMORY_ESTIMATE,
    CHAT_MARKERS,
    FROZEN,
    ARITHMETIC,
    TASKS,
    DOCUMENTS,
    REPLAY,
    LEAKS,
    PROBES,
    REPLIES,
    FORMS,
    LENGTHS,
    TOOL_CALLS,
    CONVERTERS,
    PROGRESS,
    REQUESTS,
    FEW_SHOT,
    OWN_SUITES,
    REAL_MODEL,
    REPAIRS,
    RESULTS,
    TARGETS,
    SUITE,
    SUITE_LOADING,
    REWARD_CHECKS,
    RECIPE,
    RECIPE_OVERRIDES,
    RECIPE_LOADING,
    PREPARE,
    TRAINER,
    MODEL_LOADING,
    REPORT_CLAIMS,
    PPO_CONFIG,
    EXPORT,
    SEEDS,
    DISTILLATION,
    REGULARIZED_SFT,
)
