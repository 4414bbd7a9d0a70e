"""ITPO in TRL: its ``GRPOTrainer`` with turn-level advantages, a process reward model beside the policy, and simulated users.

Sampling (vLLM too), padding, losses, KL, accelerate, checkpoints and trackers are TRL's.
"""

from itpo.integrations.trl.config import ITPOConfig
from itpo.integrations.trl.conversations import Conversations, outcome_reward
from itpo.integrations.trl.trainer import ITPOTrainer

__all__ = ["Conversations", "ITPOConfig", "ITPOTrainer", "outcome_reward"]
