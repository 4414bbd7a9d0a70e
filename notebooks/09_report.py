# %% [markdown]
# # The replication report
#
# Does the paper's claim hold here, and why, or why not? The answer first; below it the pictures, then the tables. Everything follows from
# `docs/protocol.md`, which was written before the runs. Notebooks 02, 05, 06 and 13 show the parts.

# %% tags=["parameters"]
profile = "laptop"

# %%
import pandas as pd
from IPython.display import Markdown, clear_output, display

from itpo.estimators import ESTIMATORS
from itpo.figures import comparison
from itpo.figures import estimators as pictures
from itpo.figures.publishing.registry import publish
from itpo.figures.style import use_style
from itpo.runs.paths import runs_root
from itpo.runs.store import Store
from itpo.runs.sweep import sweep, sweep_groups
from itpo.study import (
    credit_tables,
    ledger,
    ledger_rewards,
    microscope,
    microscope_tables,
    oracle,
    report,
    tables,
)
from itpo.study.agreement import RANK_COLUMNS, agreement, trained_gains, training_ranks
from itpo.study.experiment import get_experiment
from itpo.study.oracle import OracleConfig
from itpo.study.profiles import TABLE_1_NOTE, get_profile
from itpo.study.tables import Column
from itpo.tasks.registry import TASKS, get_entry
from itpo.trainer import train

use_style("09_report")
scale = get_profile(profile)

# %%
band = get_experiment(profile).band(scale)
grids = {(name, task): scale.on(task).grid(name) for name in ESTIMATORS for task in TASKS}
runs = sweep_groups(runs_root(), band | grids, train)
frame = ledger.read([run for group in runs.values() for run in group])

turnwise = {
    task: [run for run in runs["rloo", task] if run.config.method.name in ledger_rewards.JUDGED]
    for task in TASKS
}
many = credit_tables.CONTINUATIONS[profile][0]
truths = {task: [OracleConfig(run.config, continuations=many) for run in turnwise[task]] for task in TASKS}
measured = sweep_groups(runs_root(), truths, oracle.measure)

batches, policies, table_batches = (4, (0, 1, 2), 2) if profile == "smoke" else (48, (0, 6, 12), 24)
gradients = sweep(
    runs_root(), microscope.measurements(scale, policies, batches, table_batches), microscope.measure
)
clear_output()

# %%
effects = [ledger.effects(frame, scale)]
for task in TASKS:
    fidelity = credit_tables.fidelity_table(turnwise[task], measured[task])
    effects.append(ledger_rewards.reward_effects(task, runs["rloo", task], scale))
    effects.append(ledger_rewards.agreement_effects(task, fidelity, scale))
effects = pd.concat(effects, ignore_index=True)
ruled, by_cell = ledger.ledger(effects, scale), ledger.cell_table(effects, scale)
worths = microscope.worth_table(gradients)
shown = ("norm_itpo", "norm_itpo_to_go", "itpo", "signed_norm_itpo")
Markdown(report.answers(ruled, by_cell, scale, microscope_tables.findings(worths, shown, "policies")))

# %% [markdown]
# ## 1. The ledger in one picture
#
# **How to read it.** A line for each claim; the mark is its effect, the bar its 95 % interval, in points of the outcome. Right of
# 0: as claimed; C4 claims *no gain*, and holds left of 0 too. In the grey zone a difference would not matter. A claim about
# collapses is better to the right too: fewer of them. Primary claims are adjusted together by Holm; the others stand by their own
# intervals, and some of so many will leave 0 out by chance.

# %%
main = ruled["claim"].isin(["C2", "C3", "C4", "further", "best of the sweep"]) | (
    ruled["family"] == "primary"
)
main |= ruled["claim"].isin(["P1", "P7"]) & (ruled["part"] == "level")
caption = (
    f"The ledger: effect of each claim in points, {len(scale.seeds)} or {len(get_experiment(profile).band_seeds)} seeds on three tasks "
    f"(best of the sweep: {len(get_experiment(profile).sweep_seeds) // 2}). Marks: mean over tasks of means over seeds; bars: 95 % t-intervals over clusters of task and "
    "seed, tasks fixed; line at 0: no difference; grey: below 3 points. Colour and shape say the ruling."
)
publish(comparison.forest, "ledger_forest", profile, caption, ledger=ruled[main].drop(columns="reason"))

