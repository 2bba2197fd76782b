"""TRL 1.12's own PPO on a rollout that `test_ppo_processes.py` has sampled: what it makes of it.

    python tests/ppo_oracle.py DIRECTORY_WITH_TRL_1_12 CASES.pt RESULTS.pt

A program of its own, because a process can hold only one version of TRL. It saves for each case the
advantages before and after whitening, the trained weights and the log.
"""

from __future__ import annotations

import os
import sys
import tempfile
from typing import Any

sys.path.insert(0, sys.argv[1])
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

import torch
import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from transformers.trainer_callback import PrinterCallback
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer


def trained(case: dict[str, Any]) -> dict[str, Any]:
    """Train on the rollout of a case; return what the test compares."""
    tokenizer = AutoTokenizer.from_pretrained(case["policy"], padding_side="left")
    policy, reference = (AutoModelForCausalLM.from_pretrained(case[name]) for name in ("policy", "reference"))
    reward_model, critic = (
        AutoModelForSequenceClassification.from_pretrained(case[name], num_labels=1)
        for name in ("reward_model", "critic")
    )
    rows, temperature = case["rows"], case["args"]["temperature"]
    orders = iter(case["orders"])
    whitened: list[tuple[torch.Tensor, torch.Tensor]] = []

    def batch_generation(model: Any, queries: torch.Tensor, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Give back the completions that were sampled elsewhere, with the logits of a forward pass."""
        asked = [query[query != tokenizer.pad_token_id].tolist() for query in queries]
        known = {tuple(row["prompt"].tolist()): row for row in rows}
        # The loader has shuffled the prompts: what it asks for first is row 0 from now on.
        chosen = [known[tuple(ids)] for ids in asked]
        case["found"] = [next(i for i, row in enumerate(rows) if row is choice) for choice in chosen]
        both = torch.cat([queries, torch.stack([row["completion"] for row in chosen])], dim=1)
        logits = ppo_trainer.forward(model, both, tokenizer.pad_token_id).logits
        return both, logits[:, queries.shape[1] - 1 : -1] / (temperature + 1e-7)

    def permutation(_: int) -> Any:
        place = {row: position for position, row in enumerate(case["found"])}
        return torch.tensor([place[row] for row in next(orders).tolist()]).numpy()

    original = ppo_trainer.masked_whiten

    def masked_whiten(values: torch.Tensor, mask: torch.Tensor, shift_mean: bool = True) -> torch.Tensor:
        result = original(values, mask, shift_mean)
        if shift_mean:  # the advantages, not the rewards
            whitened.append((values.clone(), result.clone()))
        return result

    ppo_trainer.batch_generation, ppo_trainer.masked_whiten = batch_generation, masked_whiten
    ppo_trainer.np.random.permutation = permutation
    with tempfile.TemporaryDirectory() as folder:
        trainer = PPOTrainer(
            args=PPOConfig(
                output_dir=folder,
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
                save_strategy="no",
                disable_tqdm=True,
                report_to="none",
                lr_scheduler_type="constant",
                num_sample_generations=0,
                total_episodes=len(rows),
                response_length=len(rows[0]["completion"]),
                # One accumulation step: TRL counts them over mini-batches, and would skip optimizer steps.
                per_device_train_batch_size=len(rows),
                gradient_accumulation_steps=1,
                **case["args"],
            ),
            processing_class=tokenizer,
            model=policy,
            ref_model=reference,
            reward_model=reward_model,
            value_model=critic,
            train_dataset=Dataset.from_list([{"input_ids": row["prompt"].tolist()} for row in rows]),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    back = torch.tensor(case["found"]).argsort()
    return {
        "raw_advantages": whitened[0][0][back],
        "advantages": whitened[0][1][back],
        "policy": policy.state_dict(),
        "critic": critic.state_dict(),
        "log": trainer.state.log_history[0],
    }


if __name__ == "__main__":
    assert trl.__version__ == "1.12.0", f"{sys.argv[1]} holds trl {trl.__version__}, not 1.12.0"
    torch.set_num_threads(1)
    torch.save([trained(case) for case in torch.load(sys.argv[2], weights_only=False)], sys.argv[3])
