# %% [markdown]
# # The gradient microscope
#
# **At one policy and one PRM, which method's credit gives the better policy gradient?** Training runs answer slowly: after ten seeds
# the difference between two methods is still a few points wide. Here nothing is trained by a method, and the same batches serve all of
# them, so the answer is sharp.

# %% [markdown]
# Four words are used throughout.
#
# - **True gradient.** That of trajectory-share without whitening: a leave-one-out policy gradient, noisy, but right on average [O].
# - **Cosine.** Between a method's gradient in one batch and the true one, corrected for the noise of the latter. 1 is perfect.
# - **Worth.** How many times the batch trajectory-share would need for the same cosine: 4 means that a quarter of the dialogues would do.
# - **Bias.** The cosine of a method's *mean* gradient: what more batches cannot cure.
#
# Errors are from the jackknife over batches. A difference to trajectory-share *counts* if its $t$-interval, adjusted by Holm over
# the methods at a policy, leaves 0 out. `docs/protocol.md` fixed all of this before it was run.

# %% tags=["parameters"]
profile = "laptop"

# %%
import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown, clear_output

from itpo import advantages, attribution, rivals
from itpo.figures import microscope as draw
from itpo.figures.publishing.registry import publish
from itpo.figures.style import use_style
from itpo.runs.paths import runs_root
from itpo.runs.sweep import sweep
from itpo.study import microscope, tables
from itpo.study import microscope_tables as worth
from itpo.study.damping import damping, expected_gradients
from itpo.study.profiles import get_profile
from itpo.tasks.registry import get_entry

use_style("13_microscope")
scale = get_profile(profile)

# %% [markdown]
# ## 1. What theory says of Norm-ITPO
#
# Norm-ITPO pays $w_kR$ at the end of turn $k$, and returns sum from a turn on. So turn $k$ has the return $R\,(1-\sum_{j<k}w_j)$: the
# outcome, **damped** by the weight before it. With weights that do not depend on what is said, the expected gradient of turn $k$ is that
# of trajectory-share times this factor. Later turns learn more slowly, and the whole gradient points elsewhere. A check on a game of four
# turns with two acts each, random outcomes, all 16 dialogues enumerated:

# %%
rng = np.random.default_rng(0)
outcomes, chances = rng.random((2, 2, 2, 2)), rng.uniform(0.2, 0.8, 4)
weights = np.array([0.1, 0.4, 0.3, 0.2])
true = expected_gradients(outcomes, chances, np.array([0.0, 0.0, 0.0, 1.0]))
split = expected_gradients(outcomes, chances, weights)
assert np.allclose(split, damping(weights) * true)
check = {"turn": range(1, 5), "trajectory-share": true, "Norm-ITPO": split, "ratio": split / true}
pd.DataFrame(check | {"1 - weight before": damping(weights)}).round(4)

# %% [markdown]
# And **where $R=0$ nothing is to blame**: every reward is 0, whatever the PRM thinks of the turns. All turns get the same baseline
# off, alike. Signed Norm-ITPO [O] splits the leave-one-out *advantage*, so that a failure's blame goes to the turns that the PRM
# rates low. One prompt, two rollouts of two turns, the first successful; in both the PRM rates turn 1 high and turn 2 low:

# %%
ids = torch.tensor([[0, -1, 1], [0, -1, 1]])
rated, outcome = torch.tensor([[0.4, 0.0, -0.4]] * 2), torch.tensor([1.0, 0.0])
plain = advantages.returns(attribution.norm_itpo(rated, outcome, ids), ids >= 0)
signed = advantages.returns(rivals.signed_norm_itpo(rated, outcome, ids, group_size=2), ids >= 0)
assert not plain[1].any() and signed[1, 2] < signed[1, 0] < 0
turn_columns = {"Norm-ITPO, return": plain, "signed, advantage": signed}
lines = [
    {"rollout": ("success", "failure")[row], "turn": turn + 1}
    | {name: round(values[row, 2 * turn].item(), 3) for name, values in turn_columns.items()}
    for row in range(2)
    for turn in range(2)
]
pd.DataFrame(lines)

