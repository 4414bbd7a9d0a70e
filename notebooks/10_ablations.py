# %% [markdown]
# # Appendix: one setting at a time
#
# **Is what notebook 13 finds a matter of one setting?** Four are changed here, one at a time, on math tutoring under RLOO: the temperature eta of
# the softmax (5) that makes Norm-ITPO's weights (F18), the beta of the PRM's rewards (2) and loss (3) (F19), the size of the base model
# (F20), and how many updates a batch gives the PRM: 8 here, 32 in the released code [C]. The captions of F18 to F20 are not known to us;
# these are ours [O].

# %% [markdown]
# The instrument is the gradient microscope: what a method's credit is *worth*, in times the batch of trajectory-share, at one policy after
# a few steps. All else stays as it is. So this asks what a setting does to credit, and it is an exploration: training decides.

# %% tags=["parameters"]
profile = "laptop"

# %%
from IPython.display import Markdown, clear_output

from itpo.figures import microscope as draw
from itpo.figures.publishing.registry import publish
from itpo.figures.style import use_style
from itpo.runs.paths import runs_root
from itpo.runs.sweep import sweep
from itpo.study import ablations, microscope, tables
from itpo.study import microscope_tables as worth
from itpo.study.profiles import get_profile

use_style("10_ablations")
scale = get_profile(profile)

# %%
steps, batches, values = (1, 4, slice(2)) if profile == "smoke" else (4, 24, slice(None))
cells = ablations.ablations(scale, steps, batches, values)
runs = dict(zip(cells, sweep(runs_root(), list(cells.values()), microscope.measure), strict=True))
clear_output()
size = f"{batches} batches of {scale.run.prompts * scale.run.rollouts} dialogues after {steps} steps, seed {microscope.SEED}"
Markdown(f"{tables.scale_note(scale)} {len(set(cells.values()))} policies, {size}.")

# %% [markdown]
# ## 1. The picture
#
# **How to read it.** A line is a value of a setting. A low *eta* rewards the one turn that the PRM likes best, a high one all turns alike; it
# changes neither policy nor PRM, so its lines share their batches. A small *beta* lets the PRM move far from the reference before its loss
# is content; the softmax then sees differences of another size. Each *width* is a base model with a warm start of its own. The profile's own
# values are eta 0.4, beta 0.05, width 64 and 8 updates (width 32 at `smoke`).

# %%
table = ablations.sort_etas(microscope.map_table(runs))
widths = {cell.run.model.hidden_size: cell.run.model for cell in cells.values()}
weights = ", ".join(f"{width}: {ablations.parameters(model):.0f}" for width, model in sorted(widths.items()))
publish(
    draw.worth_map,
    "F18_settings",
    profile,
    "F18 to F20 by the microscope: what a method's credit is worth, in times the batch that trajectory-share would need for a gradient with the "
    "same cosine to the true one. Blue: more than 1, red: less; grey: the difference of cosines does not count; empty: the method has no eta. Depth of colour: the estimate. Thousand "
    f"weights beside the vocabulary by width: {weights}. Math tutoring, RLOO, {size}.",
    table=table[["group", "setting", "name", "label", "worth", "counts"]],
)

# %% [markdown]
# ## 2. What it says
#
# Computed from the picture, setting by setting:

# %%
said = [f"**{worth.better_anywhere(table, 'values')}**\n"]
for group, lines in table.groupby("group", sort=False):
    said.append(f"**{group}**\n")
    said += [f"- {text}" for text in worth.findings(lines, list(lines["name"].unique()), "values")] + [""]
Markdown(tables.mark(scale) + "\n".join(said))

# %%
columns = [tables.Column("setting", "group"), tables.Column("value", "setting"), *worth.COLUMNS]
note = f"One setting at a time in numbers, math tutoring: {size}; intervals by the jackknife over batches."
text = tables.as_text(table, columns)
tables.write_table(text, table, "ablations", scale, note)
Markdown(tables.markdown(text[table["name"] == "norm_itpo"]))

# %% [markdown]
# ## What not to conclude
#
# - **Not a best value.** The largest of four is expected to lie above their mean even if the setting does nothing.
# - **Not that settings act alone.** Each was moved with the others held at the profile's values.
# - **Nothing about documents and medical**, which were not measured here.

# %% [markdown]
# ## Exercises
#
# **1.** At eta = 6.4 the weights of a dialogue of four turns lie between which bounds, if its turn rewards differ by at most 2?
#
# <details><summary>Solution</summary>
#
# The largest is highest if the other three are 2 below it: 1 / (1 + 3 exp(-2 / 6.4)) = 0.31; the smallest is lowest if the
# others are 2 above: 1 / (1 + 3 exp(2 / 6.4)) = 0.20. All turns get about a quarter: an equal split.
# </details>

# %% [markdown]
# **2.** *eta* changes neither the policy nor the PRM of a measurement, *beta* does. Which of the two could you still choose after the batches
# were held?
#
# <details><summary>Solution</summary>
#
# *eta*: it is used in (5) alone, after the token rewards are known. *beta* stands in the loss (3), so another one needs another PRM, taught
# from the start; multiplying the old PRM's rewards by a factor is not the same.
# </details>
