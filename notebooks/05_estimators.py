# %% [markdown]
# # Three estimators: what is subtracted from a reward
#
# **Does the estimator decide which credit helps?** The methods of Table 1 decide the *reward* of a turn. What the policy learns from is an *advantage*: reward minus what was to be
# expected anyway. The paper estimates advantages in three ways, RLOO, GRPO and PPO [P], and claims that Norm-ITPO beats
# trajectory-share under each (C1), and is at least as good as ITPO, most clearly under PPO (C2) [S]. The released code has
# RLOO only [C]; GRPO and PPO are ours, after the works they are named for [O].
#
# This notebook takes four rollouts through all three by hand, then compares what was trained. The rulings are in notebook 09.
#
# Marks: [P] the paper's abstract and captions, [C] its released code, [S] secondary sources, [O] our own choice.

# %% tags=["parameters"]
profile = "laptop"

# %%
import pandas as pd
import torch
from IPython.display import Markdown, clear_output

from itpo import advantages, attribution, turns
from itpo.dialogue import Dialogue, collate
from itpo.estimators import ESTIMATORS, Source, estimate, merge_length
from itpo.figures import comparison, method, results
from itpo.figures import estimators as pictures
from itpo.figures.publishing.registry import publish, publish_by_hand
from itpo.figures.style import use_style
from itpo.runs.paths import runs_root
from itpo.runs.sweep import sweep_groups
from itpo.study import claims, gains, reward_dynamics, tables
from itpo.study.experiment import Cell, configs, table_rate
from itpo.study.profiles import TABLE_1_NOTE, get_profile
from itpo.study.reported import REPORTED_TAU
from itpo.study.tables import Column
from itpo.tasks.registry import TASKS
from itpo.trainer import train

use_style("05_estimators")
scale = get_profile(profile)

# %% [markdown]
# ## 1. The same four rollouts under three estimators
#
# The four rollouts of 01_method, a group: rollouts of one prompt. `u` is a user token, `a` an assistant token. Their turn rewards
# $R_k$ are those of that notebook; Norm-ITPO splits each outcome $R$ in proportion to $w_k=\mathrm{softmax}_k(R_k/\eta)$, (5)-(6).


# %%
def written(pattern, outcome):
    """A dialogue without words, of which only the lengths of turns and the outcome matter."""
    mask = tuple(token == "a" for token in pattern)
    return Dialogue(None, (), tuple(range(len(mask))), mask, (0.0,) * len(mask), outcome)


patterns = {"uaaa": 1.0, "uaauaa": 0.0, "uaauaaauaa": 1.0, "uaauaauaaauaa": 0.5}
batch = collate([written(*pair) for pair in patterns.items()], group_size=4, pad_id=0)
ids, mask, ends = batch.turn_ids, batch.response_mask, attribution.reward_mask("turn", batch.turn_ids)
has_turn = turns.turn_mask(ids)
turn_scores = torch.tensor([[0.9, 0, 0, 0], [0.1, -0.9, 0, 0], [0, 1.2, -0.05, 0], [0.15, -0.4, 0.45, 0.05]])
weights = turns.normalize(turn_scores, has_turn, temperature=0.4)
rewards = turns.place_at_turn_ends(weights * batch.outcome[:, None], ids)


# %%
def by_turn(values):
    """A (B, K) table, one line a rollout, empty where there is no turn."""
    names = [f"{name}: R = {R:g}" for name, R in zip("ABCD", batch.outcome.tolist(), strict=True)]
    table = pd.DataFrame(values.tolist(), index=names, columns=[f"turn {k + 1}" for k in range(4)])
    return table.where(has_turn.numpy()).style.format("{:+.3f}", na_rep="")


by_turn(turns.aggregate(rewards, ids))

# %% [markdown]
# *What to see:* the reward of each turn. Each line adds up to its outcome.
#
# ### RLOO: the others' mean
#
# RLOO compares a rollout with the $n-1$ others of its group. There are three ways to subtract the baseline from a dialogue:
#
# - **released** [C]: at *every* reward, $\tilde r=\frac n{n-1}r-\frac1{n-1}\sum_jm_j$ with $m_j$ the mean reward of rollout
#   j;
# - **trajectory**: once, at the last reward, the mean *total* of the others. This is leave-one-out on whole dialogues;
# - **to_go** [O]: from the sum of rewards from the k-th on is subtracted the others' mean sum from their own k-th reward on, as far as
#   they have one.

