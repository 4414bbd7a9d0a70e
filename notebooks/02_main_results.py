# %% [markdown]
# # Main results: does it matter which turn is rewarded?
#
# Six methods of rewarding the turns of a dialogue under one estimator (RLOO): first on math tutoring, looked at closely, then on
# document writing and medical recommendation. That is the RLOO part of the paper's Table 1; notebook 05 has the other
# estimators, and notebook 07 shows the three tasks themselves. All six methods see the same problems, the same users and the
# same outcome at the end of a dialogue. They differ only in how that one number becomes rewards:
#
# | method | rewards of a dialogue with outcome R | where |
# |---|---|---|
# | Trajectory-share | R | last token |
# | Uniform decomposition | R, split at random | end of each turn |
# | LLM-as-a-judge | R, split in proportion to a judge's scores | end of each turn |
# | PRIME | the token's implicit reward (2) | every assistant token |
# | ITPO | their sum over the turn (4) | end of each turn |
# | Norm-ITPO | R, split by the turn weights (5)-(6) | end of each turn |
#
# The seventh method, *Value model*, needs the critic of PPO and is in notebook 05. No language model judges here: the judge is
# scripted, knows the rules of the task, and a share of its scores is wrong (`error_rate`, 0.2) [O]. How good a judge the
# paper's is on its own tasks, we do not know.
#
# **Claims to test.** C1: Norm-ITPO beats trajectory-share. C2: it beats ITPO (notebook 05 has this under each estimator). C3:
# turn-wise rewards beat token-wise ones (PRIME). C4: uniform and judge decompositions give no reliable gain.
#
# Marks: [P] the paper's abstract and captions, [C] its released code, [S] secondary sources, [O] our own choice.

# %% tags=["parameters"]
profile = "laptop"

# %%
import numpy as np
import pandas as pd
from IPython.display import Markdown, clear_output, display

from itpo.config import allows
from itpo.figures import results as draw
from itpo.figures.publishing.registry import publish
from itpo.figures.style import use_style
from itpo.runs.paths import runs_root
from itpo.runs.sweep import sweep, sweep_groups
from itpo.study import claims, tables
from itpo.study.profiles import get_profile
from itpo.study.statistics import bootstrap_coverage
from itpo.study.tables import Column
from itpo.tasks.registry import TASKS, get_entry
from itpo.trainer import train

use_style("02_main_results")
scale = get_profile(profile)

# %% [markdown]
# ## 1. The runs
#
# Every method with every seed. A run that the store holds is loaded; what is missing is trained now, two processes at a time. A
# seed decides the adapters' initial values, the training problems, the users and all sampling. The fresh problems are the
# same for all.

# %%
runs = sweep(runs_root(), scale.grid(), train)
clear_output()
Markdown(tables.scale_note(scale))

# %% [markdown]
# **Settings of each method.** `coef` weighs the method's own rewards, `outcome_coef` the outcome as a second source beside them;
# `beta` is that of (2)-(3). Options are those of the method alone: `temperature` is the eta of (5), `reduction` that of (4).
# Methods without a process reward model (PRM) ignore `beta`. `coef` 5 and `temperature` 0.4 are those of the released math
# runs [C]; the released runs of ITPO on math add no outcome source, and its PRM has a smaller `beta` [C]. What departs from that
# is our choice [O].

# %%
methods = [method for method in scale.methods if allows("rloo", method.name)]
Markdown(f"{tables.markdown(tables.settings_text(methods))}\n\n{tables.tuning_text(scale.run.task.name)}")

# %% [markdown]
# ## 2. Learning curves
#
# **Question.** Does a method learn faster, or reach a higher level? **Method.** At regular steps the policy talks, sampling
# at temperature 1, to users of problems that it is never trained on. Success is the share of dialogues that end in the right
# answer. This is measured on fresh problems, not on training batches, so nothing is smoothed. **How to read it.** One
# panel for each method, in its colour; dashed, for comparison, the mean of trajectory-share. Thick: mean over seeds. Thin: each
# seed. Shaded: 95 % t-interval of the mean. Two overlapping bands do *not* show that two methods are equal: they share
# seeds, and the paired differences of section 3 are sharper than the bands.

# %%
curves = tables.curves(runs, "eval_success")
band = tables.bands(curves)
publish(
    draw.learning_curves,
    "F04_learning_curves",
    profile,
    f"F4. Success on {scale.run.eval_dialogues} fresh problems against training step, RLOO, math tutoring. A panel for "
    "each method; dashed: the mean of trajectory-share. Thick: mean over seeds; thin: each seed; shaded: 95 % t-interval of the mean, "
    "cut off where it leaves the range of the runs.",
    band=band,
    seeds=curves,
)

