# %% [markdown]
# # Which turn earned it? Credit against an oracle
#
# Every method of Table 1 says how much each turn contributed to a dialogue's outcome. None of them knows what the turns were
# really worth. In a scripted task that can be measured: the user is a script, the score is exact, and a conversation can be
# continued as often as we like. This notebook measures it, and how close each method came. All of it is our own [O]; the
# paper asks three human experts instead.
#
# **Claims to test.** C9: turn preferences agree with judgement, here the oracle's. C7: ITPO and Norm-ITPO agree on the order
# of turns. C8: normalisation keeps the scale of rewards stable.
#
# Marks: [P] the paper's abstract and captions, [C] its released code, [S] secondary sources, [O] our own choice.

# %% tags=["parameters"]
profile = "laptop"

# %%
from itertools import product

import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown, clear_output

from itpo import advantages
from itpo.attribution import METHODS
from itpo.estimators import ESTIMATORS
from itpo.figures import credit as draw
from itpo.figures.publishing.registry import publish
from itpo.figures.style import use_style
from itpo.runs.paths import runs_root
from itpo.runs.sweep import sweep_groups
from itpo.study import claims, credit_fidelity, credit_tables, oracle, reward_dynamics, tables
from itpo.study.oracle import OracleConfig
from itpo.study.profiles import get_profile
from itpo.study.statistics import Interval, judge
from itpo.trainer import train

use_style("06_credit")
scale = get_profile(profile)
# Continuations of each history: under each run's final policy, and under the reference (measured once).
OWN, REFERENCE = credit_tables.CONTINUATIONS[profile]

# %% [markdown]
# ## 1. The runs
#
# Every method under RLOO with every seed; for order and scale also ITPO and Norm-ITPO under GRPO and PPO. All runs are observed on the
# same *monitor set*: dialogues that the untrained policy held before training, and from which nothing learns.

# %%
turnwise = ("itpo", "norm_itpo")
grids = {
    name: [c for c in scale.grid(name) if name == "rloo" or c.method.name in turnwise] for name in ESTIMATORS
}
trained = sweep_groups(runs_root(), grids, train)
runs = [run for group in trained.values() for run in group]
rloo = trained["rloo"]
judged = [run for run in rloo if run.config.method.name in turnwise]
clear_output()
Markdown(tables.scale_note(scale))

# %% [markdown]
# ## 2. The oracle
#
# Stop a conversation somewhere and let it go on $N$ times, the policy sampling its turns and the user drawing its replies.
# The mean outcome estimates the **value** $V$ of the conversation so far. What turn $k$ is worth is its **advantage**:
#
# $$A_k = V(\text{up to and with turn } k) - V(\text{up to the message that it answers})$$
#
# A good question raises the chance of success, a wasted turn lowers it, a turn that changes nothing has $A_k=0$. Whether the
# user then answers kindly or not is luck and belongs to no turn: each continuation draws its own reply.
#
# $V$ depends on who goes on. We use two policies: the **own final policy** of each run of ITPO and Norm-ITPO under RLOO, and the
# **reference** from which all runs start, whose values are the same for all of them.

# %%
settings = OracleConfig(rloo[0].config, policy="reference", continuations=REFERENCE)
truths = {"own": [OracleConfig(run.config, continuations=OWN) for run in judged], "reference": [settings]}
own, (reference,) = sweep_groups(runs_root(), truths, oracle.measure).values()
clear_output()
Markdown(f"{len(own)} policies with {OWN} continuations of each history, the reference with {REFERENCE}.")

# %% [markdown]
# ### One dialogue, turn by turn
#
# **Which one?** That of notebook 03: by rule, the first failed dialogue of the monitor set of at least four turns in which a vague or
# doubtful answer was left unrepaired, or failing that the next best. Its turns are valued under the reference, the policy that spoke.

# %%
seed = scale.seeds[0]
first = {run.config.method.name: run for run in rloo if run.config.seed == seed}
watched = reward_dynamics.read_monitor(first["norm_itpo"])
case, rule = reward_dynamics.choose_case(watched)
outcome = watched.outcome[case]
scored = {row: credit_fidelity.score_turns(run, reference) for row, run in first.items()}
Markdown(f"Chosen: {rule}; number {case + 1} of {len(watched.outcome)}, with outcome {outcome:.0f}.")