# %%
released = advantages.rloo(rewards, ends, 4, "released")
by_turn(turns.aggregate(released, ids)).set_caption("RLOO, released: a baseline at every turn")

# %%
by_trajectory = advantages.rloo(rewards, ends, 4, "trajectory")
by_turn(turns.aggregate(by_trajectory, ids)).set_caption("RLOO, trajectory: a baseline at the last turn")

# %%
to_go = advantages.rloo(rewards, ends, 4, "to_go")
by_turn(turns.aggregate(to_go, ids)).set_caption("RLOO, to_go: each turn against those of its number")

# %% [markdown]
# *What to see:* in the first table every turn bears the same baseline, in the second only the last turn of each rollout does.
# The return of a turn's tokens is the sum from there on (`advantages.returns`), so a baseline at the end reaches every turn
# once, and a baseline at every turn reaches the first turn as often as there are turns. In the third the baselines from a turn to the
# end add up to what the others had still to come at that turn: the first turn has the same return as in the second table, later ones
# have not.
#
# ### GRPO: mean and spread of the group
#
# GRPO subtracts the mean over *all reward positions of the group* (ten turns here) and divides by their standard deviation
# [O].

# %%
mean, spread = rewards[ends].mean(), rewards[ends].std()
by_turn(turns.aggregate(advantages.grpo(rewards, ends, 4), ids)).set_caption(
    f"GRPO: (reward - {mean:.3f}) / {spread:.3f}, at every turn"
)

# %% [markdown]
# *What to see:* this baseline too is subtracted at every turn, and so more often from a long dialogue.
#
# ### PPO: a critic
#
# PPO asks a learned value function: how much reward is still to come from here? We write one down, the same for all tokens of a
# turn. Before the first turn it must say the same of all four, since nothing has been said yet; later it may tell them apart.

# %%
critic = torch.tensor([[0.6, 0, 0, 0], [0.6, 0.3, 0, 0], [0.6, 0.6, 0.2, 0], [0.6, 0.4, 0.4, 0.1]])
values = critic.gather(1, ids.clamp(min=0)) * mask
by_turn(critic).set_caption("The critic's guess of what is still to come, before each turn")

# %% [markdown]
# Generalised advantage estimation sums the surprises $\delta_t=r_t+V_{t+1}-V_t$ over the assistant tokens to come,
# $A_t=\sum_l(\gamma\lambda)^l\,\delta_{t+l}$, with $\gamma=1$. At $\lambda=1$ the sum telescopes to *what did come* minus
# $V_t$: no trust in later values. At $\lambda=0$ only the next surprise counts: full trust in the critic.


# %%
def by_token(values):
    """A line for each rollout and a column for each token, empty at the user's."""
    table = pd.DataFrame(values.masked_fill(~mask, torch.nan).tolist())
    names = [f"{name}: $R$ = {R:g}" for name, R in zip("ABCD", batch.outcome.tolist(), strict=True)]
    table.insert(0, "dialogue", names)
    return table


gae = {lam: advantages.gae(rewards, values, mask, lam=lam)[0] for lam in (1.0, 0.0)}
method.token_grid(by_token(gae[1.0]), r"advantage, $\lambda=1$ [outcome]")
# %%
method.token_grid(by_token(gae[0.0]), r"advantage, $\lambda=0$ [outcome]")
# %% [markdown]
# *What to see:* at $\lambda=1$ all tokens of a turn share one number. At $\lambda=0$ only a turn's last token has one,
# because our critic changes its mind only between turns: B's first turn is blamed for bringing the value down from 0.6 to 0.3
# without earning anything. The advantage of D's first turn is almost 0, although the dialogue ended below expectation.
#
# ### All together
#
# `estimate` is what the trainer calls: baseline, sum over what is to come, and whitening (RLOO and PPO; GRPO is already
# scaled).

