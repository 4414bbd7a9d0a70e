# %% [markdown]
# # One training, line by line
#
# A language model talks with a user over several turns. At the end comes one number: did it go well? **Which of the turns
# earned it?** This notebook trains a small model by Norm-ITPO, which answers that question with a second model, in about a
# minute, with nothing to download. Each line of the algorithm is a cell that you can run, change and run again.

# %% [markdown]
# The words, once:
#
# - The *policy* is the model that is trained; the *reference* is the same model before training, and stays as it is.
# - A *dialogue* alternates between user and policy. It ends with an *outcome* $R$, here 1 or 0.
# - The *process reward model* (PRM) is a third model that starts as the reference. It learns to predict $R$. Where it gives a
#   token a higher probability than the reference does, it believes that this token makes success more likely.
# - *Norm-ITPO* sums that belief over each turn and splits the outcome over the turns accordingly.
# - *RLOO* subtracts what the other dialogues with the same user got. What is left, the *advantage*, trains the policy.

# %% tags=["colab"]
import sys

if "google.colab" in sys.modules:  # installs the library beside the torch that Colab has
    import subprocess
    from importlib.metadata import version

    source = input("Address of the repository that this notebook is from (https://...): ")
    wanted = [f"itpo[report,train] @ git+{source}", f"torch=={version('torch')}"]
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *wanted], check=True)

# %% tags=["parameters"]
profile = "laptop"

# %%
import matplotlib.pyplot as plt
import pandas as pd
import torch

from itpo import estimators, turns
from itpo.attribution import get_method
from itpo.config import Method, RunConfig, TaskSpec
from itpo.figures.style import use_style
from itpo.rollout.seeding import seeded
from itpo.runs.paths import runs_root
from itpo.runs.store import Store
from itpo.specs import TinyLM
from itpo.study.statistics import share_interval
from itpo.trainer import reward_sources, training_step
from itpo.training.build import build_learner
from itpo.training.evaluation import describe
from itpo.training.profiling import Timer
from itpo.training.sharing import hold

use_style("01_training")
torch.set_num_threads(1)

# %% [markdown]
# ## The task
#
# A visitor walks down a corridor and says what is ahead: a door of some colour, or an open hall. Each colour opens to one
# action (red: push, blue: pull, green: slide, black: knock). Nobody says so, and the visitor walks on whatever happens. Only
# at the end it turns out whether *both* doors opened. In a hall anything goes; some have a sign that names an action, and obeying it
# earns nothing.
#
# So two of six turns decide, and they come first. A method that gives all six turns the same credit rewards the policy for
# chatting in halls.

# %%
task = TaskSpec("corridor", {"turns": 6, "pivots": 2, "position": "early"})
small = profile == "smoke"
config = RunConfig(
    Method("norm_itpo", beta=0.2, policy_lr=2e-3),
    seed=0,
    steps=2 if small else 30,
    task=task,
    model=TinyLM(48, 2, 4, steps=50 if small else 1500, dialogues_per_step=8, learning_rate=4e-3),
    max_turn_tokens=6,
    prompts=8,
    rollouts=8,
    policy_minibatches=2,
    prm_minibatches=4,
    warmup=5,
)

# %% [markdown]
# `RunConfig` is everything that decides the numbers. `build_learner` makes the reference first, where it is missing: a model
# of 60 thousand weights that imitates a clumsy scripted player (15 seconds). Policy and PRM are LoRA adapters on it.

# %%
learner = build_learner(config, Store(runs_root()))
{name: sum(p.numel() for p in learner.backbone.parameters(name).values()) for name in learner.backbone.names}

# %% [markdown]
# Before training:

# %%
dialogues, batch = learner.collect("look", 100, 1, "policy", evaluate=True)
print("\n".join(f"{message.role:>9}: {message.content}" for message in dialogues[0].messages))
print(f"\noutcome of this dialogue {dialogues[0].outcome:g}, mean of 100: {batch.outcome.mean():.2f}")

# %% [markdown]
# ## One step of Algorithm 1
#
# The PRM has seen nothing yet. It first learns from a few batches of the reference's dialogues [O]; then the steps begin.
# `stream` names the step and decides all its random draws.

# %%
for number in range(config.warmup):
    stream = f"{config.seed}/warmup/{number}"
    training_step(learner, stream, Timer(), hold(learner, None, stream, config.prompts, config.rollouts))
stream = f"{config.seed}/0"

# %% [markdown]
# **1. Roll out, and score.** Eight users, eight dialogues with each. The eight of one user are a *group*.

# %% tags=["step"]
dialogues, batch = learner.collect(stream, config.prompts, config.rollouts, "policy")

# %%
outcomes = batch.outcome.view(config.prompts, config.rollouts)
pd.DataFrame(outcomes.int().tolist()).rename_axis("user").rename_axis("outcomes of its dialogues", axis=1)

# %% [markdown]
# **2. Update the PRM** on these outcomes: equation (3), binary cross-entropy of $\sigma(\beta\sum_t q_t)$, where
# $q_t=\log\pi_\phi-\log\pi_{ref}$ is the log-ratio of a token (1). It learns *before* its rewards are used [C].

# %% tags=["step"]
reference = learner.log_probs(batch, None)
metrics = learner.update_prm(batch, reference, stream)

# %%
print(
    f"loss {metrics['prm_loss']:.2f} nats; it ranks a success above a failure with probability {metrics['prm_auc']:.2f}"
)

# %% [markdown]
# **3. Read its rewards**: $r_t=\beta q_t$ for each token of the policy (2).

