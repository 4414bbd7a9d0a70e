"""Conversations: the sampler, users and judges played by language models, and what they replied."""