# %% [markdown]
# ## 3. Table 1
#
# **What is measured.** *Success, sampled*: the trained policy on fresh problems, at temperature 1, as it was
# trained. *Greedy*: the same problems, the likeliest token each time. *Mean over training*: the area under a run's learning
# curve divided by its length, which rewards early learning and forgives a bad last step. *Gain*: difference to
# trajectory-share **paired by seed**, in points of sampled success.
#
# **Which interval?** The unit of repetition is the training run, so n is the number of seeds, and it is small. A percentile
# bootstrap of n values can never reach beyond the smallest and the largest of them. If all happen to fall on one side of the
# true mean (probability $2^{1-n}$ for a symmetric distribution), so does the whole interval. Student's t-interval assumes
# normal differences instead, and under that assumption it keeps its 95 % at any n. **The t-interval is our main one**, and
# every verdict uses it; the bootstrap stands beside it as the lower bound on our uncertainty that it is here.

# %%
n = len(scale.seeds)
Markdown(
    f"With n = {n} seeds the nominal 95 % bootstrap interval can cover at most **{bootstrap_coverage(n):.0%}**. One final "
    f"measurement of {2 * scale.run.eval_dialogues} dialogues has a sampling error of up to "
    f"{50 / np.sqrt(2 * scale.run.eval_dialogues):.1f} points of its own, some of it common to all runs."
)

# %% [markdown]
# **How to read it.** Mean [95 % t-interval]. The last two columns are what secondary sources report for the paper's math task
# [S]: another task (problems of MATH with a simulated student), another model (3 B parameters), not checked against the
# paper, and quoted without an interval. Compare the *order* of the methods and the *sign* of the gains with ours, never
# the values.

# %%
frame = tables.results(runs)
table = tables.main_table(frame, np.random.default_rng(0))
note = (
    f"Mean [95 % t-interval] over {n} seeds; gains are paired by seed. [S]: secondary sources, another task and scale, not "
    "checked against the paper: compare order and sign only."
)
text = tables.as_text(table, tables.main_columns(table))
Markdown(tables.write_table(text, table, "T1_math_rloo", scale, note))

# %%
Markdown(claims.order_text(table, scale))

# %% [markdown]
# ## 4. How good was the PRM?
#
# PRIME, ITPO and Norm-ITPO can be no better than the model that judges their tokens. **Method.** Every training dialogue is
# scored by the PRM *before* it learns from it, so these are predictions of unseen outcomes. **How to read it.** AUC: the
# probability that a successful dialogue is ranked above a failed one, 0.5 by chance. Kendall's tau-b: the same ranking on a
# scale whose largest value depends on the success rate (notebook 04 takes it apart).

# %%
quality = [tables.METHOD, Column("AUC", "auc", 1.0, 3), Column("Kendall's tau-b", "tau", 1.0, 3)]
Markdown(tables.markdown(tables.as_text(table[table["auc_n"] > 0], quality)))

# %% [markdown]
# ## 5. What this says about C1 to C4
#
# **The rule**, fixed before the numbers. For a claimed *gain*: if the 95 % t-interval of the difference paired by seed lies
# above 0, the claim is replicated; below 0, not replicated; if it contains 0, inconclusive at this scale. C4 claims the
# *absence* of a gain, which a wide interval must not pass: it is replicated only if the interval ends below the smallest gain
# that would matter, for which we take the one reported for Norm-ITPO [S]. It is tested for both decompositions. C3 has two
# readings. ITPO against PRIME changes the granularity alone; Norm-ITPO against PRIME changes the use of the outcome too. Six
# intervals are looked at and none is widened for that.

# %%
verdicts = claims.method_verdicts(frame)
rules = f"Rule for C1 to C3: {verdicts[0].rule}. Rule for C4: {verdicts[-1].rule}."
Markdown(f"{claims.verdict_text(verdicts, scale)}\n\n{rules}")

# %% [markdown]
# And the same claims by the mean success over training. It averages over many evaluations and so has less noise, but it is
# another question: not where a method ends, but how it got there.

# %%
Markdown(claims.verdict_text(claims.method_verdicts(frame, "speed"), scale))

# %% [markdown]
# ## 6. The other two tasks
#
# **Question.** Is math tutoring a special case? **Method.** The same six methods on two more scripted tasks, whose users, scores
# and dialogues are in notebook 07. *Documents*: the outcome is the character BLEU of the last draft, a share between 0 and 1
# instead of a yes or no. *Medical*: points for diagnosis and remedy, 0 to 10, divided by 10. Both tasks pass the same testbed checks as
# math (`itpo check documents`). Each method was tuned on each task with the same budget, as in section 1.

# %%
others = {task: scale.on(task) for task in TASKS if task != scale.run.task.name}
entries = {task: get_entry(task) for task in TASKS}
grids = sweep_groups(runs_root(), {task: there.grid() for task, there in others.items()}, train)
clear_output()
frames = {task: tables.results(there) for task, there in grids.items()}
for task, there in others.items():
    methods = tables.settings_text([method for method in there.methods if allows("rloo", method.name)])
    title = f"{entries[task].title.capitalize()}, {len(there.seeds)} seeds"
    display(Markdown(f"**{title}**\n\n{tables.markdown(methods)}\n\n{tables.tuning_text(task)}"))

