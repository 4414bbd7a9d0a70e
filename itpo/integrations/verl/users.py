"""Dialogues with a user inside verl's rollout: an agent loop, and users that it may ask.

verl 0.9.1 has no interactions any more, on which the users of its collabllm recipe stood; an agent loop is what takes their
place. It is set in the file that ``actor_rollout_ref.rollout.agent.agent_loop_config_path`` names::

    - name: itpo_user
      _target_: itpo.integrations.verl.users.UserAgentLoop
      user:
        _target_: itpo.integrations.verl.users.served_user
        task: math
        url: http://127.0.0.1:8000/v1
        model: Qwen/Qwen2.5-14B-Instruct

with ``...rollout.agent.default_agent_loop=itpo_user`` and ``...rollout.multi_turn.max_assistant_turns=5``. Rows are those of
the recipe, whose ``extra_info.interaction_kwargs.single_turn_prompt`` is what only the user knows. ``user`` may be any object
with a method ``reply`` as that of :class:`ServedUser`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, cast
from uuid import uuid4

from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopOutput
from verl.utils.profiler import simple_timer

from itpo.dialogue import Message
from itpo.rollout.endpoint import EndpointModel, the_only
from itpo.rollout.parsing import read_response
from itpo.rollout.prompts import fill, transcript
from itpo.specs import Endpoint
from itpo.thoughts import split_thoughts


class ServedUser:
    """A user played by a model behind an OpenAI-compatible server, told what CollabLLM's rows tell it.

    ``task`` chooses the prompt (``itpo/rollout/prompts/user_<task>.txt``), ``endpoint`` the model.
    """

    def __init__(self, task: str, endpoint: Endpoint) -> None:
        self.task, self.model = task, EndpointModel(endpoint)

    def reply(self, messages: Sequence[Mapping[str, str]], row: Mapping[str, Any], seed: str) -> str | None:
        """What the user says next; ``None`` ends the dialogue.

        Raises ``ConnectionError`` where the server gives no readable reply, whereupon verl drops the prompt's rollouts, and
        ``ValueError`` for a row without a goal.
        """
        goal = ((row.get("extra_info") or {}).get("interaction_kwargs") or {}).get("single_turn_prompt")
        if not goal:
            raise ValueError(
                "a row has no extra_info.interaction_kwargs.single_turn_prompt, which is what its user wants: prepare the data "
                "as verl's collabllm recipe does"
            )
        said = [Message(cast(Any, m["role"]), split_thoughts(m["content"]).text) for m in messages]
        prompt = fill(f"user_{self.task}", goal=goal, conversation=transcript(said))
        number = random.Random(seed).getrandbits(31)
        return the_only(self.model.ask([[Message("user", prompt)]], [number], read_response))


@cache
def served_user(task: str, url: str, model: str, **settings: Any) -> ServedUser:
    """The one `ServedUser` of a process for these settings, which are those of :class:`itpo.specs.Endpoint`.

    >>> served_user("math", "http://127.0.0.1:9/v1", "any", temperature=0.5).task
    'math'
    """
    return ServedUser(task, Endpoint(url, model, **settings))


class UserAgentLoop(AgentLoopBase):
    """One dialogue: the policy and a user in turns, until the user ends it or the turns or tokens of the assistant run out.

    Tokens of the user have 0 in verl's ``response_mask``. A reply that would not fit any more is left out, so that a dialogue
    ends with the assistant.
    """

    def __init__(self, *args: Any, user: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.user, self.turns = user, self.rollout_config.multi_turn.max_assistant_turns
        if not self.turns:
            raise ValueError(
                "dialogues with users need actor_rollout_ref.rollout.multi_turn.max_assistant_turns: try 5"
            )

    async def run(self, sampling_params: dict[str, Any], **row: Any) -> AgentLoopOutput:
        """Hold the dialogue of one row of the dataset."""
        messages = list(row["raw_prompt"])
        ids = await self.ct_build_initial_tokens(messages)
        limit, request = self.rollout_config.response_length, uuid4().hex
        spent: dict[str, float] = {}
        mask: list[int] = []
        logprobs: list[float] | None = None
        extra: dict[str, Any] = {}
        for turn in range(1, self.turns + 1):
            with simple_timer("generate_sequences", spent):
                said = await self.server_manager.generate(
                    request_id=request, prompt_ids=ids, sampling_params=sampling_params
                )
            extra = {**said.extra_fields, **extra, **_latest(said.extra_fields)}
            if said.log_probs and turn == 1:
                logprobs = []
            merged, mask, logprobs = await self.ct_merge_assistant_token(
                ids, said.token_ids, mask, logprobs, assistant_logprobs=said.log_probs or None
            )
            ids = merged.token_ids
            if turn == self.turns or len(mask) >= limit:
                break
            messages.append(
                {
                    "role": "assistant",
                    "content": self.tokenizer.decode(said.token_ids, skip_special_tokens=True),
                }
            )
            seed = f"{row.get('uid')}/{row.get('session_id')}/{turn}"
            reply = await self.loop.run_in_executor(None, self.user.reply, messages, row, seed)
            if reply is None:
                break
            before, messages = messages, [*messages, {"role": "user", "content": reply}]
            merged, longer, logprobs_after = await self.ct_merge_context_msg(
                before, messages, ids, mask, logprobs
            )
            if len(longer) >= limit:
                break
            ids, mask, logprobs = merged.token_ids, longer, logprobs_after
        split = len(ids) - len(mask)
        return AgentLoopOutput(
            prompt_ids=ids[:split],
            response_ids=ids[split:][:limit],
            response_mask=mask[:limit],
            response_logprobs=logprobs[:limit] if logprobs else None,
            num_turns=2 * turn,
            metrics=spent,
            extra_fields={**extra, "turn_scores": [], "tool_rewards": []},
        )


def _latest(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Of what a rollout server notes: the version of the weights that spoke last."""
    key = "max_global_steps"
    return {key: fields[key]} if fields.get(key) is not None else {}