# %%
source = Source("method", rewards, ends)
given = {
    "response_mask": mask,
    "group_size": 4,
    "values": values[None],
}  # one layer for each source of reward
credit = {
    "RLOO released": estimate("rloo", [source], **given),
    "RLOO trajectory": estimate("rloo", [source], **given, baseline="trajectory"),
    "RLOO to_go": estimate("rloo", [source], **given, baseline="to_go"),
    "GRPO": estimate("grpo", [source], **given),
    "PPO $\\lambda$ = 1": estimate("ppo", [source], **given, lam=1.0),
    "PPO $\\lambda$ = 0": estimate("ppo", [source], **given, lam=0.0),
}
places = has_turn.nonzero().tolist()
table = pd.DataFrame([("ABCD"[b], k + 1) for b, k in places], columns=["dialogue", "turn"])
table["reward"] = turns.aggregate(rewards, ids)[has_turn]
for name, estimated in credit.items():
    table[name] = turns.aggregate(estimated.advantages, ids, "mean")[has_turn]

# %%
publish_by_hand(
    pictures.turn_credit,
    "estimators_turn_credit",
    profile,
    "Made-up dialogues A to D: reward of each turn (black on white) and the advantage of its tokens under each estimator, coloured. Mean "
    "over the turn's tokens; PPO at lambda 0 gives them unequal ones.",
    table=table,
)

# %% [markdown]
# *What to see:* A and C both succeed, and the baselines `trajectory` and `to_go` and PPO at $\lambda=1$ give their first turns the same
# advantage. The estimators with a baseline at every turn give the one-turn dialogue A a much larger one than the three-turn dialogue
# C; and D, a half success in four turns, begins no better than the failure B (GRPO), or worse (released RLOO).

# %% [markdown]
# ## 2. Why the estimator may change how long dialogues get
#
# The shares of Norm-ITPO (and of any decomposition) add up to $R$, however many turns there are. Stop at turn k, and with equal
# weights the return of its tokens is $R/k$; go on to turn K at the same outcome, and it is $R\,(K-k+1)/K$, which is larger. To
# lengthen a dialogue then looks like an achievement of the turn that did it. A baseline at every turn works against that; a critic, or
# a baseline once a dialogue, need not. Trajectory-share has no such effect: the return of every turn is $R$.
#
# By the real functions: eight rollouts of one prompt, a success and a failure each with 2, 3, 4 and 5 turns, equal weights.
# The critic says of a turn, by its number only, what is still to come on average.

# %%
lengths = [2, 3, 4, 5]
alike = collate([written("ua" * K, R) for K in lengths for R in (1.0, 0.0)], group_size=8, pad_id=0)
at_turns = attribution.reward_mask("turn", alike.turn_ids)
shares = attribution.norm_itpo(torch.zeros(at_turns.shape), alike.outcome, alike.turn_ids, temperature=1.0)
to_come = advantages.returns(shares, at_turns)
by_number = (to_come.sum(0) / at_turns.sum(0).clamp(min=1)) * at_turns

# %%
options = {
    "RLOO, released": ("rloo", {"baseline": "released"}),
    "RLOO, trajectory": ("rloo", {"baseline": "trajectory"}),
    "RLOO, to_go": ("rloo", {"baseline": "to_go"}),
    "GRPO": ("grpo", {}),
    "PPO": ("ppo", {"values": by_number[None]}),
}
lines = {"turns": lengths}
source, given = Source("method", shares, at_turns), {"response_mask": alike.response_mask, "group_size": 8}
for name, (estimator, extra) in options.items():
    advantage = estimate(estimator, [source], **given, **extra).advantages
    lines[name] = advantage[::2, 3].tolist()  # of the successes, the fourth token: it is the second turn
table = pd.DataFrame(lines)

# %%
publish_by_hand(
    pictures.credit_by_length,
    "estimators_length",
    profile,
    "A made-up group: advantage of the second turn of successful dialogues by their number of turns, equal shares. A line for each "
    "estimator, and for each baseline of RLOO; those of `trajectory`, `to_go` and PPO lie close together.",
    table=table,
    ylabel="advantage of turn 2",
)

