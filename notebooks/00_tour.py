# %% [markdown]
# # A tour of ITPO: one conversation, and which turn earned its outcome
#
# A user wants something and says too little. An assistant asks, hears, guesses, answers. At the very end one number comes
# back: it went well, or it did not. **Which turn made the difference?** That is the question of *Implicit Turn-Wise Policy
# Optimization* (ITPO), and this notebook follows one failed and one successful conversation through its answer.
#
# It takes about a minute on one core and trains nothing that is used elsewhere. Marks say where a number or a definition
# comes from: [P] the paper's abstract and captions, [C] its released code, [S] secondary sources, [O] our own choice.

# %% tags=["parameters"]
profile = "laptop"

# %%
import random
from dataclasses import replace

import pandas as pd
import torch

from itpo import attribution, turns
from itpo.advantages import returns
from itpo.figures import method as draw
from itpo.figures.publishing.registry import publish
from itpo.figures.style import use_style
from itpo.models.tiny import load, pretrain_by_imitation
from itpo.rollout.seeding import seeded
from itpo.runs.paths import runs_root
from itpo.runs.store import Store
from itpo.specs import TinyLM
from itpo.study.profiles import get_profile
from itpo.tasks.registry import get_task
from itpo.tasks.slots import PolicyParams
from itpo.training.learner import Learner

use_style("00_tour")
torch.set_num_threads(1)

# %% [markdown]
# ## 1. A user who hides the numbers
#
# The scripted task [O] is a caricature of math tutoring. The user tells a word problem without its two numbers. Asked for
# one, the user states it, is vague about it ("quite a few"), or gives a doubtful and mostly wrong value ("maybe 3"). Only the
# very next turn can repair that: *exactly how many ?* or *are you sure ?* A turn too late, and the number is lost for good.
#
# The assistant is a language model of two layers that has imitated a scripted tutor, one who repairs only every other such
# answer. To keep the tour short, it is smaller than the base model of the later notebooks and has learned less, so expect
# blunders, wrong sums among them.

# %%
store, task = Store(runs_root()), get_task("math")
tiny = TinyLM(layers=2, steps=1200, dialogues_per_step=8, learning_rate=5e-3)
params = PolicyParams(clarify=0.5, verify=0.5, shortcut=0.05, chat=0.1, swap=0.3)  # [O], for this tour only
made_from = {"model": tiny, "params": params}
folder = store.artifact("tour", made_from, lambda new: pretrain_by_imitation(task, params, tiny, new))
config = replace(get_profile("laptop").config("norm_itpo", seed=0), model=tiny)
learner = Learner(config, *load(folder), store.root)

# %% [markdown]
# Now 256 conversations with it. None of them will be used for learning.

# %%
dialogues, batch = learner.collect("tour/show", prompts=256, rollouts=1, adapter=None)
pd.DataFrame(
    {
        "conversations": [len(batch)],
        "success": batch.outcome.mean().item(),
        "tokens": batch.lengths.sum().item(),
    }
)

# %% [markdown]
# **Which two do we look at?** Not the ones that suit us: the rule is fixed before any credit is computed. An expert tutor,
# asked at every turn, shows where one of the two repair skills was called for: that turn is, by the task's rules,
# the **pivotal turn**. Among the conversations with exactly one call, before the last turn, that end in an answer and in
# which no number was simply assumed, we take the first *failed* one in which the call was missed, and the first *successful*
# one in which it was met.


# %%
def calls(dialogue):
    """Turns (from 0) at which the expert would use a skill: asked on the history before each turn."""
    histories = [dialogue.messages[: 2 * k + 1] for k in range(dialogue.assistant_turns)]
    expert = [task.scripted_policy(dialogue.example, h, random.Random(0), task.expert) for h in histories]
    return [k for k, text in enumerate(expert) if task.act(text) in task.skills]


def acts(dialogue):
    return [task.act(m.content) for m in dialogue.messages if m.role == "assistant"]


# %%
fair = [i for i, d in enumerate(dialogues) if acts(d)[-1] == "answer" and "assume" not in str(acts(d))]
one_call = {i: calls(dialogues[i])[0] for i in fair if len(calls(dialogues[i])) == 1}
pivot = {i: k for i, k in one_call.items() if k < dialogues[i].assistant_turns - 1}
met = {i: acts(dialogues[i])[k] in task.skills for i, k in pivot.items()}
lost = next(i for i in pivot if not met[i] and dialogues[i].outcome == 0)
won = next(i for i in pivot if met[i] and dialogues[i].outcome == 1)


