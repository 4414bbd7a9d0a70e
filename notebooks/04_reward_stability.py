# %% [markdown]
# # Reward stability: how soon, and how well, does the PRM rank?
#
# The process reward model (PRM) is trained while its rewards are already being used. Two things can then go wrong. The
# rewards may keep changing their mind about *which part* of a dialogue deserves credit; and they may fail to say *which
# dialogue* was good. The paper claims that turn-wise rewards settle sooner than token-wise ones (C5), and that the implicit
# return ranks dialogues as the outcome does (C6). Both are rank correlations, one within dialogues, one between them.
#
# Marks: [P] the paper's abstract and captions, [C] its released code, [S] secondary sources, [O] our own choice.

# %% tags=["parameters"]
profile = "laptop"

# %%
import numpy as np
from IPython.display import Markdown, clear_output, display

from itpo.figures import results as draw
from itpo.figures.publishing.registry import publish
from itpo.figures.style import use_style
from itpo.runs.paths import runs_root
from itpo.runs.sweep import sweep, sweep_groups
from itpo.study import claims, reward_dynamics, tables
from itpo.study.profiles import get_profile
from itpo.study.reported import REPORTED_TAU
from itpo.tasks.registry import TASKS, get_entry
from itpo.trainer import train

use_style("04_reward_stability")
scale = get_profile(profile)

# %% [markdown]
# The runs are those of notebook 02, of which only the methods with a PRM are needed. Their *monitor set* are dialogues of the
# untrained policy, held once and never learned from; every few steps the PRM gives its log-ratio (1) for each of their
# tokens.

# %%
runs = sweep(runs_root(), scale.grid(), train)
clear_output()
judged = [run for run in runs if run.monitor()]
Markdown(tables.scale_note(scale))

# %% [markdown]
# ## 1. Within a dialogue: turns against tokens
#
# **Question.** At which step do the rewards of a dialogue have the order that they will have in the end?
#
# **Method.** For every dialogue of the monitor set of at least three turns: Spearman's correlation between its turn rewards (4) at
# step s and those at the last step, averaged over dialogues. The same for its token rewards (2). A dialogue in which all rewards are equal has no
# order and is left out of the mean.

# %% [markdown]
# **Is that fair?** Not quite: three to five turns are compared with some thirty tokens, and a turn's reward is a sum, whose
# noise averages out. Hence two controls [O]:
# - *as many random tokens as turns*: the same number of items, without summing;
# - *tokens shuffled, then summed*: a dialogue's token rewards are moved at random among its assistant tokens, the same way at
#   every step, and summed to "turns" of the same sizes. These groups enjoy all that summing does, but mean nothing. Only what
#   real turns have above them is owed to turns as such.

# %% [markdown]
# **How to read it.** One panel for each method; mean over seeds and 95 % interval, both by Fisher's z, which keeps them within -1 and 1
# (none below six seeds). The thin line marks 0.8. At the last step every
# curve is 1 *by construction*, since the rewards are compared with themselves; and just before it they are high because
# little is learned between two neighbouring measurements. What counts is how early a curve is high. A ranking at random is at 0 for
# any number of items, but fewer items scatter more. Step 0 is not ignorance: the PRM has been warmed up on dialogues of the
# reference by then.

# %%
stability = reward_dynamics.spearman_curves(judged, np.random.default_rng(0))
band = tables.bands(stability, by=["row", "items"], kind="correlation")
publish(
    draw.stability,
    "F03_spearman_to_converged",
    profile,
    "F3. Math tutoring. Spearman correlation of the rewards of each dialogue of the monitor set at a step with those at the last step, mean over "
    "dialogues of at least three turns, then mean and 95 % interval over seeds (Fisher's z). The last step is compared with itself and is 1 by construction. "
    "Dotted and dashed: controls of ours [O], means only.",
    band=band,
)

