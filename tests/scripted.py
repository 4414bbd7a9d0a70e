"""Conversations by hand with the users of scripted tasks."""

import random

from itpo.dialogue import Message


def hear(task, example, *turns, seed=0):
    """The user's replies to these assistant turns, one after another."""
    rng = random.Random(seed)
    messages, replies = task.opening(example), []
    for turn in turns:
        messages.append(Message("assistant", turn))
        replies.append(task.reply(example, messages, rng))
        messages.append(Message("user", str(replies[-1])))
    return replies


def conversation(*texts):
    """Messages of user and assistant in turns, the user first."""
    return [Message(("user", "assistant")[i % 2], text) for i, text in enumerate(texts)]