def read(i):
    """A conversation as a table, its pivotal turn marked."""
    says = [{"": m.role, "says": m.content} for m in dialogues[i].messages]
    says[2 * pivot[i] + 1][""] = "assistant (pivotal)"
    return pd.DataFrame(says).style.hide().set_properties(**{"text-align": "left"})


# %%
read(lost).set_caption(
    f"Outcome {dialogues[lost].outcome:g}; the answer was {dialogues[lost].example.answer}"
)

# %%
read(won).set_caption(f"Outcome {dialogues[won].outcome:g}; the answer was {dialogues[won].example.answer}")

# %% [markdown]
# ## 2. Who chose which token
#
# The policy is responsible for the tokens it sampled and for no others. The *response mask* marks them, and `turns.turn_ids`
# numbers the unbroken runs: the index sets $T_k$ of equation (4). The user's words and the markers around them (white) are
# read as context and earn nothing. A turn's closing `<|end|>` was sampled too: to stop talking is a choice.

# %%
words = {i: learner.chat.tokenizer.convert_ids_to_tokens(dialogues[i].ids) for i in (lost, won)}
ids = {i: turns.turn_ids(batch.response_mask)[i, : len(words[i])].tolist() for i in (lost, won)}
draw.token_text(pd.DataFrame({"token": words[lost], "turn": [k + 1 for k in ids[lost]]}))
# %% [markdown]
# ## 3. A judge that nobody wrote
#
# Take a second model $\pi_\phi$, equal to the frozen reference $\pi_{ref}$ at first. Read the log-ratio of a conversation as
# a prediction of its outcome, and train that prediction by cross-entropy [S][C]:
#
# $$q_t=\log\pi_\phi(a_t\mid s_t)-\log\pi_{ref}(a_t\mid s_t),\qquad r_t=\beta\,q_t,\qquad
# L_\phi=\mathrm{BCE}\Big(\sigma\big(\beta\textstyle\sum_t q_t\big),\,R\Big).\tag{1-3}$$
#
# It learns only how whole conversations ended, yet its prediction is a sum over tokens. That is the *implicit process reward
# model* (PRM). Here it sees 24 batches of 128 conversations of the reference, each predicted before it is learned from.

# %%
history = []
for number in range(24):
    _, seen = learner.collect(f"tour/{number}", config.prompts, config.rollouts, adapter=None)
    metrics = learner.update_prm(seen, learner.log_probs(seen, None), f"tour/{number}")
    history.append({"batch": number, **metrics})

