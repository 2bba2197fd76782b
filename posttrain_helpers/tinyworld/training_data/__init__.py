"""What methods learn from in the known world: preferences, prompts and judgements.

What the builders have in common:

- `n_prompts`: how many prompts; `seed`: of prompts, replies and whatever else is drawn;
- `policy`: the stage whose replies are compared or chosen from; `profile`: what stage names refer to;
- `samples`: replies for each prompt; `sampling_temperature`: of the policy;
- `label_temperature`: of the annotators, in units of the gold score;
- they return rows, the held-out suites by name, each made when it is asked for, those of `tasks` among them,
  and, where replies are sampled, for each reason the number of prompts that gave no row.
"""