# %%
truth, _ = oracle.read(reference)
turns = range(int(truth.turn_mask[case].sum()))
texts = {
    role: [message.content for message in watched.messages(case) if message.role == role][: len(turns)]
    for role in ("user", "assistant")
}
values = {
    name: getattr(truth, name)[case, turns].numpy() for name in ("before", "before_se", "after", "after_se")
}
table = pd.DataFrame({"turn": [k + 1 for k in turns], **texts, **values})
lines = []
for row, scores in scored.items():
    centred = scores.preference[case, turns] - scores.preference[case, turns].mean()
    preference = centred / (np.abs(centred).max() or 1.0)
    lines += [(row, k + 1, scores.credit[case, k], preference[k]) for k in turns]
credit = pd.DataFrame(lines, columns=["row", "turn", "reward", "preference"])

# %% [markdown]
# **How to read it.** Left, from top to bottom, the conversation. Below each turn of the assistant its value before (open dot)
# and after (full dot), with standard errors: blue leads up, red leads down. The value may change *between* two turns: that
# is the user's reply. Right, the turn's reward by each method after its last step (the first seed, RLOO): shares of the outcome,
# or for PRIME and ITPO, which use the PRM's own rewards, logits; their second source, the outcome itself, is left out. The
# colour shows which turns a method prefers to the others of this dialogue, whatever the rewards. White throughout: no preference.

# %%
publish(
    draw.story,
    "F23_one_dialogue",
    profile,
    f"Beside F23 [O]. One dialogue of the monitor set with outcome {outcome:.0f}: value before and after each turn under the reference "
    f"({REFERENCE} continuations), and its reward by each method (RLOO, math tutoring, seed {seed}).",
    turns=table,
    credit=credit,
)

# %% [markdown]
# Methods that share the outcome out give no rewards at all in a failed dialogue, however clear their preference. There the signal
# comes only from comparing dialogues, by the baseline. Hence two questions below: about the *credit*, the rewards, and about the
# *preference*, the shares before the outcome multiplies them.

# %% [markdown]
# ## 3. How far can the oracle be trusted?
#
# An advantage from few continuations is noisy, and noise in the truth lowers every correlation with it, also that of a
# perfect method.
#
# **Method.** The continuations are cut into two halves, each of which gives advantages of its own. From their correlation $r$
# follows the *reliability* of the whole, $2r/(1+r)$ (Spearman-Brown), and from its square root the **ceiling**: the
# correlation that the exact truth would have with this measurement. Both formulas are about linear correlations; those of
# ranks are taken there and back as for normal numbers, which matters where only a few turns are ranked. *Pooled* looks at all
# turns of all dialogues at once, *within* at the turns of one dialogue at a time.

# %% [markdown]
# **How to read it.** The standard error should be small beside the spread of the advantages. A ceiling near 1 means that the
# oracle limits nothing; a fidelity is to be judged as a part of its ceiling, not of 1.

# %%
measured = {f"reference, {REFERENCE}": truth}
measured |= {
    f"{r.config.method.name}, {r.config.estimator}, seed {r.config.seed}, {OWN}": oracle.read(o)[0]
    for r, o in zip(judged, own, strict=True)
}
quality = credit_tables.oracle_table(measured)
extremes = quality.set_index("oracle").iloc[1:].agg(["min", "median", "max"]).reset_index()
extremes["oracle"] = [f"final policies, {OWN}: {name}" for name in extremes["index"]]
Markdown(tables.markdown(pd.concat([quality.head(1), extremes.drop(columns="index")])))

# %% [markdown]
# The second to fourth lines are taken column by column, over all final policies.

# %% [markdown]
# ## 4. Credit fidelity
#
# **Question.** How close does each method's credit come to the true advantage of the turns?
#
# **Method.** Spearman's correlation between the rewards of the monitor set's turns after a method's last step and their
# advantage under the run's own final policy. *Pooled* over all turns, a method gains by two things: telling good dialogues from bad
# ones, which the outcome alone does to some extent, and telling their turns apart. *Within dialogues* asks only the latter: the
# mean over all dialogues in which the truth orders the turns. Where a method rewards all turns of a dialogue alike, it counts as 0;
# so trajectory-share is 0 there by construction, and each method that shares out the outcome is 0 in each failed dialogue.