# %%
learning = pd.DataFrame(history)
draw.prm_learning(learning)
# %%
thirds = learning.groupby(learning["batch"] // 8)[["prm_auc", "prm_loss"]].mean()
thirds.set_axis(["batches 0-7", "8-15", "16-23"]).round(3)

# %% [markdown]
# AUC is the chance that a conversation which succeeds gets the higher prediction; 0.5 is blind guessing. It scatters, for
# only a fraction of 128 conversations succeed, and it stays below 1 for a reason: a lucky guess and an unlucky one look
# alike.
#
# ## 4. Token rewards
#
# Equation (2) on the failed conversation. Blue: the PRM finds the token more likely in a success than the reference does.
# Red: less likely. Nobody labelled a token.

# %%
token_rewards = learner.token_rewards(batch, learner.log_probs(batch, None))
rewards = {i: token_rewards[i, : len(words[i])] for i in (lost, won)}
tokens = {"token": words[lost], "turn": [k + 1 for k in ids[lost]], "value": rewards[lost].tolist()}
publish(
    draw.token_text,
    "tour_tokens",
    profile,
    "Token rewards (2) of a failed conversation (turn 0: the user).",
    tokens=pd.DataFrame(tokens),
    label=r"token reward $r_t$ (2) [logits]",
)
# %% [markdown]
# ## 5. Turn rewards, and the posterior of the pivotal turn
#
# A token is too small a thing to praise. ITPO adds up each turn (4); Norm-ITPO reads the sums as evidence and asks how
# probable it is that turn $k$ is *the* pivotal one (5), at a temperature $\eta$ (0.4 in the released runs [C]):
#
# $$R_k=\sum_{t\in T_k} r_t,\tag{4}$$
# $$w_k=\mathrm{softmax}_k(R_k/\eta).\tag{5}$$
#
# A low temperature bets everything on one turn, a high one splits evenly. The pivotal turn is written in orange.

# %%
temperatures = (0.1, 0.4, 1.0, 4.0)
scores, has_turn = turns.aggregate(token_rewards, batch.turn_ids), turns.turn_mask(batch.turn_ids)
weights = torch.stack([turns.normalize(scores, has_turn, eta) for eta in temperatures])


def credit(i, title):
    """The rewards and weights of a conversation's turns, as they are drawn."""
    texts = [m.content for m in dialogues[i].messages if m.role == "assistant"]
    columns = {"dialogue": title, "text": texts, "pivotal": [k == pivot[i] for k in range(len(texts))]}
    columns |= {"reward": scores[i, has_turn[i]].tolist()}
    columns |= {f"{eta:g}": weights[e, i, has_turn[i]].tolist() for e, eta in enumerate(temperatures)}
    return pd.DataFrame(columns)


# %%
table = pd.concat([credit(lost, "failed: the call was missed"), credit(won, "succeeded: the call was met")])
caption = "Turn rewards (4) of two conversations and the weights (5) they become; the pivotal turn in orange."
publish(draw.turn_credit, "tour_turns", profile, caption, turns=table)

# %% [markdown]
# **Does the PRM find the pivot?** Two conversations prove nothing. So: over all that pass the same rule, how often has the
# pivotal turn the lowest $R_k$ where it was missed and the conversation failed, and the highest where it was met and
# succeeded? Chance is one over the number of turns.


# %%
def hit_rate(numbers, best):
    hits = [int(best(scores[i][has_turn[i]])) == pivot[i] for i in numbers]
    chance = [1 / dialogues[i].assistant_turns for i in numbers]
    return {
        "conversations": len(numbers),
        "pivot found": pd.Series(hits).mean(),
        "chance": pd.Series(chance).mean(),
    }


missed = [i for i in pivot if not met[i] and dialogues[i].outcome == 0]
taken = [i for i in pivot if met[i] and dialogues[i].outcome == 1]
pd.DataFrame(
    [hit_rate(missed, torch.argmin), hit_rate(taken, torch.argmax)], index=["missed, lowest", "met, highest"]
).round(2)

# %% [markdown]
# Two things to take along. First, compare the two lines. What follows a miss is doomed whatever is said, but to ask *are you
# sure ?* only keeps hope alive: the sum may still go wrong.
#
# Second, look at the failed conversation's weights. A turn that spoils everything has a *low* $R_k$, hence a *low* weight:
# (5) finds the turn that speaks most for success, not the one to blame. In a failure Norm-ITPO has no outcome to share
# anyway.
#
# ## 6. The rewards of each method of Table 1
#
# The methods of the paper's main table differ in how they turn one outcome $R$ into rewards: $R$ at the end, a random split, a
# split in proportion to a judge's scores, $r_t$ at every token (PRIME), $R_k$ at turn ends (ITPO), or $w_kR$ at turn ends
# (Norm-ITPO, (6)) [S]. Our judge is scripted: it knows the rules of the task, and a fifth of its scores are wrong [O]. One method
# is missing here: *Value model* reads a critic, which only PPO has (notebook 05).

# %%
signals = {"outcome": batch.outcome, "turn_ids": batch.turn_ids, "response_mask": batch.response_mask}
signals |= {"token_rewards": token_rewards, "temperature": 0.4, "generator": seeded("tour", "split")}
_, signals["judge_scores"], _ = learner.judge_turns(dialogues, batch, "tour")

# %%
titles = {lost: "failed, $R=0$", won: "succeeded, $R=1$"}
lines = []
for name in (name for name, method in attribution.METHODS.items() if not method.needs_values):
    rewards = attribution.attribute(name, **signals)
    to_go = returns(rewards, batch.response_mask)
    for i, title in titles.items():
        places = [(t, k + 1) for t, k in enumerate(ids[i]) if k >= 0]
        lines += [(name, title, t, turn, rewards[i, t].item(), to_go[i, t].item()) for t, turn in places]

# %%
draw.rewards(pd.DataFrame(lines, columns=["row", "dialogue", "token", "turn", "reward", "return"]))

# %% [markdown]
# Bars are rewards, dashes the *return* of a token: the sum of the rewards from there to the end, which is what the policy gradient
# sees. Under trajectory-share every token of the success has the same return. Norm-ITPO gives the same total, divided over the
# turns: a turn near the end sees only what is still to come. In the failure the rewards of all methods that share $R$ out are 0;
# there the blame comes from the comparison with other rollouts of the same prompt. PRIME and ITPO do blame turns, on a scale
# that nothing fixes.
#
# ## Where to go from here
#
# - **01_training**: Algorithm 1 line by line, on a model that learns within a minute.
# - **01_method**: every equation on four conversations small enough to check by hand.
# - **02 and later**: the main results with seeds and intervals, then how rewards behave during training.
# - **05**: what changes when the advantages are estimated by GRPO or PPO instead of RLOO.
