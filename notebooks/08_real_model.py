# %% [markdown]
# # A real language model
#
# The notebooks before this one train tiny models that know a few hundred words. **Does the same code train a language model that
# learned to write elsewhere, and what does that cost?**
#
# | profile | model | task | users | for |
# |---|---|---|---|---|
# | `smol` | SmolLM2-135M-Instruct, from a package | math tutoring, in plain English | scripted | 2 CPU cores, under an hour; a GPU |
# | `consumer` | Qwen2.5-3B-Instruct in 4 bits | the paper's, on its data | the policy's own base, adapters off | one GPU of 24 GB |
# | `smoke` | as `smol` | as `smol` | scripted | to see that it works, in a few minutes |
#
# Marks: [P] the paper's abstract and captions, [C] its released code, [S] secondary sources, [O] our own choice.

# %% [markdown]
# **What `smol` can show, and what it cannot.** It shows that policy, PRM and reference live on one set of weights, that turns
# of real text get rewards, and what a step takes. It compares no methods: one seed and a few hundred dialogues say nothing about
# that. `-p steps 200` is a longer run, for a GPU. The problems have one step, as the simplest of GSM8K: for more, a model of
# this size is too weak, and one that never succeeds learns nothing.

# %% tags=["parameters"]
profile = "smol"
task = ""  # another of the profile's tasks
model = ""  # another base: a folder, or a name on the hub
data = ""  # a file or folder with the examples of consumer's task, instead of the hub
steps = 0  # of training, instead of as many as the profile says
gpu = 0.0  # GiB of the card: as many dialogues and tokens at a time as fit it, instead of the profile's

# %%
import torch
from IPython.display import HTML, Markdown, clear_output

from itpo.figures import conversations, results
from itpo.figures import real as draw
from itpo.figures.publishing.registry import publish
from itpo.figures.style import use_style
from itpo.models import memory
from itpo.runs.paths import runs_root
from itpo.runs.sweep import sweep
from itpo.study import real_run, reward_dynamics, tables, transcripts
from itpo.study.profiles import get_real_profile
from itpo.trainer import train
from itpo.training import profiling
from itpo.training.build import trained

use_style("08_real_model")
scale = real_run.adjusted(get_real_profile(profile), task, model, data, steps, gpu)
run = scale.run

# %% [markdown]
# ## 1. One base, several adapters
#
# QLoRA [O] instead of the full fine-tuning of the released code [C]: the base is frozen, and each part that learns is a small
# adapter on all of its linear layers. The reference is the base without any adapter. So $q_t$ of (1) compares two answers of the
# same weights, and a switch between policy, PRM and reference moves no memory.
#
# A model of this size does not tutor by itself. As with the tiny model, it first imitates the noisy expert for a few steps, who
# asks, and seldom repairs (`itpo.models.imitation`) [O]. The result is the base and the reference of both runs. The task is that
# of notebook 02 in other words (`itpo.tasks.prose`).

# %%
on_gpu = torch.cuda.is_available()
runs = sweep(runs_root(), scale.grid(), train, workers=1 if on_gpu else None)  # a GPU holds one run at a time
clear_output()
Markdown(tables.scale_note(scale))

# %%
Markdown(tables.markdown(tables.settings_text(scale.methods)))

# %% [markdown]
# ## 2. A learning curve
#
# **Question.** Does the policy get better? **Method.** At regular steps it talks, sampling at temperature 1, to users of
# problems that it is not trained on, the same ones each time. **How to read it.** Bars: Wilson's 95 % interval over the problems
# of one evaluation. They say how well *this* policy was measured. What another seed would have given they do not say, and with
# one seed nothing here does.

# %%
measured = tables.evaluations(runs)
what = run.task.name.removesuffix("_prose")
publish(
    draw.success,
    "F04_learning_curves_real",
    profile,
    f"F4 on a real model. Outcome on {run.eval_dialogues} fresh problems against training step, {what}, "
    f"{run.prompts} x {run.rollouts} dialogues a step, RLOO, one seed. Bars: 95 % interval over the problems.",
    frame=measured,
)

# %% [markdown]
# The trained policies once more, on twice the problems, sampled and greedy:

# %%
text, numbers = real_run.before_and_after(runs)
note = (
    f"Outcome on fresh problems, {run.eval_dialogues} before and {2 * run.eval_dialogues} after training by {run.steps} steps of "
    f"{run.prompts * run.rollouts} dialogues; 95 % interval over problems; one seed. Before: sampled at temperature 1."
)
Markdown(tables.write_table(text, numbers, "T_real_model", scale, note))

# %% [markdown]
# ## 3. Dialogues before and after
#
# **Method.** The base and the policy that Norm-ITPO trained talk to the same users about the same fresh problems. **Which one is
# shown?** The first whose conversation *before* training leaves an answer unrepaired and has $R\le0.5$; the conversation after
# training is shown whatever it is. The user is on the left, the assistant on the right. Above each of its turns: what it does, and
# its weight $w_k=\mathrm{softmax}_k(R_k/\eta)$ (5) by the PRM that the run ended with; the darker, the larger.