# %% [markdown]
# **How to read it.** Filled: truth under the run's own policy, for ITPO and Norm-ITPO. Open: truth under the reference, whose values are
# exacter and the same for all methods. Dots are means over seeds and lines 95 % intervals, both by Fisher's z (none below six
# seeds). The short vertical stroke is the mean ceiling of that method's oracles, the dotted line that of the reference's.

# %%
frame = credit_tables.fidelity_table(judged, own)
against_reference = credit_tables.fidelity_table(rloo, [reference] * len(rloo))
by, kinds = ["estimator", "row"], ["pooled", "within"]
band, other = (credit_tables.spread(f, kinds, by, "correlation") for f in (frame, against_reference))
ceilings = credit_tables.spread(frame, [f"{kind}_ceiling" for kind in kinds], by)
fixed = {kind: credit_fidelity.ceiling(truth, kind) for kind in kinds}

# %%
publish(
    draw.credit_fidelity,
    "F23_credit_fidelity",
    profile,
    f"F23 [O]. Spearman correlation of each method's turn credit with the oracle's advantage on {len(watched.outcome)} dialogues "
    f"of the monitor set, RLOO, math tutoring; mean and 95 % interval over {len(scale.seeds)} seeds (Fisher's z). Filled: truth under the run's own final "
    f"policy ({OWN} continuations); open: under the reference ({REFERENCE}). Ceilings: strokes, under the own policy; dotted, under the reference. Line at 0: chance.",
    band=band,
    ceilings=ceilings,
    reference=other,
    reference_ceilings=fixed,
)

# %% [markdown]
# **The table.** Success after training beside fidelity. *Preference, within* is the fidelity within dialogues of the
# shares before the outcome multiplies them: what the method knows, also of failed dialogues, without regard to its rewards.

# %%
note = (
    f"Math tutoring; mean [95 % interval] over {len(scale.seeds)} seeds; truth under the reference, {REFERENCE} continuations of each "
    "history."
)
text = tables.as_text(credit_tables.fidelity_summary(against_reference), credit_tables.FIDELITY_COLUMNS)
Markdown(tables.write_table(text, against_reference, "T_fidelity_math", scale, note))

# %% [markdown]
# Does more fidelity go with more success? Over the methods (means over seeds), so that there are only as many points as methods;
# rank correlations of so few points are hardly ever certain.

# %%
means = against_reference.groupby(by, sort=False)[["success", *kinds, "preference"]].mean()
correlation = (
    means.groupby("estimator", sort=False).corr("spearman")["success"].unstack().drop(columns="success")
)
Markdown(tables.markdown(correlation.reset_index()))

# %% [markdown]
# ## 5. The best and the worst turn
#
# **Question.** The paper's experts were shown dialogues and named their best and worst turn [S]. Does a method's favourite agree
# with the oracle's?
#
# **Method.** A dialogue is a decision point if the oracle is clear: its best (or worst) turn leads every other one by more
# than two standard errors of their difference. A method hits if it prefers the same turn most (least); among equals it must
# guess, and gets that share of a hit. Two rivals know nothing of the dialogue: a *guess* (chance, which depends on the number of turns),
# and *one place*: always naming the turn, counted from the start or the end, that is most often right over all these runs.

# %% [markdown]
# **How to read it.** Dots: share of decision points hit, mean over seeds and 95 % interval by the logit (none below six seeds). Dotted: chance;
# stroke: one place. On the right, the reported study [S], best and worst turns together: other dialogues, longer ones, and the
# judgement of people instead of measured values. The two kinds of truth may be put side by side, but not compared in size.

# %%
agreed = credit_tables.agreement_shares(frame)
shares = credit_tables.spread(agreed, ["share", "chance", "place"], ["side", "row"], "share")
reported = {
    name: hits / credit_tables.REPORTED_DECISIONS for name, hits in credit_tables.REPORTED_HITS.items()
}
publish(
    draw.best_and_worst,
    "F21_best_worst_turn",
    profile,
    "F21. Share of decision points at which a method's best or worst turn is the oracle's, RLOO, math tutoring; mean over seeds and 95 % interval (logit). "
    "Dotted: chance. Black stroke: always naming the one place that is most often right. Right: agreement with experts in the "
    "paper's study [S], another task and another kind of truth.",
    band=shares,
    reported=reported,
)

# %%
note = f"Math tutoring; summed over {len(scale.seeds)} seeds; among equally preferred turns a method guesses. [S]: secondary sources, not to be compared in size."
Markdown(tables.write_table(credit_tables.agreement_text(frame), frame, "T2_agreement", scale, note))

