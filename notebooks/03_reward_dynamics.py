# %% [markdown]
# # Reward dynamics: what the process reward model comes to praise and to blame
#
# ITPO rewards the turns of a dialogue by a model that never saw a label for a turn. It is only trained to tell good *dialogues*
# from bad ones, and its opinion on a turn is read off its log-probabilities. Which turns does it come to praise? We look at its opinions while they
# form: in one dialogue, token by token, and then over all dialogues that we watch.
#
# Marks: [P] the paper's abstract and captions, [C] its released code, [S] secondary sources, [O] our own choice.

# %% tags=["parameters"]
profile = "laptop"

# %%
import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Markdown, clear_output, display

from itpo.figures import framework
from itpo.figures import results as draw
from itpo.figures.publishing.registry import publish, publish_by_hand
from itpo.figures.style import use_style
from itpo.runs.paths import runs_root
from itpo.runs.sweep import sweep
from itpo.study import reward_dynamics, tables
from itpo.study.profiles import get_profile
from itpo.trainer import train

use_style("03_reward_dynamics")
scale = get_profile(profile)

# %% [markdown]
# ## 1. The whole method in one picture
#
# **How to read it.** Left: policy and user talk. Top: their dialogue, which ends with an outcome $R$; by (3) that outcome
# trains the process reward model (PRM). In the middle, from top to bottom: the PRM's token rewards (2) of a made-up dialogue,
# their sums over turns (4), the weights that a softmax makes of them (5), and the outcome split in that proportion (6), from which
# the policy's advantages are estimated.

# %%
caption = "F1. ITPO: the outcome of a dialogue trains the PRM, and the PRM says which turns earned it. Made-up numbers."
example = {"turns": framework.TURNS, "tokens": framework.TOKENS}
display(publish_by_hand(framework.framework, "F01_framework", profile, caption, **example))
plt.close("all")

# %% [markdown]
# ## 2. The dialogues that we watch
#
# Before training, the untrained policy held some dialogues once and for all: the *monitor set*. The PRM never learns from them.
# While it trains on others, we ask it again and again for the log-ratio (1) of each of their tokens. Nothing about these dialogues
# changes over training except the PRM's opinion. Methods without a PRM have no monitor set.

# %%
runs = sweep(runs_root(), scale.grid(), train)
clear_output()
judged = [run for run in runs if run.monitor()]
Markdown(tables.scale_note(scale))

# %% [markdown]
# ## 3. One case
#
# **Which one?** Not the prettiest. The rule: the first failed dialogue of the monitor set of at least four turns in which a vague
# or doubtful answer was not repaired by the very next turn, the only one that can; failing that, the first failed one of at least
# four turns; failing that, the first of that length. The PRM is that of Norm-ITPO's first seed. All methods and seeds have the
# same monitor set.

# %%
first = next(run for run in judged if run.config.method.name == "norm_itpo")
watched = reward_dynamics.read_monitor(first)
case, rule = reward_dynamics.choose_case(watched)
outcome = "succeeds" if watched.outcome[case] > 0.5 else "fails"
Markdown(f"Chosen: {rule}. It is number {case + 1} of {len(watched.outcome)}, and it {outcome}.")

# %%
kinds = iter(watched.kinds(case))
lines = [
    {"role": m.role, "text": m.content, "kind of turn": next(kinds) if m.role == "assistant" else ""}
    for m in watched.messages(case)
]
Markdown(tables.markdown(pd.DataFrame(lines)))

# %% [markdown]
# **Question.** Does the PRM come to single out a turn of this dialogue, and does it do so sooner for turns than for tokens?
#
# **Method.** The token rewards are (2), the turn rewards their sums (4). Their scale grows while the PRM trains, so at each
# step both are divided by the largest absolute value that they have in this dialogue at this step: *relative* rewards [O], as
# the paper's caption has them [P], though its own scaling is not known to us. The division is the same for both and changes
# no sign and no order.