# %%
norm_itpo = next(one for one in runs if one.config.method.name == "norm_itpo")
learner, count = trained(norm_itpo), min(32, run.eval_dialogues)
before = transcripts.hold(learner, None, count, "before and after")
after = transcripts.hold(learner, "policy", count, "before and after")
chosen, rule = transcripts.choose(before)
messages = transcripts.table({"before training": before[chosen], "after training": after[chosen]})
caption = f"F22 on a real model. The same problem and user ({what}) before and after training by Norm-ITPO. Chosen: {rule}. "
caption += "Shade and number: weight (5) by the PRM that the run ended with. Magenta: a missed repair."
publish(conversations.picture, "F22_dialogues_real", profile, caption, messages=messages)
HTML(conversations.html(messages))

# %% [markdown]
# ## 4. Turn rewards on real text (F2)
#
# **Question.** How does the PRM's opinion of one dialogue form? **Method.** As in notebook 03: a fixed dialogue of the base, and
# the implicit rewards (2) and (4) under the PRM at several steps of training, divided at each step by the largest absolute value in
# the dialogue. **How to read it.** Along the axis stand the assistant's tokens, which are pieces of words here; white lines part
# the turns. Blue is praise, red is blame. Above: turns, below: tokens. The PRM of `smol` has seen a few hundred dialogues when
# the run ends, so look for how it works and not for wisdom.

# %%
watched = reward_dynamics.read_monitor(norm_itpo)
case, rule = reward_dynamics.choose_case(watched)
publish(
    results.reward_dynamics,
    "F02_reward_dynamics_real",
    profile,
    "F2 on a real model. Relative implicit rewards of one dialogue of the monitor set over training, turns (above) against tokens (below); "
    f"Norm-ITPO, {run.steps} steps, one seed; blue: praise, red: blame. Magenta: a missed repair. The case: {rule}.",
    **reward_dynamics.case_frames(watched, case),
)

# %% [markdown]
# How good is that PRM? Every dialogue is predicted *before* the PRM learns from it. AUC: the probability that a successful
# dialogue is ranked above a failed one, 0.5 by chance.

# %%
auc = tables.curves([norm_itpo], "prm_auc")
half = auc["step"].max() // 2
early, late = auc.loc[auc["step"] < half, "value"].mean(), auc.loc[auc["step"] >= half, "value"].mean()
Markdown(
    f"{tables.mark(scale)}Mean AUC before step {half}: {early:.2f}; from there on: {late:.2f} "
    f"(batches of {run.prompts * run.rollouts} dialogues)."
)

# %% [markdown]
# ## 5. Memory and time per part
#
# **Method.** Seconds: the mean over the steps of the runs above, which shared the machine. Memory: bytes of what is held all the
# time, and the most that a rollout and an update add to it while they run, measured on this machine with one batch of Norm-ITPO.
# **How to read it.** Held and *one* of the peaks are needed at a time.

# %%
took, needed = profiling.seconds(runs), profiling.memory(learner)
where = torch.cuda.get_device_name() if on_gpu else "CPU, one thread a run, two runs at a time"
size = f"{run.prompts * run.rollouts} dialogues a step, at most {run.token_budget} tokens a pass"
publish(
    draw.costs,
    "F_costs_real",
    profile,
    f"Left: seconds of a training step by part ({where}, {size}). Right: memory by part, Norm-ITPO; dark: held all the time, "
    "light: added at most while a rollout or an update runs.",
    seconds=took,
    memory=needed,
)

# %% [markdown]
# What other models need on a card of 24 GiB is computed from their shapes, by the formula that the tests hold against measured
# peaks. How much of a step fits at a time, with the dialogues of `consumer`, and for its own model the parts in GiB:

# %%
work, settings = memory.of_run(get_real_profile("consumer").config("norm_itpo", seed=0))
for name in ("Qwen/Qwen2.5-3B-Instruct", "Qwen/Qwen3-4B", "Qwen/Qwen2.5-7B-Instruct"):
    print(name, memory.choose(memory.find_shape(name), work, 24.0), sep="\n    ")

print(memory.report("Qwen2.5-3B", memory.find_shape("Qwen/Qwen2.5-3B-Instruct"), work, settings, 24.0))

# %% [markdown]
# ## Exercises
#
# **1.** How many problems must an evaluation have before its 95 % interval is at most 5 points wide on either side?
#
# <details><summary>Solution</summary>
#
# The half-width is about $1.96\sqrt{p(1-p)/n}$, largest at $p=0.5$, which gives about 400 problems. Check it:
#
# ```python
# from itpo.study.statistics import share_interval
#
# print([(n, share_interval(0.5, n).text(digits=2)) for n in (64, 128, 400, 1600)])
# ```
# </details>
#
# **2.** Your dialogues are twice as long. What of a step fits the card of 24 GiB now, and which part of the memory grew?
#
# <details><summary>Solution</summary>
#
# The base and its adapters stay; the cache of the dialogues and the inputs of the layers grow with the length.
#
# ```python
# from dataclasses import replace
#
# longer, shape = replace(work, response=2 * work.response), memory.find_shape("Qwen/Qwen2.5-3B-Instruct")
# print(memory.report("Qwen2.5-3B", shape, longer, memory.choose(shape, longer, 24.0), 24.0))
# ```
# </details>

# %% [markdown]
# ## To go on
#
# - `itpo export` writes the policy as a PEFT folder with a model card, for others to load.
# - `papermill notebooks/08_real_model.ipynb out.ipynb -p profile consumer` is the replication on one GPU, at the paper's sizes.
#   `-p task documents` is another of its tasks, `-p model Qwen/Qwen3-4B -p gpu 24` another base, with as much of a step at a
#   time as the card holds. **It has not been run by us**: no such GPU was at hand.
# - What departs from the released settings is listed in `docs/gpu.md`.
