# %% [markdown]
# # Appendix: a map of regimes
#
# **In which dialogues is turn-wise credit worth having?** Here is one task made for that question. A visitor walks down a corridor of a
# *fixed* number of turns. At a door one action is right; nobody says which, and a door that was not opened cannot be gone back to. In a hall
# anything may be said and nothing follows. The outcome is 1 if every door was opened. So the number and place of the pivotal turns are
# settings, and all dialogues have the same length: no method can win by asking less.

# %% [markdown]
# The instrument is the gradient microscope of notebook 13: what a method's credit is *worth*, in times the batch of trajectory-share,
# at one policy after a few steps of training. This is an exploration; its settings are ours [O], and training decides where the two disagree.
#
# **What one might expect.** Trajectory-share gives the turns after the last door the whole outcome too, and its noise with it. So turn-wise
# credit might be worth more in longer dialogues, with doors that come early, and with few rollouts, whose baseline is noisy.

# %% tags=["parameters"]
profile = "laptop"

# %%
import random

import pandas as pd
from IPython.display import Markdown, clear_output

from itpo.figures import microscope as draw
from itpo.figures.publishing.registry import publish
from itpo.figures.style import use_style
from itpo.models.tiny import scripted_dialogue
from itpo.runs.paths import runs_root
from itpo.runs.sweep import sweep
from itpo.study import microscope, regimes, tables
from itpo.study import microscope_tables as worth
from itpo.study.profiles import get_profile

use_style("11_regimes")
grid, scale = regimes.get_regime_grid(profile), get_profile(profile)

# %% [markdown]
# ## 1. A dialogue
#
# One walk of the map's middle by the noisy expert, which the base model imitates before training; it opens a door in 2 of 5 tries.

# %%
task, options = grid.run.task.build(), grid.run.task.options
walk, messages, outcome = scripted_dialogue(task, task.noisy_expert, random.Random(0))
for message in messages:
    print(f"{message.role:>9}  {message.content}")
print(f"\noutcome {outcome:.0f}; turns: {', '.join(task.turn_kinds(messages))}")

# %% [markdown]
# ## 2. The map
#
# Each line is a policy of its own; those that differ in rollouts alone share task and base model. **A judge that never errs** splits the outcome equally over the doors, with no reward in
# the halls; `to_go` is the baseline of RLOO that compares what is still to come. Colour only where the difference counts (Holm over the
# methods of a line); the rest is grey.

# %%
cells = grid.cells()
runs = dict(zip(cells, sweep(runs_root(), list(cells.values()), microscope.measure), strict=True))
clear_output()
size = f"{grid.batches} batches of {grid.run.prompts * grid.run.rollouts} dialogues after {grid.policy_steps} steps, seed {grid.run.seed}"
Markdown(f"{tables.mark(scale)}{len(set(cells.values()))} policies, {size}.")

# %%
table = microscope.map_table(runs)
middle = "{turns} turns, {pivots} pivots at first, {0} rollouts a prompt".format(grid.run.rollouts, **options)
publish(
    draw.worth_map,
    "regimes_map",
    profile,
    "Map of regimes: what a method's credit is worth, in times the batch that trajectory-share would need for a gradient with the same cosine "
    f"to the true one. Blue: more than 1, red: less; grey: the difference of cosines does not count. Depth of colour: the estimate, whose interval "
    f"may be wide. Middle of the map: {middle}. RLOO, {size}.",
    table=table[["group", "setting", "name", "label", "worth", "counts"]],
)

# %% [markdown]
# ## 3. What it says
#
# Computed from the map:

# %%
once = {config: key for key, config in cells.items()}  # the middle stands in every group
different = microscope.map_table({key: runs[key] for key in once.values()})
names = list(different["name"].unique())
said = worth.findings(different, names, "cells") + worth.worths_in_words(table, "norm_itpo")
Markdown(tables.mark(scale) + "\n".join(f"- {text}" for text in said))

# %% [markdown]
# **How good is the PRM there?** Its AUC: how well it tells dialogues with all doors opened from the others, 0.5 by chance; and how often
# the policy opened all doors. Where nearly no dialogue succeeds, nothing is learned from a batch, and its gradient is mostly noise.

# %%
lines = []
for (group, setting), run in runs.items():
    means = microscope.batch_means(run)
    lines.append(
        {"group": group, "setting": setting, "outcome (%)": 100 * means["success"], "AUC": means["prm_auc"]}
    )
facts = pd.DataFrame(lines)
Markdown(tables.markdown(facts.round({"outcome (%)": 1, "AUC": 2})))

# %%
columns = [tables.Column("group", "group"), tables.Column("setting", "setting"), *worth.COLUMNS]
note = f"The map of regimes in numbers: {size}; intervals by the jackknife over batches."
text = tables.as_text(table, columns)
tables.write_table(text, table, "regimes", scale, note)
own = [name for name in ("norm_itpo", "norm_itpo_to_go", "signed_norm_itpo") if name in names]
Markdown(tables.markdown(text[table["name"].isin(own) & (table["group"] == table["group"].iloc[0])]))

# %% [markdown]
# ## What not to conclude
#
# - **Nothing about training.** One step at a policy that trajectory-share made; steps are clipped, and policies differ later.
# - **Not from one seed.** Batches vary here; base model and policy of a cell do not.
# - **Not from a corridor to people.** Nobody reacts here: the visitor walks on whatever was said.

# %% [markdown]
# ## Exercises
#
# **1.** Doors come first in the map. If all of three doors were opened, which return do the halls after the last door get from
# trajectory-share, and which from the judge?
#
# <details><summary>Solution</summary>
#
# The whole outcome from trajectory-share, at every hall; nothing from the judge, whose last reward stands at the third door. Before
# baselines: `released` then takes the same mean off each turn, halls too, and `to_go` only what others still had to come.
# </details>
#
# **2.** Why should turn credit be worth more with two rollouts of a prompt than with sixteen?
#
# <details><summary>Solution</summary>
#
# The leave-one-out baseline of two rollouts is one other outcome, 0 or 1: trajectory-share then pushes all turns of a dialogue by a
# number that is mostly luck. With sixteen the baseline is close to the prompt's mean, and there is less noise that credit could remove.
# </details>