# %% [markdown]
# *What to see:* the outcome is the same along every line. Where a line rises, a turn is praised for making the dialogue
# longer; where it falls, for keeping it short; neither is what the outcome asked for. With a critic, or with the baselines
# `trajectory` and `to_go`, it rises all the way. With the same baseline at every turn it hardly rises and then falls. Section 5
# looks for it in training.

# %% [markdown]
# ## 3. What else differs in training
#
# **PPO has a critic.** A third adapter on the same frozen base, with a linear head that reads a value at every assistant token. Where a
# method has a second source of reward (PRIME and ITPO have the outcome beside their own rewards [O]), each source gets a head of its
# own. The critic learns before the first step from a few batches of the reference, as the PRM does [O]; a value may move only so far in
# one update (*value clipping*). Numbers of this profile:

# %%
names = ["critic_lr", "critic_minibatches", "critic_clip_norm", "value_clip", "warmup"]
numbers = {name: getattr(scale.run, name) for name in names} | ESTIMATORS["ppo"].options
Markdown(tables.markdown(pd.DataFrame([numbers])))

# %% [markdown]
# **GRPO forgets scale.** Every source is divided by its own standard deviation, so that its coefficient cancels. That is
# harmless for one source. But the tiny length penalty ($5\cdot10^{-6}$ a token [S]) would be enlarged too, if it were a
# source of its own:

# %%
penalty = turns.place_at_turn_ends(batch.response_lengths[:, None] * turns.token_share(ids), ids)
own, length = Source("method", 5 * rewards, ends), Source("length", -5 * 5e-6 * penalty, ends)
merged = merge_length([own, length])[0]
lines = []
for name, source in {"reward": own, "penalty": length, "both in one": merged}.items():
    normalised = advantages.grpo(source.rewards, source.positions, 4)
    before, after = (values[source.positions].std().item() for values in (source.rewards, normalised))
    numbers = {"s.d.": before, "normalised": after, "times": after / before}
    lines.append({"source": name} | {title: f"{number:.2g}" for title, number in numbers.items()})
Markdown(tables.markdown(pd.DataFrame(lines)))

# %% [markdown]
# *What to see:* the penalty of these toy turns grows ten thousandfold relative to what it was, and only the $10^{-8}$ in the
# denominator keeps it from the size of the rewards; with turns of usual length nothing does. So under GRPO and PPO the penalty joins
# the method's own rewards (`merge_length`).

# %% [markdown]
# ## 4. Table 1 under three estimators
#
# Every method that an estimator can train, on three tasks, at one learning rate a task: the best one for trajectory-share
# (notebook 02). The rewards of *Value model* are the TD errors of a critic, so that it exists under PPO only. Runs that the store
# holds are loaded, others are trained now.

# %%
grids = {(name, task): scale.on(task).grid(name) for name in ESTIMATORS for task in TASKS}
to_go = configs(scale, Cell("math", "norm_itpo_to_go", table_rate(scale, "math")), scale.seeds)
runs = sweep_groups(runs_root(), grids | {"to_go": to_go}, train)
clear_output()
Markdown(tables.scale_note(scale))

# %% [markdown]
# **How to read it.** A line of panels for each task, a column for each estimator. Small dots are seeds, a large dot is their mean.
# Zero is trajectory-share *under the same estimator*, paired by seed. A dot far to the left is a run that collapsed. An interval within
# the grey zone is no difference that matters; one that only crosses zero leaves the question open.

# %%
frame = pd.concat([tables.results(runs[cell]) for cell in grids], ignore_index=True)
publish(
    comparison.table_dots,
    "T1_dots",
    profile,
    f"Table 1: gain on trajectory-share under the same estimator by the mean outcome of training, in points, {len(scale.seeds)} seeds. Small "
    "dots: seeds; large dots: means; bars: 95 % t-intervals; black line: trajectory-share; grey: below 3 points. "
    f"{TABLE_1_NOTE}",
    **gains.table_dots(frame),
)