# %% [markdown]
# **Steps needed.** The first observed step from which a run's curve stays at 0.8 or above, the last step left out; a mean
# over the runs that get there. Beside it the mean correlation before the last step.

# %%
convergence = reward_dynamics.convergence_table(stability)
names = {"mean_correlation": "mean before the end", "first_step": "above 0.8 from step"}
columns = ["row", "items", *names, "reached", "seeds"]
Markdown(tables.markdown(convergence[columns].rename(columns=names).round(2)))

# %% [markdown]
# ### Claim C5
#
# **The rule.** Effect: a run's mean correlation before the last step, turns minus the rival, paired by seed. If its 95 %
# t-interval lies above 0, C5 *holds* for the method on this task; below 0 it is *reversed*; else it is *open*. The ledger (notebook
# 09) takes the tasks together. The paper compares turns with all tokens; the two controls tell whether the number of items or the
# summing alone would explain it.
#
# Secondary sources [S] report 0.8-0.9 for turns within 50-100 steps, and 0.5-0.6 for tokens with over 200 steps needed. Those
# runs are longer, their dialogues have thousands of tokens, and what they call converged is not known to us.

# %%
for rival, title in reward_dynamics.RIVALS.items():
    verdicts = reward_dynamics.stability_verdicts(stability, rival)
    lines = claims.verdict_text(verdicts, scale, scale=1.0, unit="")
    display(Markdown(f"Turns against {title}:\n\n{lines}"))

# %% [markdown]
# ### The other two tasks
#
# The same on document writing (F12) and medical recommendation (F13), with the runs of notebook 02.

# %%
others = {task: scale.on(task) for task in TASKS if task != scale.run.task.name}
grids = sweep_groups(runs_root(), {task: there.grid() for task, there in others.items()}, train)
clear_output()
names = ("F12_spearman_documents", "F13_spearman_medical")
for name, (task, there) in zip(names, grids.items(), strict=True):
    curves = reward_dynamics.spearman_curves(
        [run for run in there if run.monitor()], np.random.default_rng(0)
    )
    band, task_title = tables.bands(curves, by=["row", "items"], kind="correlation"), get_entry(task).title
    caption = f"{name[:3]}. As F3, on {task_title}: Spearman correlation of each dialogue's rewards at a step with those at the last "
    caption += f"one; mean and 95 % interval over {len(others[task].seeds)} seeds. Dotted and dashed: controls of ours [O]."
    display(publish(draw.stability, name, profile, caption, band=band))
    for rival, title in reward_dynamics.RIVALS.items():
        verdicts = reward_dynamics.stability_verdicts(curves, rival)
        lines = claims.verdict_text(verdicts, scale, scale=1.0, unit="")
        display(Markdown(f"{task_title.capitalize()}, turns against {title}:\n\n{lines}"))

# %% [markdown]
# ## 2. Between dialogues: implicit return against outcome
#
# **Question.** Does the sum of a dialogue's implicit rewards rank dialogues as their outcomes do?
#
# **Method.** Kendall's tau-b between $\beta \sum_t q_t$ and $R$. Left: on every training batch, *before* the PRM learns from
# it, so that it is a prediction, and the policy's own dialogues of the moment. Right: on the monitor set, the same dialogues
# throughout. Negative steps are the PRM's warm-up on dialogues of the reference.

# %% [markdown]
# **A ceiling.** Tau-b corrects for ties in a way that leaves less than 1 to a yes-or-no outcome. If a share p of n dialogues
# succeeds and no two scores are equal,
#
# $$\tau_b = (2\,\mathrm{AUC} - 1)\,\sqrt{2p(1-p)\,\tfrac{n}{n-1}}$$
#
# so that a *perfect* ranking has about 0.71 at p = 0.5 and 0.42 at p = 0.1 or 0.9. Two things can thus make tau fall on the
# policy's own dialogues while the PRM is as good as before: **success moves away from one half** (the ceiling falls; few
# failures are left to be told apart), and **the dialogues become alike** (the easy cases are gone, and AUC falls). The right
# panel has neither: its dialogues do not change, and its ceiling is one number.

