# %% [markdown]
# # Main results: does it matter which turn is rewarded?
#
# A dialogue ends with one number, its outcome $R$. The methods compared here see the same problems, users and outcomes, and differ
# only in how $R$ becomes rewards. All of it is under RLOO; notebook 05 has the other estimators, notebook 09 the rulings on the
# paper's claims.
#
# Marks: [P] the paper's abstract and captions, [C] its released code, [S] secondary sources, [O] our own choice.

# %% [markdown]
# | method | rewards of a dialogue | where |
# |---|---|---|
# | Trajectory-share | $R$ | last token |
# | Equal split, Uniform decomposition | $R$, in equal or in random shares | end of each turn |
# | LLM-as-a-judge | $R$, in proportion to a scripted judge's scores | end of each turn |
# | PRIME | the token's implicit reward (2) | every assistant token |
# | ITPO | their sum over the turn (4) | end of each turn |
# | Norm-ITPO | $R$, in shares by the turn weights (5)-(6) | end of each turn |
# | Signed Norm-ITPO [O] | the advantage, in shares by the same weights and its sign | each turn |

# %% tags=["parameters"]
profile = "laptop"

# %%
import pandas as pd
from IPython.display import Markdown, clear_output

from itpo.config import allows
from itpo.figures import comparison as draw
from itpo.figures.publishing.registry import publish
from itpo.figures.style import use_style
from itpo.runs.paths import runs_root
from itpo.runs.sweep import sweep_groups
from itpo.study import claims, gains, tables
from itpo.study.experiment import best_rates, get_experiment
from itpo.study.profiles import TABLE_1_NOTE, get_profile
from itpo.study.tables import Column
from itpo.tasks.registry import TASKS, get_entry
from itpo.trainer import train

use_style("02_main_results")
scale, plan = get_profile(profile), get_experiment(profile)

# %% [markdown]
# ## 1. The protocol in five sentences
#
# It was written before any of these runs (`docs/protocol.md`).
#
# 1. On three scripted tasks every method is trained with the same learning rates, the same PRM settings and the same seeds, none of
#    which was used while settings were chosen.
# 2. The primary measure is *speed*: the mean outcome of all training dialogues; the outcome after training, collapsed runs and the
#    length of dialogues are secondary.
# 3. A method's *gain* is its difference to trajectory-share with the same task, seed and rate.
# 4. The unit of its interval is a task and a seed (Student's t over these clusters, tasks fixed), and a difference
#    below 3 points does not matter.
# 5. The rate of Table 1 is the one that is best for *trajectory-share*, on seeds of its own, which favours the baseline.

# %%
named = {"choice": plan.choice(scale), "band": plan.band(scale)}
groups = {name: [config for cell in cells.values() for config in cell] for name, cells in named.items()}
groups |= {task: scale.on(task).grid() for task in TASKS}
runs = sweep_groups(runs_root(), groups, train)
clear_output()
Markdown(tables.scale_note(scale))

# %% [markdown]
# Runs that the store holds are loaded; others are trained now, and the same call goes on after an interruption.
#
# **Settings of Table 1's methods.** `coef` weighs the method's own rewards, `outcome_coef` the outcome as a second source beside
# them, and `beta` is that of (2)-(3). `temperature` is the eta of (5), `reduction` that of (4).

# %%
settings = [
    tables.settings_text([method for method in scale.on(task).methods if allows("rloo", method.name)])
    for task in TASKS
]
Markdown("\n\n".join(f"**{task}**\n\n{tables.markdown(t)}" for task, t in zip(TASKS, settings, strict=True)))

# %% [markdown]
# ## 2. Which learning rate?
#
# **Question.** At which of the three rates does trajectory-share learn fastest? **How to read it.** A small dot is a run, a large one
# the mean over seeds. The ring marks the rate that Table 1 uses on the task.

# %%
outcomes = tables.results(runs["choice"])[["task", "rate", "seed", "speed"]]
outcomes = outcomes.rename(columns={"speed": "outcome"})
best = best_rates(outcomes)
publish(
    draw.rates,
    "band_choice",
    profile,
    f"Mean outcome of training by trajectory-share against the learning rate, RLOO, {len(plan.choice_seeds)} seed(s) that nothing else "
    "uses. Small dots: runs; large dots: means over seeds, joined; ring: the best rate of the task.",
    outcomes=outcomes,
    chosen=pd.DataFrame(best.items(), columns=["task", "rate"]),
)

# %%
used = {task: scale.on(task).methods[0].policy_lr for task in TASKS}
Markdown(f"{gains.choice_text(outcomes, best, scale)}\n\nTable 1 uses {used}; the rule gives {best}.")

# %% [markdown]
# ## 3. The band: gains at every rate
#
# **Question.** Does a method gain on trajectory-share at *equal* rates, and at all of them? **How to read it.** One panel for each
# task, the last for all of them. Zero is trajectory-share at the same rate and seed. An interval above 0 is a gain, one within the
# grey zone no difference that matters. Methods without a line were trained at the rate of Table 1 alone. Symbols stand a little
# apart sideways only so that they can be told apart.