# %%
for task, there in grids.items():
    curves, entry = tables.curves(there, "eval_success"), entries[task]
    caption = f"F4 on {entry.title}. Mean {entry.outcome} on {scale.run.eval_dialogues} fresh problems against training step, "
    caption += "RLOO; dashed: trajectory-share. Thick: mean over seeds; thin: each seed; shaded: 95 % t-interval of the mean."
    drawn = {"band": tables.bands(curves), "seeds": curves, "measure": entry.outcome}
    display(publish(draw.learning_curves, f"F04_learning_curves_{task}", profile, caption, **drawn))

# %% [markdown]
# **Table 1, RLOO.** *How to read it.* As in section 3: mean [95 % t-interval] over seeds, gains paired by seed, and beside each
# task what secondary sources report for the paper's own [S]. The paper's documents and its patients are other data, its users
# and judges are language models: again, compare signs and orders only.

# %%
whole = tables.main_table(pd.concat([frame, *frames.values()]), np.random.default_rng(0))
seeds = whole.groupby("task", sort=False)["success_n"].max()
sizes = ", ".join(f"{entries[task].title} {count}" for task, count in seeds.items())
note = (
    f"RLOO; mean [95 % t-interval] over seeds ({sizes}), gains paired by seed. BLEU over characters. [S]: secondary sources, "
    "other data, users and models, not checked against the paper: compare order and sign only."
)
Markdown(tables.write_table(tables.tasks_text(whole), whole, "T1_rloo", scale, note))

# %%
for task, there in others.items():
    lines = whole[whole["task"] == task].reset_index(drop=True)
    display(Markdown(f"**{entries[task].title.capitalize()}.** {claims.order_text(lines, there)}"))
    display(Markdown(tables.markdown(tables.as_text(lines, tables.main_columns(lines)))))

# %% [markdown]
# **C1 to C4 on these tasks**, by the rule of section 5; the smallest gain that would matter is the one reported for
# Norm-ITPO on the task [S].

# %%
for task, results in frames.items():
    after = claims.verdict_text(claims.method_verdicts(results), scale)
    during = claims.verdict_text(claims.method_verdicts(results, "speed"), scale)
    title = entries[task].title.capitalize()
    display(
        Markdown(f"**{title}, after training**\n\n{after}\n\n**{title}, mean over training**\n\n{during}")
    )

# %% [markdown]
# ### A turn too few, or too many
#
# **Seen after the first results, and so an explanation, not a test.** On medical recommendation the methods that split the
# outcome over turns may end with fewer turns than trajectory-share: without the question about allergies, which decides 4 of
# 10 points for half of the patients. The released baseline [C] is subtracted at every reward, once a dialogue for
# trajectory-share but once a turn for a split (01_method), so that a further question has to earn its baseline. **Method.** Uniform
# decomposition and Norm-ITPO again with a baseline that is subtracted once a dialogue (`trajectory`), and with one that compares
# every turn with the others' turns of the same number (`to_go`, 01_method). **How to read it.** If the released baseline is the
# cause, turns rise with the other two. Whether that helps is another matter: without a baseline at every turn nothing keeps
# dialogues short, and a further turn dilutes the shares of those before it (notebook 05).

# %%
medical = others["medical"]
configs = {baseline: medical.unbiased(baseline) for baseline in ("trajectory", "to_go")}
unbiased = {name: tables.results(there) for name, there in sweep_groups(runs_root(), configs, train).items()}
clear_output()
rows = ["trajectory_share", "uniform", "norm_itpo"]
released = frames["medical"][frames["medical"]["row"].isin(rows)]
variants = tables.variant_table({"released": released} | unbiased)
note = (
    "RLOO on medical recommendation, the baseline subtracted at every reward (released), once a dialogue (trajectory), or so that each "
    "turn is compared with the others' turns of its number (to_go). Paired by seed."
)
text = tables.as_text(variants, tables.VARIANT_COLUMNS)
Markdown(tables.write_table(text, variants, "T1_medical_variants", medical, note))

# %% [markdown]
# Each run by itself, since one that collapses says more than a mean:

# %%
each = pd.concat([released, *unbiased.values()])[
    ["row", "baseline", "seed", "success", "greedy_success", "turns"]
]
Markdown(tables.markdown(each.round(3)))

# %% [markdown]
# ## What not to conclude
#
# The scripted tasks are built so that an early turn can decide the outcome; that is where turn-wise credit has something to
# gain, and a null result here would weigh more than a positive one. The policy is a small model trained from a warm start,
# with adapters [O]. The seeds vary training but not the fresh problems, so the intervals speak of these tasks only. And
# where a line above says *inconclusive*, it says that these seeds cannot tell, not that there is no difference. The judge's
# method says what a judge of this accuracy does on this task; a language model may err more often, and less evenly.
#
# Two choices bear on the turn-wise methods. The released baseline [C] is subtracted at *every* reward: once a dialogue for
# trajectory-share, once a turn for the methods that reward turns, which are thus penalised for asking one question more
# (01_method shows by how much; notebook 05 trains without that), and the skills that help here take a question each. And the
# settings of a method were chosen by its learning curve on the same fresh problems as F4, with one seed; the success after
# training in Table 1 is measured on others.