# %% [markdown]
# ### Claim C9, for our truth
#
# **The rule.** Effect: the share of a run's decision points that are hit, minus that of a rival, best and worst turns apart. If its 95 %
# t-interval over seeds lies above 0, it *holds*; below 0, it is *reversed*; else, if the 90 % interval lies within 3 points of 0, there is
# *no difference of 3 points*; else it is *open*. The ledger (notebook 09) takes the three tasks together.

# %%
Markdown(claims.verdict_text(credit_tables.agreement_verdicts(frame), scale))

# %% [markdown]
# ## 6. Do ITPO and Norm-ITPO agree on the order of turns?

# %% [markdown]
# **With the same PRM they must.** Softmax (5) keeps the order of the turn rewards (4), so that the correlation within a
# dialogue is 1 whatever the PRM says. The question has content only for *two* PRMs: each method trains its own, on the
# dialogues of its own policy.
#
# **Method.** Spearman's correlation, within each dialogue of the monitor set of at least three turns, between the turn rewards (4) of the ITPO run
# and of the Norm-ITPO run with the same seed, over training. Runs of one seed share their PRM's initial values and, where
# their `beta` is equal, all that it learns before the first step: at step 0 they may have one PRM and agree perfectly,
# without merit. For comparison [O]: two Norm-ITPO runs of neighbouring seeds. If these agree as well, the agreement says
# little; if they agree less, the shared seed is part of it.

# %% [markdown]
# **How to read it.** Mean over seeds and, as a band, 95 % interval by Fisher's z. Dotted: above 0.9 is reported [S], for other tasks; how
# it was measured there is not known to us.

# %%
order = credit_tables.order_curves(runs)
band = tables.bands(order, by=["estimator", "pair"], kind="correlation")
publish(
    draw.order_agreement,
    "F06_itpo_norm_agreement",
    profile,
    "F6. Math tutoring. Spearman correlation within dialogues of the monitor set of at least three turns between the turn rewards (4) of an ITPO and a "
    "Norm-ITPO run of one seed; mean and 95 % interval over seeds (Fisher's z). Dashed [O]: two seeds of Norm-ITPO. Dotted: reported [S].",
    band=band,
    reported=0.9,
)

# %% [markdown]
# **Claim C7.** The correlation after the last step, by Fisher's z; it holds if its 95 % interval lies above 0. The reported 0.9 [S] stands
# beside it.

# %%
last = order[(order["step"] == order["step"].max()) & (order["pair"] == "same seed")]
verdicts = []
for name, value in last.groupby("estimator", sort=False)["value"]:
    statement = f"{name.upper()}: the order agrees better than chance; reported 0.9 [S]"
    verdicts.append(judge("C7", statement, value, margin=None, kind="correlation"))
Markdown(claims.verdict_text(verdicts, scale, scale=1.0, unit=""))

# %% [markdown]
# ## 7. The scale of the rewards
#
# **Question.** Is a success worth the same at each step of training? **Method.** At each step the least-squares slope of the
# summed implicit reward $\sum_t r_t$ on the outcome, over the monitor set, RLOO: by how much the rewards of a success exceed those
# of a failure. After normalisation (6) the turns' rewards sum to $R$, so that this slope is 1 *by construction*, at each step. **How
# to read it.** A curve that is not level means that the same success is rewarded differently as the PRM learns.

# %%
slope = credit_tables.slope_curves(rloo)
band = tables.bands(slope)
publish(
    draw.slopes,
    "F07_slope",
    profile,
    "F7. Slope of the summed implicit reward (logits) on the outcome over the monitor set, RLOO, math tutoring; mean and 95 % t-interval "
    "over seeds. Dashed: the slope of Norm-ITPO's rewards, 1 by construction.",
    band=band,
)

# %% [markdown]
# **Claim C8.** That the normalised scale is constant needs no test. What can fail is that the un-normalised one drifts.
# Effect: slope after the last step minus slope before the first, in logits; C8 *holds* if its 95 % t-interval lies above
# 0. The direction (growth, as the PRM becomes surer) is our reading [O]; an interval below 0 would be a drift too.

# %%
ends = slope.groupby(["row", "seed"], sort=False)["value"].agg(["first", "last"])
drift = (ends["last"] - ends["first"]).groupby("row", sort=False)
growth = [
    judge("C8", f"{METHODS[row].label}: the un-normalised slope grows", change, margin=None)
    for row, change in drift
]
Markdown(claims.verdict_text(growth, scale, scale=1.0, unit="logits"))