# %%
table = gains.band(tables.results(runs["band"]))
publish(
    draw.band,
    "band",
    profile,
    f"Gain on trajectory-share at the same learning rate, RLOO, {len(plan.band_seeds)} seeds a task at the rate of Table 1 and "
    f"{len(plan.sweep_seeds)} at the others: difference of the mean outcome of training, in points. Symbols: means over seeds; bars: "
    "95 % t-intervals over clusters of task and seed; black line: trajectory-share; grey: below 3 points. Open symbols: another setting of the method of the same colour.",
    gains=table,
)

# %%
Markdown(gains.band_text(table, scale))

# %% [markdown]
# The same in numbers, by task:

# %%
note = "Gain on trajectory-share at the same rate in points, mean [95 % t-interval]; no interval below six seeds."
Markdown(tables.write_table(gains.band_columns(table), table, "band_gains", scale, note))

# %% [markdown]
# ## 4. How training goes
#
# **How to read it.** A column for each method of Table 1, a line of panels for each task, all at the rate of Table 1. Coloured: the mean
# outcome of the dialogues of each training step, with its 95 % interval over seeds. Thin and black: trajectory-share. Policies
# are trained on these very dialogues, but only after they are counted. *Speed* is the mean height of such a curve.

# %%
curves = gains.speed_curves({task: runs[task] for task in TASKS})
publish(
    draw.speed_curves,
    "F04_speed",
    profile,
    f"F4. Mean outcome of the {scale.run.prompts * scale.run.rollouts} dialogues of each training step, RLOO, {len(scale.seeds)} seeds. "
    "Coloured: the method of the column, mean over seeds; shaded: its 95 % interval, within 0 and 1; thin black: mean of trajectory-share. "
    f"{TABLE_1_NOTE}",
    band=curves,
)

# %% [markdown]
# ## 5. Table 1, RLOO
#
# **How to read it.** The picture has a small dot for each seed's gain, a large one for their mean, and its interval. The table
# behind it has the outcome itself, the level after training (greedy, on 256 fresh problems), and how many runs collapsed. The last two
# columns are what secondary sources report of the paper's own tasks [S]: other data, users and models, not checked
# against the paper. Compare orders and signs with ours, never values.

# %%
frame = pd.concat([tables.results(runs[task]) for task in TASKS], ignore_index=True)
publish(
    draw.table_dots,
    "T1_rloo_dots",
    profile,
    "Table 1, RLOO: gain on trajectory-share by the mean outcome of training, in points. Small dots: seeds; large dots: means; bars: 95 % "
    f"t-intervals; black line: trajectory-share; grey: below 3 points. {TABLE_1_NOTE}",
    **gains.table_dots(frame),
)

# %%
whole = tables.main_table(frame)
text = tables.as_text(whole, [Column("task", "task"), *tables.main_columns(whole)])
note = (
    f"RLOO; mean [95 % interval] over {len(scale.seeds)} seeds; gains are paired by seed. [S]: secondary sources, other data, users and "
    f"models, not checked against the paper: compare order and sign only. {TABLE_1_NOTE}"
)
Markdown(tables.write_table(text, whole, "T1_rloo", scale, note))

# %%
texts = [
    f"- **{get_entry(task).title}**: {claims.order_text(lines.reset_index(drop=True), scale)}"
    for task, lines in whole.groupby("task", sort=False)
]
Markdown("\n".join(texts))

# %% [markdown]
# ## 6. How good was the PRM?
#
# PRIME, ITPO and Norm-ITPO can be no better than the model that judges their tokens. Every training dialogue is scored by the
# PRM *before* it learns from it. **How to read it.** AUC: the probability that a successful dialogue is ranked above a failed one; chance
# is 0.5. Kendall's tau-b: the same ranking on a scale whose largest value depends on the outcomes (notebook 04 takes it apart).

# %%
quality = [
    Column("task", "task"),
    tables.METHOD,
    Column("AUC", "auc", 1.0, 3),
    Column("Kendall's tau-b", "tau", 1.0, 3),
]
Markdown(tables.markdown(tables.as_text(whole[whole["auc_n"] > 0], quality)))

# %% [markdown]
# ## What not to conclude
#
# - **Tasks are fixed.** The intervals speak of other seeds on these three tasks, which are built so that early turns can decide.
# - **An open ruling is no proof of equality.** Only an interval within the grey zone says that a difference is small.
# - **The judge is scripted** and wrong in a share of its scores [O]; a language model may err more often, and less evenly.
# - **The policy is tiny** and starts warm. What the same questions look like at a fixed policy, where noise is smaller, is the
#   subject of notebook 13.

# %% [markdown]
# ## Exercises
#
# **1.** Why is *every* method compared with trajectory-share at the same rate, and not each at its own best one?
#
# <details><summary>Solution</summary>
#
# A method that was tuned longer, or on the seeds of the comparison, looks better than it is. `gains.band` shows all rates; notebook 09
# also has each method at its best rate, chosen on half of the seeds and judged on the other half.
# </details>
#
# **2.** Which gains change if *level* is the measure? Call `gains.paired(frame, ["task", "estimator"], "greedy_success")`.
#
# <details><summary>Solution</summary>
#
# ```python
# level = gains.paired(frame, ["task", "estimator"], "greedy_success")
# level.groupby(["task", "row"])["gain"].describe()
# ```
#
# Where nearly all runs are at the ceiling, nothing can differ. Elsewhere look at the minimum: is a difference made by a few runs that
# collapsed, or do all seeds end lower?
# </details>