# %%
caption = (
    "The ledger's further lines in points: level, collapse, single rates and estimators, and C9, against chance and against always "
    "naming the place that is most often right, in points of decisions; collapse: of runs. Marks: mean over tasks of means over seeds; bars: 95 % "
    "t-intervals over clusters of task and seed; line at 0: no difference; grey: below 3 points; arrows: beyond the edge. Colour and shape say the ruling."
)
publish(comparison.forest, "ledger_forest_more", profile, caption, ledger=ruled[~main].drop(columns="reason"))

# %% [markdown]
# **The rule.** The unit is a *cluster*, a task and a seed; estimators of a cluster are averaged first. The effect is the mean
# over tasks of means over seeds, its interval Student's with Welch and Satterthwaite's degrees of freedom. Above 0: *holds*.
# Below: *reversed*. Else, if the 90 % interval lies within 3 points of 0: *no difference of 3 points*. Else *open*, and so where
# all seeds are equal and no spread was measured. If nothing is to be found, this errs in about 5 % of claims
# (`tests/study/test_statistics.py` simulates it). Tasks are fixed: nothing is said of other tasks.

# %% [markdown]
# ## 2. Why: what credit is worth at a fixed policy
#
# How many times its batch trajectory-share would need for a gradient as good as a method's (notebook 13). Training decides where
# the two disagree.

# %%
names = worths["label"].unique().tolist()
wide = worths.pivot_table(index="label", columns=["task", "policy_steps"], values="worth", sort=False)
wide.columns = [f"{task}, after {steps} steps" for task, steps in wide.columns]
Markdown(
    tables.markdown(
        wide.loc[names].round(2).reset_index().rename(columns={"label": "worth n times the batch"})
    )
)

# %% [markdown]
# **Does training agree?** A gain is the mean outcome of training, less trajectory-share's on the same problems, at the rate of Table 1.
# A better gradient at one policy need not be a better run: steps are clipped, the optimizer rescales them, and the policy that a
# method makes is another one than trajectory-share's.

# %%
ranks = training_ranks(worths, trained_gains(scale, Store(runs_root())))
compared = tables.markdown(tables.as_text(ranks, RANK_COLUMNS))
Markdown(tables.mark(scale) + "\n\n".join([*agreement(ranks), compared]))

# %% [markdown]
# ## 3. Length during training (F16, F17)
#
# **How to read it.** RLOO with the released baseline, which is subtracted at every rewarded turn. Mean over seeds and 95 % t-interval of the
# dialogues of each training step. A method whose dialogues get shorter than those of trajectory-share has stopped asking something.

# %%
drawn = ["trajectory_share", "uniform", "itpo", "norm_itpo"]
for number, column in ((16, "tokens"), (17, "turns")):
    curves = []
    for task in TASKS:
        chosen = [run for run in runs["rloo", task] if run.config.method.name in drawn]
        curves.append(tables.curves(chosen, column).assign(setting=get_entry(task).title))
    curves = pd.concat(curves)
    lengths = tables.bands(curves[curves["step"] >= 0], by=["setting", "row"])
    what = f"assistant {column}"
    caption = f"F{number}. {what.capitalize()} of a training dialogue against training step, RLOO, a panel for each task; line: mean over "
    caption += f"{len(scale.seeds)} seeds; shaded: 95 % t-interval, cut off where it leaves the range of the means. ITPO with the outcome as a second reward."
    name = f"F{number}_{'length' if number == 16 else 'turns'}"
    display(
        publish(
            pictures.turns_over_training, name, profile, caption, band=lengths, ylabel=f"{what} of a dialogue"
        )
    )

