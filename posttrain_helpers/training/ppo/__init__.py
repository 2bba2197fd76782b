"""PPO with a critic: configuration, rollouts, the trainer, and what it logs."""