# %% [markdown]
# **How to read it.** Along the horizontal axis stands the dialogue's every assistant token, in order; a white line separates
# two turns, and above them stands what the turn does and what the user answered. Upwards runs training. Blue is praise, red
# is blame. A column that keeps its colour is an opinion that lasts. In the upper half a turn has one colour for all its
# tokens; in the lower half each token has its own.

# %%
publish(
    draw.reward_dynamics,
    "F02_reward_dynamics",
    profile,
    f"F2. Relative implicit rewards of one dialogue of the monitor set over training, turns (above) against tokens (below); math tutoring, Norm-ITPO, seed "
    f"{first.config.seed}. At each step divided by the largest absolute value in the dialogue; blue: praise, red: blame. Magenta: a missed "
    f"repair. The case: {rule}.",
    **reward_dynamics.case_frames(watched, case),
)

# %% [markdown]
# How lasting the opinions are, in numbers and over all dialogues of the monitor set instead of one, is the subject of notebook 04.

# %% [markdown]
# ## 4. Which kinds of turns are praised?
#
# **Question.** One case proves nothing. Over the whole monitor set: does the PRM credit the kinds of turns that matter by the task's
# rules? A *missed repair* is a turn that followed a vague or doubtful answer without repairing it; *clarify* and *verify* are
# the repairs. Of the other kinds, asking is needed, assuming throws a number away, and chatting wastes a turn.
#
# **Method.** The turn rewards (4) under the last PRM of each Norm-ITPO run, minus the mean over the same dialogue's turns:
# what is left says which turn is credited *more than its neighbours*, in logits of (3). Averaged over turns of a kind within a run,
# then over runs, successful and failed dialogues apart.

# %% [markdown]
# **How to read it.** Right of the line: credited more than the other turns of its dialogue. Bars: 95 % t-interval over seeds;
# they may leave the picture. Kinds of few turns are in the CSV file beside the picture with their number of turns.

# %%
credit = reward_dynamics.credit_by_kind([run for run in judged if run.config.method.name == "norm_itpo"])
band = tables.bands(credit, by=["kind"], along="success")
counts = credit.groupby(["kind", "success"])["turns"].max().rename("turns").reset_index()
publish(
    draw.credit_by_kind,
    "F02_credit_by_kind",
    profile,
    "Beside F2 [O]. Turn reward (4) minus its dialogue's mean, by kind of turn, under the last PRM of Norm-ITPO; mean and 95 % "
    "t-interval over seeds.",
    band=band.merge(counts),
)

# %% [markdown]
# The two comparisons that the task's rules predict, over both outcomes together and paired by seed: a repair should be
# credited above a missed repair, and asking for a number above assuming it.

# %%
Markdown(reward_dynamics.credit_text(credit, scale))

# %% [markdown]
# **Two cautions.** A kind's credit mixes what the turn does with what came before it, as a missed repair needs a bad answer
# first. And Norm-ITPO multiplies the weights by the outcome (6): in a failed dialogue all rewards are 0, however the PRM ranks
# its turns. There, only the leave-one-out baseline speaks.

# %% [markdown]
# ## Exercises
#
# **1.** How would picture F2 look if the PRM were trained twice as strongly, so that every log-ratio (1) were exactly twice as large at
# every step?
#
# <details><summary>Solution</summary>
#
# Just the same. At each step both kinds of rewards are divided by their largest absolute value, and a factor common to all cancels. So the
# picture cannot show how *sure* the PRM is, only how it shares its opinion out; notebook 06, section 7, draws the sizes.
# </details>

# %% [markdown]
# **2.** In how many dialogues of the monitor set is the turn with the highest reward the last one? Compare with a guess.
#
# <details><summary>Solution</summary>
#
# ```python
# last = watched.turn_mask.sum(1) - 1
# best = pd.DataFrame(watched.turn_rewards[-1]).where(watched.turn_mask).idxmax(axis=1)
# print((best == last).mean(), (1 / (last + 1)).mean())
# ```
#
# A share far from the guess says that the PRM has learned a *place*, which is no merit of a turn. That is why the ledger compares C9 with
# always naming one place.
# </details>
