"""What n draws are worth: best-of-n by a proxy, and the chance that one of k draws is right.

Best-of-n draws n replies and keeps the one that a proxy, such as a reward model, likes best. It needs no
training, and its distance from the policy that draws is known, so it is the yardstick for methods
that train.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def best_of_n(proxies: Sequence[float], values: Sequence[float], n: int) -> float:
    """Return the expected value of the best of `n` replies, where the proxy decides which is best.

    All samples of a prompt are used: the i-th lowest of N by the proxy is the best of a random subset of n
    with probability C(i - 1, n - 1) / C(N, n). Replies that the proxy cannot tell apart share their
    probability.

    Args:
        proxies: what decides, one number for each of N samples of one prompt.
        values: what counts, in the same order; the proxies themselves give the expected proxy.
        n: replies that are drawn, 1 to N.

    Source: Nakano et al. (2021), arXiv:2112.09332, appendix I (the unbiased estimator).
    """
    total = len(proxies)
    assert total == len(values), f"{total} proxies, but {len(values)} values"
    assert 1 <= n <= total, f"the best of {n} needs at least {n} samples, not {total}"
    by_proxy: dict[float, list[float]] = {}
    for proxy, value in zip(proxies, values, strict=True):
        by_proxy.setdefault(proxy, []).append(value)
    expected, below = 0.0, 0
    for proxy in sorted(by_proxy):
        tied = by_proxy[proxy]
        up_to = below + len(tied)
        # The best of the subset lies in this group when no member lies above it and not all lie below.
        probability = (math.comb(up_to, n) - math.comb(below, n)) / math.comb(total, n)
        expected += probability * sum(tied) / len(tied)
        below = up_to
    return expected


def pass_at_k(n: int, c: int, k: int) -> float:
    """Return 1 - C(n - c, k) / C(n, k), the unbiased estimate of the chance that one of `k` samples is right.

    Args:
        n: samples drawn for the prompt.
        c: correct ones among them.
        k: number of attempts that are granted, 1 to `n`.

    Source: Chen et al. (2021), arXiv:2107.03374, equation 1.
    """
    assert 0 <= c <= n, f"{c} of {n} samples cannot be correct"
    assert 1 <= k <= n, f"pass@{k} needs at least {k} samples, not {n}"
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)