# %% tags=["step"]
batch, signals, _ = learner.signals(dialogues, batch, reference, stream)

# %% [markdown]
# **4. Attribute.** $R_k$ is the sum of $r_t$ over turn $k$ (4), $w_k=\mathrm{softmax}_k(R_k/\eta)$ its weight (5), and $w_kR$
# its reward (6). `reward_sources` does that, and takes off a small penalty for length.

# %% tags=["step"]
sources = reward_sources(config, batch, signals, seeded(stream, "attribution"))

# %%
scores, has_turn = turns.aggregate(signals["token_rewards"], batch.turn_ids), turns.turn_mask(batch.turn_ids)
weights = turns.normalize(scores, has_turn, config.method.options["temperature"])
won = next((row for row, outcome in enumerate(batch.outcome.tolist()) if outcome == 1), 0)
lines = [message.content for message in dialogues[won].messages]
pd.DataFrame({"user": lines[::2], "policy": lines[1::2], "weight": weights[won].tolist()}).round(3)

# %% [markdown]
# *What to see:* the weights add up to 1: they are shares of the outcome. Turns at a door are those that matter; has this young PRM
# found them?
#
# **5. Advantages.** RLOO subtracts the mean of the seven other dialogues of the group, sums from each token on, and scales
# the batch to mean 0 and variance 1.

# %% tags=["step"]
credit = estimators.estimate(
    config.estimator.name,
    sources,
    response_mask=batch.response_mask,
    group_size=batch.group_size,
    **config.estimator.options,
)

# %%
first = [credit.advantages[row][batch.response_mask[row]][0].item() for row in range(config.rollouts)]
pd.DataFrame(
    {"outcome": batch.outcome[: config.rollouts].tolist(), "advantage of its first token": first}
).round(2)

# %% [markdown]
# **6. Update the policy**, in two minibatches: tokens with a positive advantage become more likely, within a clipped range.

# %% tags=["step"]
metrics |= learner.update_policy(batch, credit.advantages, reference, stream)

# %% [markdown]
# ## All steps
#
# These six cells are `itpo.trainer.training_step`, and `itpo.trainer.train` is a loop around it that also writes checkpoints.
# A test holds the cells equal to the function. Now the other steps, in a few seconds:

# %%
history = [describe(batch)["success"]]
for step in range(1, config.steps):
    _, metrics = training_step(learner, f"{config.seed}/{step}", Timer())
    history.append(metrics["success"])

# %%
intervals = [share_interval(success, config.prompts * config.rollouts) for success in history]
color = get_method("norm_itpo").color
figure, axes = plt.subplots(figsize=(4.5, 2.6))
axes.plot(history, color=color)
axes.fill_between(
    range(len(history)), [i.low for i in intervals], [i.high for i in intervals], alpha=0.2, color=color
)
_ = axes.set(
    xlabel="step",
    ylabel="success",
    ylim=(0, 1),
    title=f"Share of {config.prompts * config.rollouts} dialogues in which both doors open",
)

# %%
print(f"success in the first step {history[0]:.0%}, in the last one {history[-1]:.0%}")

# %% [markdown]
# *What to see:* whether the policy learned to open both doors. The band is a 95 % interval of a share of the dialogues of a step.
#
# Did the PRM find the turns that matter? The mean reward $R_k$ of each turn, now, in dialogues of the
# *reference* that succeeded or failed:

# %%
dialogues, batch = learner.collect("look at the PRM", 200, 1, None, evaluate=True)
rewards = learner.token_rewards(batch, learner.log_probs(batch, None))
scores = turns.aggregate(rewards, batch.turn_ids)
by_turn = pd.DataFrame(
    {"success": scores[batch.outcome == 1].mean(0), "failure": scores[batch.outcome == 0].mean(0)},
    index=pd.Index(range(1, 7), name="turn"),
)
by_turn.assign(difference=by_turn["success"] - by_turn["failure"]).round(2)

# %%
apart = (by_turn["success"] - by_turn["failure"]).abs()
print(
    f"difference at the doors (turns 1 and 2) {apart[:2].mean():.2f}, in the halls {apart[2:].mean():.2f} logits"
)

# %% [markdown]
# *What to see:* whether the turns at the doors carry the difference between success and failure. Nobody told the PRM which
# turns those are: it had outcomes alone.

# %% [markdown]
# ## Change one thing
#
# **1.** Replace `Method("norm_itpo", ...)` by `Method("trajectory_share", policy_lr=2e-3)`, which gives every token the whole
# outcome. Which of the cells above then do nothing? Is the curve worse?
#
# <details><summary>Solution</summary>
#
# `update_prm` returns at once and `signals` is empty, since the method reads outcomes only. One run of each decides nothing: the
# bands of one curve speak of its dialogues, not of other seeds. Notebook 02 asks the question with care.
# </details>
#
# **2.** Write a method of your own: a function from signals to rewards.
#
# <details><summary>Solution</summary>
#
# In a file `mine.py`:
#
# ```python
# from itpo.attribution import MethodEntry, turns
#
# def first_turn(outcome, turn_ids):
#     """The whole outcome at the end of the first turn."""
#     weights = turns.turn_mask(turn_ids).float()
#     weights[:, 1:] = 0
#     return turns.place_at_turn_ends(weights * outcome[:, None], turn_ids)
#
# ENTRY = MethodEntry("first_turn", "First turn", first_turn, "turn", version=1)
# ```
#
# Then `Method("mine:ENTRY", version=1)` trains, in this notebook, in a sweep, and from the command line.
# </details>