# %% [markdown]
# ## 8. What a turn costs: the baseline as credit
#
# Rewards are not yet what the policy learns from: a baseline is subtracted first. The released RLOO subtracts it at *every*
# reward position [C], so four times from a dialogue of four turns. Three dialogues with 1, 2 and 4 turns, all
# successful, the outcome split evenly; the return of each one's first token, before whitening:


# %%
def first_returns(turn_counts: list[int], outcomes: list[float]) -> pd.DataFrame:
    """Return of each dialogue's first token under each baseline; all dialogues form one group, a turn is one token."""
    count, outcome = torch.tensor(turn_counts), torch.tensor(outcomes, dtype=torch.float64)
    mask = torch.arange(int(count.max())) < count[:, None]
    rewards, n = outcome[:, None] / count[:, None] * mask, len(count)
    baselined = {f"RLOO, {b}": advantages.rloo(rewards, mask, n, b) for b in advantages.BASELINES}
    baselined["GRPO (s.d.)"] = advantages.grpo(rewards, mask, n)
    to_go = {name: advantages.returns(x, mask)[:, 0].numpy() for name, x in baselined.items()}
    to_go["PPO"] = advantages.gae(rewards, outcome.mean() * mask, mask)[0][:, 0].numpy()
    return pd.DataFrame({"turns": turn_counts, "outcome": outcomes, **to_go})


Markdown(tables.markdown(first_returns([1, 2, 4], [1.0, 1.0, 1.0]).round(3)))

# %% [markdown]
# *What to see:* equal success, unequal returns. $+0.625$, $-0.25$ and $-2$ under the released RLOO, which makes short
# dialogues look better than they are. GRPO normalises over all reward positions of the group and subtracts a mean at each of
# them: the same bias, in standard deviations. The trajectory baseline subtracts the others' mean once, and `to_go` leaves the
# first token just that: all get 0. So does PPO, here with a critic that knows the mean outcome and nothing else: its value is
# subtracted once, at the first token.

# %% [markdown]
# **On data.** The monitor set as one group, their outcomes split evenly. For each baseline: the *price* of one more turn at equal
# outcome (least squares, the outcome's effect taken out), and Spearman's correlation of the number of turns with the first
# token's return. Beside it the same correlation with the outcome itself: what is true of length in these dialogues.

# %%
returns = first_returns(watched.turn_mask.sum(1).tolist(), watched.outcome.tolist())
design = np.column_stack([np.ones(len(returns)), returns["outcome"], returns["turns"]])
correlation = returns["turns"].corr(returns["outcome"], "spearman")
lines = [{"first return": "the outcome itself", "price of a turn": np.nan, "correlation": correlation}]
for name in returns.columns[2:]:
    price = round(np.linalg.lstsq(design, returns[name], rcond=None)[0][2], 6) + 0.0
    correlation = returns["turns"].corr(returns[name].round(9), "spearman")
    lines.append({"first return": name, "price of a turn": price, "correlation": correlation})
Markdown(tables.markdown(pd.DataFrame(lines)))

# %% [markdown]
# *How to read it.* A price of 0 is fair. A negative one is subtracted whatever the turn did, also if it was the question that
# saved the dialogue; no fidelity of the rewards repairs that, since it comes after them. Trajectory-share escapes it under
# every baseline: it has one reward position a dialogue. (With singular data, where all outcomes or all lengths are equal, the
# least-squares price is not determined and the smallest one is shown.)

# %% [markdown]
# ## 9. Which reading of the equations reads the PRM best?
#
# **Question.** The sum of (4) or a mean, the scale of (2) or the released one, the temperature of (5): which gives the best
# credit *with the same PRM*? **Method.** The finished Norm-ITPO runs under RLOO are asked again with other settings; nothing
# is trained anew.

# %% [markdown]
# **What must come out.** Within a dialogue the order of the weights does not depend on the temperature, since softmax keeps it; "mean"
# and "length_normalized" differ by one factor for the whole batch, hence not in order either. So *preference* has only one
# number for each of the two kinds of reduction and each scale, up to rounding, and the temperature can change the pooled credit only: a
# low one gives the whole outcome to one turn, a high one shares it equally. The released scale drops the last token's reward
# and divides by one number.