# %% [markdown]
# The numbers behind it. Values of secondary sources [S] are known for two methods of GRPO and PPO only (a dash elsewhere). They are of
# other tasks and models, and not checked against the paper: compare signs, never values.

# %%
table = tables.main_table(frame)
text = tables.as_text(table, [Column("task", "task"), *tables.estimator_columns(table)])
note = (
    f"Mean [95 % interval] over {len(scale.seeds)} seeds; gains are paired by seed within task and estimator. "
    "[S]: secondary sources, other tasks and scale, not checked against the paper: compare signs only. "
    f"{TABLE_1_NOTE}"
)
Markdown(tables.write_table(text, table, "T1_estimators", scale, note))

# %% [markdown]
# ### How training goes
#
# As F4 in notebook 02: coloured the method of the column, with the 95 % interval over seeds; thin and black trajectory-share
# under the same estimator.


# %%
def speed_curves(estimator, number, name):
    caption = (
        f"F{number}. Mean outcome of the {scale.run.prompts * scale.run.rollouts} dialogues of each training step, "
        f"{ESTIMATORS[estimator].label}, {len(scale.seeds)} seeds. Coloured: the method of the column, mean over seeds; shaded: its 95 % "
        f"interval, within 0 and 1; thin black: mean of trajectory-share under the same estimator. {TABLE_1_NOTE}"
    )
    curves = gains.speed_curves({task: runs[estimator, task] for task in TASKS})
    return publish(comparison.speed_curves, name, profile, caption, band=curves)


speed_curves("grpo", 8, "F08_speed_grpo")
# %%
speed_curves("ppo", 9, "F09_speed_ppo")
# %% [markdown]
# ### How much does the critic know?
#
# **Method.** Explained variance, $1-\mathrm{Var}(G-V)/\mathrm{Var}(G)$, over the assistant tokens of a fresh batch of math tutoring,
# before the critic learns from it; all sources together. **How to read it.** 1: the critic foresees every return. 0: it knows no more than
# a constant. Below 0: it misleads. Methods differ in *what* is to be foreseen: the outcome itself (trajectory-share, value
# model), what is left of it (uniform, judge, Norm-ITPO), or the PRM's rewards with it (PRIME, ITPO). A low value need not be the critic's
# fault, for outcomes also hang on luck that comes later.

# %%
explained = tables.bands(tables.curves(runs["ppo", "math"], "explained_variance", smooth=3))
publish(
    pictures.explained_variance,
    "estimators_explained_variance",
    profile,
    "Explained variance of PPO's critic on batches of math tutoring that it has not learned from; centred mean over three batches, mean "
    "over seeds. Dashed and upright: where training begins. At 0 the critic knows no more than a constant.",
    band=explained,
)

# %% [markdown]
# ### Does the implicit return still rank dialogues?
#
# Notebook 04 explains Kendall's tau-b, its ceiling, and both panels; here are the same pictures for the methods with a PRM under
# GRPO and PPO. The PRM learns by (3) under every estimator: what differs is the policy whose dialogues it reads.


# %%
def kendall(estimator, number, name):
    ranked = [r for r in runs[estimator, "math"] if attribution.get_method(r.config.method.name).needs_prm]
    monitored = reward_dynamics.monitor_curves(ranked)
    bands = {
        "batches": tables.bands(tables.curves(ranked, "prm_kendall", smooth=3), kind="correlation"),
        "monitor": tables.bands(monitored, kind="correlation"),
    }
    ceilings = reward_dynamics.tau_ceilings(ranked, monitored, smooth=3)
    caption = (
        f"F{number}. Kendall's tau-b between implicit return and outcome, {ESTIMATORS[estimator].label}, math tutoring: on fresh training "
        "batches before the PRM learns from them (left; centred mean over three batches) and on the monitor set (right). Lines: means over "
        "seeds; shaded: 95 % intervals; dotted: the ceiling, tau of a perfect ranking; 0: chance; hatched: range in secondary sources [S]."
    )
    drawn = bands | {"ceilings": ceilings, "reported": REPORTED_TAU}
    return publish(results.kendall_over_training, name, profile, caption, **drawn)


