"""What methods learn from in the known world: preferences, prompts and judgements."""