# %%
options = [
    {"reduction": reduction, "scale": size, "temperature": eta}
    for reduction, size, eta in product(
        ("sum", "mean", "length_normalized"), ("paper", "released"), (0.1, 0.4, 1.6)
    )
]
pairs = [(r, o) for r, o in zip(judged, own, strict=True) if r.config.method.name == "norm_itpo"]
answers = credit_tables.option_table(*zip(*pairs, strict=True), options)
by_options = credit_tables.spread(answers, ["pooled", "preference"], list(options[0]), "correlation")

# %%
text = [Interval(x.mean, x.low, x.high, x.n).text(digits=2) for x in by_options.itertuples()]
table = by_options.assign(text=text).pivot_table(
    index=list(options[0]), columns="measure", values="text", aggfunc="first", sort=False
)
note = f"Norm-ITPO, RLOO, math tutoring; mean [95 % interval] over {len(scale.seeds)} seeds. The runs were trained with the profile's settings, not with these."
said = tables.mark(scale) + credit_tables.options_finding(by_options)
Markdown(
    f"{said}\n\n{tables.write_table(table.reset_index(), by_options, 'T_fidelity_options', scale, note)}"
)

# %% [markdown]
# ## What not to conclude
#
# - **High fidelity is not success.** A reward at the end of turn $k$ reaches every earlier token too, a baseline comes after
#   it, and the policy may fail to use what is right (exercise 2).
# - **The truth is that of a policy**, and the dialogues are those of the reference. How a trained policy's own turns would fare is
#   not measured here.
# - **The scripted judge knows the rules** of the task, but for a set rate of errors [O].
# - **Units differ.** Only orders are compared: one may have the right order and reward the turns far too unequally.
# - **The expert study [S] is another truth.** Being above chance here and there is what can be compared.
# - Seeds vary the training, not the monitor set: intervals do not speak of other dialogues. *Open* means that these seeds
#   cannot tell.

# %% [markdown]
# ## Exercises
#
# **1.** A method rewards each turn by exactly its true advantage, $r_k=A_k$. Its fidelity is 1. What is the total of a dialogue,
# and is that the outcome?
#
# <details><summary>Solution</summary>
#
# The sum of $A_k$ over turns is $R - V_0$ minus all that the user's replies changed: from $V$ after turn $k$ to $V$ before
# turn $k+1$. It is the part of the outcome that the assistant earned, without luck; over many dialogues of the policy that is
# valued, it has mean 0. `truth.advantage.sum(1)` against the outcome shows it (for dialogues of the reference, under
# the reference).
# </details>

# %% [markdown]
# **2.** The same method, no baseline. What is the return of the tokens of turn $k$, and is it right?
#
# <details><summary>Solution</summary>
#
# $A_k + A_{k+1} + \dots + A_K$. The later advantages have mean 0 given the history up to turn $k$, if the policy that is
# valued also speaks. So the expected return is $A_k$: unbiased without any baseline, but with the noise of all later turns,
# which `advantages.gae` with $\lambda=0$ would cut off. Credit of high fidelity is thus its own baseline; shares of the
# outcome, which are never negative, need one.
# </details>

# %% [markdown]
# **3.** Norm-ITPO gives no rewards in failed dialogues. Write a rule that uses the preference there too, still with
# $\sum_k r_k = R$, and measure its fidelity within dialogues.
#
# <details><summary>Solution</summary>
#
# One rule: blame the failure on the turns that are preferred least. With $u_k=\mathrm{softmax}(-R_k/\eta)$, let $r_k = w_k R
# - (u_k - 1/K)(1 - R)$: the second part sums to 0. In a failed dialogue the order of $-u_k$ is that of $R_k$, so that its
# fidelity within dialogues becomes that of the preference: column *preference, within* of `T_fidelity_math` is what it would
# reach.
#
# ```python
# s = credit_fidelity.score_turns(first["norm_itpo"], reference)
# mask = s.truth.turn_mask.numpy()
# u = np.where(mask, 1 / s.preference.clip(1e-9), 0.0)  # softmax(-x) is 1 / softmax(x), normalised
# u = u / u.sum(1, keepdims=True)
# blame = (u - 1 / mask.sum(1, keepdims=True)) * (1 - s.outcome[:, None])
# credit_fidelity.within(s.credit - blame * mask, credit_fidelity.true_advantage(s.truth), mask)
# ```
# </details>
