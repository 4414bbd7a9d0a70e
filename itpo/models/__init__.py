"""Base models: loading, adapters on a frozen base, optimizers, the tiny model, imitation, memory."""