# %% [markdown]
# ## 2. The measurement
#
# The policy learns by trajectory-share, and a PRM beside it as Norm-ITPO's would. After 0, 6 and 12 steps (at `laptop`) both are held still. Then come fresh
# batches of training's own size, each of which gives every method its advantages by the code of training, and so a gradient.
#
# Two references are no methods: **a judge that never errs** knows the rules of the task, and **the tabular oracle** (math only) gives each turn what its act is
# worth, $Q-V$, from a table of other dialogues. Other papers' methods
# (`itpo.rivals`): **MT-GRPO** adds a judge's turn scores, normalised, to the normalised outcome. **GiGPO** compares turns that answer the same
# reply, **iStar** adds a turn's normalised implicit reward, and **judged progress** pays changes of a judge's chance of success.

# %%
batches, policies, table_batches = (4, (0, 2), 2) if profile == "smoke" else (48, (0, 6, 12), 24)
configs = microscope.measurements(scale, policies, batches, table_batches)
size = f"{batches} batches of {scale.run.prompts * scale.run.rollouts} dialogues, seed {microscope.SEED}"

# %% [markdown]
# The first of them is there within minutes: on the task below, before any training.

# %%
start = sweep(runs_root(), configs[:1], microscope.measure)
clear_output()
first_table = tables.as_text(microscope.worth_table(start), worth.COLUMNS[:4])
Markdown(f"{tables.mark(scale)}{configs[0].run.task.name}, {size}.\n\n{tables.markdown(first_table)}")

# %% [markdown]
# And all of them:

# %%
runs = sweep(runs_root(), configs, microscope.measure)
clear_output()
Markdown(f"{tables.scale_note(scale)} {len(runs)} policies, {size}.")

# %%
table = microscope.worth_table(runs)
titles = {task: get_entry(task).title for task in table["task"].unique()}
shown = table.assign(
    panel=table["task"].map(titles), policy=[f"after {steps} steps" for steps in table["policy_steps"]]
)
publish(
    draw.worths,
    "microscope",
    profile,
    "What each method's credit is worth: how many times the batch trajectory-share (line at 1) would need for a gradient with the same cosine to "
    "the true one. A mark for each policy, trained so many steps by trajectory-share; filled: the difference of cosines counts (Holm over the "
    f"methods at a policy, 5 %). Bars: 95 %, jackknife over {size}. RLOO; to_go: its other baseline; bars are cut at the edge, arrows: beyond it.",
    table=shown.drop(columns=["task", "policy_steps"]),
)

# %% [markdown]
# ## 3. What it says
#
# Computed from the table below, over all tasks and policies:

# %%
names = [name for name in table["name"].unique() if name != tables.BASELINE]
Markdown(tables.mark(scale) + "\n".join(f"- {text}" for text in worth.findings(table, names, "policies")))

# %% [markdown]
# Is a method's gradient off because it is biased, or because it is noisy? `cosine of the mean` is the first, `signal to noise` (of one
# batch) the second. The table behind the picture, mean [95 % interval]:

# %%
columns = [
    tables.Column("task", "task"),
    tables.Column("policy", "policy_steps"),
    *worth.COLUMNS,
]
note = f"Gradients against the true one; policy: steps of trajectory-share before; {size}; intervals by the jackknife over batches."
text = tables.as_text(table, columns)
tables.write_table(text, table, "microscope_table", scale, note)
first = table["policy_steps"] == policies[0]
Markdown(f"Before training (the rest is in `microscope_table`):\n\n{tables.markdown(text[first])}")

# %% [markdown]
# ## What not to conclude
#
# - **Not that a method trains better.** This is one step at policies that trajectory-share made; whether training agrees, notebook 09 says.
# - **Not from three policies of one seed each.** Batches vary here, policies do not.
# - **Not that all bias is bad.** A biased gradient with little noise may be worth more than an unbiased one, at this batch size.

# %% [markdown]
# ## Exercises
#
# **1.** In section 1, let `weights` be one line for each of the 16 dialogues, as a PRM that reads the whole dialogue would make them. Is the
# gradient still damped turn by turn?
#
# <details><summary>Solution</summary>
#
# No. `expected_gradients(outcomes, chances, rng.dirichlet(np.ones(4), 16))` has ratios to `true` that are no longer one minus a weight, and may
# have the other sign: a weight that depends on what is said later changes what a turn is compared by.
# </details>
#
# **2.** The worth of a biased method falls when batches grow. Why, and towards what?
#
# <details><summary>Solution</summary>
#
# With many dialogues the noise is gone: trajectory-share's cosine tends to 1 and the method's to its bias. The odds of the one grow
# without end, those of the other do not, so the worth tends to 0, however good it is at the batch size of training.
# </details>