kendall("grpo", 10, "F10_kendall_grpo")
# %%
kendall("ppo", 11, "F11_kendall_ppo")
# %% [markdown]
# ## 5. Do dialogues get longer?
#
# **Question.** Section 2 expects that a decomposition lengthens dialogues without a baseline at every turn, and less or not at all
# with one. **Method.** Assistant turns of the training dialogues, math tutoring. Trajectory-share, which has no such effect, is the
# control; uniform decomposition has the same dilution without any knowledge of turns. Under `to_go` Norm-ITPO alone was trained;
# for trajectory-share all baselines of RLOO are the same. **How to read it.** Compare the distance between Norm-ITPO and
# trajectory-share across panels, not their heights: how long a dialogue must be to succeed is a matter of the task.

# %%
shown = (tables.BASELINE, "uniform", "norm_itpo")
of_math = {
    name: [run for run in runs[name, "math"] if run.config.method.name in shown] for name in ESTIMATORS
}
control = [run for run in of_math["rloo"] if run.config.method.name == tables.BASELINE]
settings = {
    "RLOO, released": of_math["rloo"],
    "RLOO, to_go": control + runs["to_go"],
    "GRPO": of_math["grpo"],
    "PPO": of_math["ppo"],
}
curves = pd.concat([tables.curves(group, "turns").assign(setting=name) for name, group in settings.items()])
publish(
    pictures.turns_over_training,
    "estimators_turns",
    profile,
    "Assistant turns of the training dialogues by step, math tutoring; mean and 95 % t-interval over seeds, cut off where it leaves the "
    "range of the means.",
    band=tables.bands(curves[curves["step"] >= 0], by=["setting", "row"]),
)

# %% [markdown]
# **What the numbers say**, on fresh dialogues after training: Norm-ITPO minus trajectory-share, paired by seed.

# %%
final = {name: tables.results(group) for name, group in settings.items()}
Markdown(claims.turns_text(final, scale))

# %% [markdown]
# A ruling *longer* for the settings without a baseline at every turn (`to_go`, PPO), and not for those with one, is what section 2
# expects; any other pattern speaks against it, or is too faint for these seeds. Longer is not worse by itself: in this
# task the repairs that save a dialogue cost a turn each.

# %% [markdown]
# ## What not to conclude
#
# - **Not that one estimator is better than another.** The learning rate was chosen for trajectory-share under RLOO and is used under
#   all three [O]. An estimator that suits it less is at a disadvantage.
# - **Not that an open ruling is equality.** Only an interval within the grey zone says that a difference is small.
# - **Not that these are the paper's GRPO and PPO.** Both are ours, after the works they are named for; the paper's settings for them are
#   not known to us.
# - **Not that the effect of section 2 explains a difference in outcomes.** It predicts a direction for the number of turns, on a
#   made-up group; in training, success moves the number of turns too.

# %% [markdown]
# ## Exercises
#
# **1.** Give rollout C of section 1 a fourth turn without any reward. Which of the other rollouts' numbers change under `released`, `trajectory`
# and GRPO?
#
# <details><summary>Solution</summary>
#
# Under `released` all of them: the mean reward of C is lower, and every turn of every rollout is compared with that mean. Under
# GRPO too, since mean and spread are those of all turns. Under `trajectory` none: the total of C is the same as before, and only
# its own baseline moves to its new last turn.
# </details>

# %% [markdown]
# **2.** All four rollouts succeed, and Norm-ITPO splits the outcome 1 of each by its weights. No dialogue is better than another: are all
# returns 0?
#
# <details><summary>Solution</summary>
#
# ```python
# shares = turns.place_at_turn_ends(weights, ids)
# for baseline in ("released", "trajectory", "to_go"):
#     left = advantages.rloo(shares, ends, 4, baseline)
#     print(baseline, advantages.returns(left, mask)[mask].round(decimals=2).tolist())
# ```
#
# Only under `trajectory` and `to_go`, and only at first turns. `released` pushes the first turn of the shortest dialogue up and that of the
# longest down. `trajectory` pushes every later turn down, since its baseline is charged whole when part of the outcome has been paid.
# Under `to_go` later turns are compared with those of their number.
# </details>
