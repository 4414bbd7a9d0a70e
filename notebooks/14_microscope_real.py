# %% [markdown]
# # The gradient microscope on a real language model
#
# **Which method's credit gives the better policy gradient to a model that learned to write elsewhere?** This is notebook 13 on SmolLM2-135M,
# in plain English. No comparison by training runs at this scale fits a laptop; a few batches of gradients do.
#
# It is a first look: batches are small (8 problems with 4 dialogues each at `smol`), there are two policies of one seed, and only gradients of
# the LoRA adapters are compared. On two cores it takes about an hour; it is resumed where it was stopped. With `-p profile consumer`, on a GPU,
# the same notebook runs larger, with Qwen2.5-3B in 4 bits.

# %% tags=["parameters"]
profile = "smol"
batches = 16  # for each policy; as many more as there is time

# %%
from dataclasses import replace

import pandas as pd
import torch
from IPython.display import Markdown, clear_output

from itpo.config import TaskSpec
from itpo.figures import microscope as draw
from itpo.figures.publishing.registry import publish
from itpo.figures.style import use_style
from itpo.runs.paths import runs_root
from itpo.runs.sweep import sweep
from itpo.specs import RuleJudge, ScriptedUser
from itpo.study import microscope, tables
from itpo.study import microscope_tables as worth
from itpo.study.measured import measured_methods
from itpo.study.profiles import get_real_profile

use_style("14_microscope_real")
scale = get_real_profile(profile)

# %% [markdown]
# ## 1. The measurement
#
# As in notebook 13: the policy learns by trajectory-share, a PRM beside it; then both are held still, and every batch gives each method its
# advantages by the code of training. The task is scripted math tutoring in ordinary writing, so that a judge can be one that never errs.

# %%
names = (
    "trajectory_share",
    "norm_itpo",
    "norm_itpo_to_go",
    "signed_norm_itpo",
    "itpo",
    "prime",
    "sure_judge_to_go",
)
policies, count = (0, 4), batches
if profile == "smoke":
    names, policies, count = names[:3], (0,), 4
own = scale.config("norm_itpo", microscope.SEED)
run = replace(own, task=TaskSpec("math_prose"), user=ScriptedUser(), judge=RuleJudge())
methods = measured_methods(run, names)
configs = [microscope.MicroscopeConfig(run, steps, methods, count) for steps in policies]
workers = 1 if torch.cuda.is_available() else None  # a GPU holds one run at a time
runs = sweep(runs_root(), configs, microscope.measure, workers=workers)
clear_output()
size = f"{count} batches of {run.prompts * run.rollouts} dialogues, seed {run.seed}"
Markdown(f"{tables.scale_note(scale)} {len(runs)} policies, {size}.")

# %% [markdown]
# **How to read it.** Worth is how many times the batch trajectory-share would need for as good a gradient. With so few dialogues the true
# gradient itself is uncertain: an interval that spans 1 says that these batches cannot tell, and a method without a mark that the
# reference could not be told from noise.

# %%
table = microscope.worth_table(runs)
shown = table.assign(panel=run.model.name, policy=[f"after {steps} steps" for steps in table["policy_steps"]])
publish(
    draw.worths,
    "microscope_real",
    profile,
    f"What each method's credit is worth to {run.model.name}: how many times the batch trajectory-share (line at 1) would need for a gradient with the "
    "same cosine to the true one. Filled: the difference of cosines counts (Holm over the methods at a policy, 5 %). "
    f"A mark for each policy, none where its true gradient is lost in noise. Bars: 95 %, jackknife over {size}; none: not known; cut at the "
    "edge; arrows: beyond it. Math tutoring in plain English, RLOO; to_go: its other baseline.",
    table=shown.drop(columns=["task", "policy_steps"]),
)

# %% [markdown]
# ## 2. What it says

# %%
said = [
    f"**{worth.better_anywhere(table, 'policies')}**",
    *worth.unknown(table),
    *worth.findings(table, names[1:], "policies"),
]
Markdown(tables.mark(scale) + "\n".join(f"- {text}" for text in said))

# %% [markdown]
# **Does the PRM know anything yet?** Its AUC on these batches says how well it tells successes from failures, 0.5 by chance. Where it is at
# chance, a better gradient cannot be put down to what the PRM knows of dialogues.

# %%
quality = [microscope.batch_means(run) for run in runs]
lines = [
    {
        "policy": run.config.policy_steps,
        "success (%)": 100 * means["success"],
        "AUC of the PRM": means["prm_auc"],
    }
    for run, means in zip(runs, quality, strict=True)
]
Markdown(tables.markdown(pd.DataFrame(lines).round(2)))

# %%
columns = [tables.Column("policy", "policy_steps"), *worth.COLUMNS]
note = f"Gradients of the adapter against the true one; policy: steps of trajectory-share before; {size}; intervals by the jackknife."
text = tables.as_text(table, columns)
Markdown(tables.write_table(text, table, "microscope_real_table", scale, note))

# %%
seconds = [run.timing()[["generation", "gradients"]].mean() for run in runs]
lines = [
    f"{one['generation']:.0f} s to hold a batch, {one['gradients']:.0f} s for its gradients"
    for one in seconds
]
Markdown(f"What it took, policy by policy: {'; '.join(lines)}.")

# %% [markdown]
# ## What not to conclude
#
# - **Not a ranking of methods for language models.** One small model, one scripted task, one seed.
# - **Not that training would agree.** That holds here as in notebook 13, and nothing was trained to check it.

# %% [markdown]
# ## Exercises
#
# **1.** The reference is the mean gradient of the *other* batches. Why not of all?
#
# <details><summary>Solution</summary>
#
# A batch's own gradient would be part of what it is compared with, and trajectory-share's cosine would be too high: with 16 batches, by
# about a sixteenth of the square of a batch's noise. Methods whose noise is that of trajectory-share would profit as well.
# </details>
#
# **2.** Errors fall with the square root of the number of batches. How many batches would an interval half as wide need, and how long would
# that take by the last table?
#
# <details><summary>Solution</summary>
#
# Four times as many, and four times as long, by `batches`. It is a measurement of its own, which begins anew. Smaller errors of the
# *reference* come with it, since it is a mean of all.
# </details>
