"""Where the base model comes from: its corpus, its tokenizer, its training, its card."""
