"""Several commands after one another in one start, with replies that depend on the prompt alone.

    torchrun --nproc_per_node 2 tests/launched.py "train sft ..." "train grpo ..."

The replies of GRPO and PPO are drawn by a seed that is made of the prompt and the step, so that one process
and two sample the same ones: what differs then is the training.
"""

from __future__ import annotations

import random
import shlex
import sys
from itertools import groupby
from typing import Any

from posttrain_helpers import cli
from posttrain_helpers.environment.processes import joined_group


def same_replies_on_every_process() -> None:
    import torch

    from posttrain_helpers.generation import rollouts
    from posttrain_helpers.training.ppo import rollouts as ppo_rollouts

    sample = rollouts.sample_completions

    def by_prompt(policy: Any, prompts: Any, *, generator: Any = None, **options: Any) -> list[Any]:
        drawn = []
        for ids, group in groupby(map(tuple, prompts)):
            seed = random.Random(str(ids)).getrandbits(63)
            chance = torch.Generator().manual_seed(seed)
            drawn += sample(policy, [list(row) for row in group], generator=chance, **options)
        return drawn

    rollouts.sample_completions = ppo_rollouts.sample_completions = by_prompt


if __name__ == "__main__":
    same_replies_on_every_process()
    with joined_group(use_cpu=True):
        for line in sys.argv[1:]:
            if code := cli.main(shlex.split(line)):
                sys.exit(code)