# %% [markdown]
# **How to read it.** Mean over seeds and 95 % interval by Fisher's z; the left panel is smoothed within each run by a centred mean over
# three batches. Dotted: the tau of a perfect ranking at the success rate of that step. Hatched: the range that secondary sources
# report, 0.5-0.75 [S], for other tasks and models; its upper end lies above what any ranking could reach here.

# %%
batches = tables.bands(tables.curves(judged, "prm_kendall", smooth=3), kind="correlation")
monitored = reward_dynamics.monitor_curves(judged)
ceilings = reward_dynamics.tau_ceilings(judged, monitored, smooth=3)
publish(
    draw.kendall_over_training,
    "F05_kendall",
    profile,
    "F5. Kendall's tau-b between implicit return and outcome, RLOO, math tutoring: on fresh training batches before the PRM learns from them "
    "(left; centred mean over three batches) and on the monitor set (right). Mean and 95 % interval over seeds (Fisher's z). Negative "
    "steps: warm-up of the PRM. Dotted: the ceiling, tau of a perfect ranking at that success rate; 0: chance. Hatched: range in secondary sources [S].",
    batches=batches,
    monitor=tables.bands(monitored, kind="correlation"),
    ceilings=ceilings,
    reported=REPORTED_TAU,
)

# %% [markdown]
# **Taking tau apart.** On fresh batches, means over seeds: tau-b, the ceiling, and AUC, which does not depend on the success
# rate. If tau falls together with its ceiling while AUC stays, the policy has changed, not the PRM's judgement.

# %%
changes = reward_dynamics.tau_changes(judged)
said = "\n".join(f"- {text}" for text in reward_dynamics.auc_findings(changes))
Markdown(f"{tables.mark(scale)}{said}\n\n{tables.markdown(changes.round(2))}")

# %% [markdown]
# ### Claim C6
#
# **The rule.** On the monitor set after training, whose dialogues the PRM never learned from: tau-b as a *share of the largest* that
# their outcomes allow, $\sqrt{1 - \text{tied pairs} / \text{pairs}}$, which for yes-or-no outcomes is the formula above. 1 is a perfect ranking, 0
# one by chance. If the 95 % interval over seeds (Fisher's z) lies above 0, C6 holds. The reported 0.5 [S] stands beside it: it is to
# be read beside the largest tau-b, which no PRM can pass.

# %%
Markdown(claims.verdict_text(reward_dynamics.tau_verdicts(monitored), scale, scale=1.0, unit=""))

# %%
for task, there in grids.items():
    other = reward_dynamics.monitor_curves([run for run in there if run.monitor()])
    verdicts = reward_dynamics.tau_verdicts(other)
    lines = claims.verdict_text(verdicts, scale, scale=1.0, unit="")
    display(Markdown(f"{get_entry(task).title.capitalize()}:\n\n{lines}"))

# %% [markdown]
# ## Exercises
#
# **1.** A PRM ranks every success above every failure, and all scores differ. How large is tau-b at a success rate of 0.9 among 100
# dialogues? Check the formula by counting.
#
# <details><summary>Solution</summary>
#
# ```python
# from scipy.stats import kendalltau
#
# outcome, score = np.repeat([0, 1], [10, 90]), np.arange(100)
# print(kendalltau(score, outcome).statistic, np.sqrt(2 * 0.9 * 0.1 * 100 / 99))
# ```
#
# Both are 0.43: of a perfect ranking. A reported 0.5 cannot be reached at this success rate.
# </details>
#
# **2.** "Tokens shuffled, then summed" come out almost as stable as turns. What would that say of C5?
#
# <details><summary>Solution</summary>
#
# That turns are more stable because they are *sums*, whose noise averages out, not because they are turns. C5 would hold against single
# tokens and be open against this control, which is the fairer rival.
# </details>