# %% [markdown]
# ## 4. The ledger in numbers
#
# Effects with 95 % intervals, p-values (of primary claims adjusted by Holm), clusters, ruling. Where a run is missing, its name stands in the
# place of the effect. **C5**: mean rank correlation of rewards with those of the last step, turns less tokens. **C6**: Kendall's tau-b
# between implicit return and outcome on the monitor set, and as a share of the largest that these outcomes allow. **C7**: rank
# correlation of the turn rewards of ITPO and Norm-ITPO. **C8**: growth of the slope of reward on outcome. **C9**: share of decisions in which a
# method names the oracle's turn, less that of a guess, or of the one place that is most often right.

# %%
note = "95 % intervals over clusters of task and seed; p of primary claims by Holm. [S]: secondary sources, of other tasks and models."
Markdown(tables.write_table(tables.as_text(ruled, ledger.LEDGER_COLUMNS), ruled, "ledger", scale, note))

# %%
tables.write_table(
    by_cell.round(3), by_cell, "ledger_cells", scale, "Every claim in every task and estimator."
)
tables.write_table(frame.round(4), frame, "runs", scale, "Every run of the band and of Table 1.")
primary = by_cell[(by_cell["claim"].str.match(r"P\d")) & (by_cell["part"] == "speed")]
Markdown(tables.markdown(primary.round(2)))

# %% [markdown]
# ## 5. Table 1
#
# Gains are paired by seed with trajectory-share *under the same estimator*. Values of secondary sources [S] are of other tasks, models and
# users: compare signs, never sizes.

# %%
table = tables.main_table(pd.concat([tables.results(runs[cell]) for cell in grids], ignore_index=True))
text = tables.as_text(table, [Column("task", "task"), *tables.estimator_columns(table)])
note = (
    f"Mean [95 % interval] over {len(scale.seeds)} seeds; outcomes by the logit, gains by Student's t, paired by seed within task and "
    f"estimator. [S]: secondary sources, not checked against the paper. {TABLE_1_NOTE}"
)
Markdown(tables.write_table(text, table, "T1", scale, note))

# %% [markdown]
# ## What not to conclude
#
# - **Not that the paper is wrong.** Its tasks, its models of billions of parameters and its simulated users are others, and its runs are many times
#   longer. What is ruled on is whether a claim holds *here*, in the first steps of a small model.
# - **Nothing about other tasks.** The three are fixed; a fourth may differ.
# - **Not that a loser would stay one.** A method that learns slowly is behind after a few steps and might catch up.
# - **Equal rates are a choice.** The rate is the best one for trajectory-share; "best of the sweep" gives each method its own.
# - **Not much from a secondary line.** There are many of them, and none is adjusted for that.
# - **An oracle is that of a policy**, and on dialogues of the reference (notebook 06).

# %% [markdown]
# ## Exercises
#
# **1.** How much narrower would the interval of P1 be if every estimator of a task and seed were taken for a unit of its own? Why would that
# be wrong?
#
# <details><summary>Solution</summary>
#
# ```python
# from itpo.study.statistics import cluster_effect
#
# own = effects.query("claim == 'P1' and part == 'speed'")
# per_cluster = own.groupby(["task", "seed"])["effect"].mean().groupby("task")
# per_cell = own.groupby("task")["effect"]
# for groups in (per_cluster, per_cell):
#     print(cluster_effect([group.to_numpy() for _, group in groups]).interval())
# ```
#
# The mean is the same. Three estimators of a seed share its problems and its warm-up; counted one by one they would pass for three
# independent answers, and the rule would err more often than in 5 % of claims.
# </details>

# %% [markdown]
# **2.** A claim is *open*, with an effect of +2 and an interval from -2 to +6. Did the experiment show that there is no difference?
#
# <details><summary>Solution</summary>
#
# No. It fits a loss of 2 points and a gain of 6 alike. *No difference of 3 points* would need a 90 % interval within ±3: more seeds, or less
# noise between them.
# </details>
