# %% [markdown]
# # The method on four conversations
#
# A language model talks with a user over several turns. At the end comes one number: did it go well? **Which of the turns earned
# it, and how does the model learn from that?**
#
# Here is every equation of *Implicit Turn-Wise Policy Optimization* (ITPO), each beside the function that computes it, on four
# dialogues that are small enough to check by hand. Nothing is trained and no model is loaded: the numbers that models would
# give are written down. It takes seconds, at every profile. (`01_training` runs the same functions in a training.)
#
# Marks say where a definition comes from: [P] the paper's abstract and captions, [C] its released code, [S] secondary sources,
# [O] our own choice.
#
# The whole method in one picture:

# %% tags=["parameters"]
profile = "laptop"

# %%
import pandas as pd
import torch

from itpo import advantages, attribution, losses, prm, turns
from itpo.figures import framework
from itpo.figures import method as draw
from itpo.figures.publishing.registry import publish_by_hand
from itpo.figures.style import use_style
from itpo.study import walkthrough

use_style("01_method")
framework.framework()

# %% [markdown]
# The words, once:
#
# - The *policy* is the model that is trained. The *reference* is the same model before training, and stays as it is.
# - A *dialogue* alternates between user and policy, and is made of *tokens*. It ends with an *outcome* $R$ between 0 and 1.
# - The *process reward model* (PRM) starts as the reference and learns to predict $R$: tokens to which it gives a higher
#   probability than the reference are those it finds in successes.
# - A *reward* is a part of the credit that is placed on one token. The *return* of a token is the sum of the rewards from it on.
# - The *advantage* of a token is its return compared with a *baseline*, what was to be expected anyway. A positive one makes
#   the token more likely.

# %% [markdown]
# ## Four dialogues with one user
#
# A dialogue that the policy held is called a *rollout*; rollouts of the same prompt form a *group*. Ours has four, of 1, 2, 3 and
# 4 turns. Below, `u` is a user token, `a` an assistant token, a dot is padding. An outcome $R\in[0,1]$ comes once, at the end
# [P]; the last one here is half a success.

# %%
rollouts = ["uaaa.........", "uaauaa.......", "uaauaaauaa...", "uaauaauaaauaa"]
outcome = torch.tensor([1.0, 0.0, 1.0, 0.5])
response_mask = torch.tensor([[token == "a" for token in rollout] for rollout in rollouts])
turn_ids = turns.turn_ids(response_mask)
has_turn = turns.turn_mask(turn_ids)
names = [f"{'ABCD'[b]}: $R$ = {R:g}" for b, R in enumerate(outcome.tolist())]
pd.DataFrame(turn_ids.tolist(), index=list("ABCD")).rename_axis("turn of each token (-1: none)", axis=1)

# %% [markdown]
# ## Equation 1: the log-ratio of a token
#
# $$q_t=\log\pi_\phi(a_t\mid s_t)-\log\pi_{ref}(a_t\mid s_t)\tag{1}$$
#
# $\pi_\phi$ is the PRM, $\pi_{ref}$ the frozen reference [C]. We pretend that the reference gave every token the log-probability
# $-1$, and write down what the PRM has learned to change.

# %%
ratios = [0.6, 0.9, 0.3, -0.2, 0.4, -1.2, -0.6, 0.1, -0.1, 0.8, 1.2, 0.4, -0.2, 0.1]
ratios += [0.3, 0.0, -0.5, -0.3, 0.2, 0.6, 0.1, -0.1, 0.2]
logp_ref = torch.full(response_mask.shape, -1.0)
logp_prm = logp_ref.masked_scatter(response_mask, torch.tensor(ratios) - 1.0)
q = prm.log_ratio(logp_prm, logp_ref, response_mask)


def by_token(values):
    """A line for each dialogue and a column for each token, empty at the user's."""
    table = pd.DataFrame(values.masked_fill(~response_mask, torch.nan).tolist())
    table.insert(0, "dialogue", names)
    return table


draw.token_grid(by_token(q), "log-ratio $q_t$ [nats]")

# %% [markdown]
# *What to see:* a number for each token that the policy chose, and none for the user's: they are outside the mask. In C the
# PRM likes the second turn, in B it dislikes the second.
#
# ## Equation 2: the reward of a token
#
# $$r_t=\beta\,q_t\tag{2}$$
#
# The released math runs take $\beta=0.05$ for ITPO and $0.01$ for Norm-ITPO [C]; ours here is larger, so that the numbers show
# [O].

# %%
beta = 0.5
token_rewards = prm.token_rewards(logp_prm, logp_ref, response_mask, beta)
draw.token_grid(by_token(token_rewards), "reward $r_t$ [logits]")

# %% [markdown]
# *What to see:* the same picture on another scale. This is already one method of Table 1: PRIME rewards each token by $r_t$.
#
# ## Equation 3: where the PRM's knowledge comes from
#
# $$L_\phi=\mathrm{BCE}\Big(\sigma\big(\beta\textstyle\sum_t q_t\big),\,R\Big)\tag{3}$$
#
# The sum over a whole conversation is read as the logit of success. Only the outcome enters; it may be soft.

# %%
logit = prm.implicit_return(q, response_mask, beta)
loss = prm.outcome_loss(q, outcome, response_mask, beta)
table = {"implicit return": logit, "predicted success": logit.sigmoid(), "outcome": outcome}
pd.DataFrame(table, index=list("ABCD")).style.format("{:.2f}").set_caption(f"loss (3): {loss:.3f} nats")

# %% [markdown]
# *What to see:* A and C are predicted to succeed, B to fail, as they do; D is half a success and predicted as about that. A
# PRM that knows nothing says 0.5 everywhere, a loss of $\log 2\approx0.693$.
#
# ## Equation 4: the reward of a turn
#
# $$R_k=\sum_{t\in T_k}r_t\tag{4}$$
#
# `turns.aggregate` has two more reductions: the mean, and the mean times the batch's mean turn length, which the released
# code feeds to equation (5) so that long turns are not favoured [C].


# %%
def by_turn(values):
    """A line for each dialogue and a column for each turn, empty where there is none."""
    table = pd.DataFrame(values.masked_fill(~has_turn, torch.nan).tolist(), index=list("ABCD"))
    return table.rename(columns=lambda k: f"turn {k + 1}")


sums = turns.aggregate(token_rewards, turn_ids)
reductions = {name: by_turn(turns.aggregate(token_rewards, turn_ids, name)) for name in turns.REDUCTIONS}
pd.concat(reductions).style.format("{:.2f}", na_rep="")

# %% [markdown]
# *What to see:* the second turn of C stands out by its sum; its mean is less exceptional, since that turn has three tokens
# and the others two.
#
# ## Equation 5: which turn was it?
#
# $$w_k=\mathrm{softmax}_k\big(R_k/\eta\big)\tag{5}$$
#
# Read $R_k$ as evidence that turn $k$ is *the* pivotal one: then (5) is a posterior over turns, under a uniform prior. The
# temperature $\eta$ is 0.4 in the released runs [C], the vertical line below.

# %%
eta = 0.4
weights = turns.normalize(sums, has_turn, eta)
curves = walkthrough.weight_table(sums, has_turn, torch.logspace(-1.3, 1.3, 60).tolist(), names)
draw.weight_curves(curves)

# %% [markdown]
# *What to see:* on the right every turn weighs the same, on the left the largest $R_k$ takes all. Where a curve bends depends
# on the scale of $R_k$, so $\eta$ and $\beta$ cannot be chosen apart. A single turn always weighs 1.
#
# ## Equation 6: Norm-ITPO
#
# $$R_k\leftarrow w_k\,R,\qquad\text{so that}\quad\textstyle\sum_kR_k=R\tag{6}$$
#
# The PRM decides *where* the outcome is placed, and no longer *how much* is.

# %%
normalised = attribution.norm_itpo(token_rewards, outcome, turn_ids, temperature=eta)
draw.token_grid(by_token(normalised), "reward $w_kR$ [outcome]")

# %%
by_turn(weights * outcome[:, None]).assign(sum=normalised.sum(1), outcome=outcome).round(3)

# %% [markdown]
# *What to see:* rewards sit on the last token of each turn, and those of a dialogue add up to its outcome. B has no outcome to
# share: with $R=0$ the PRM's dislike of its second turn leaves no trace.
#
# ## Every method of Table 1, side by side
#
# **Question.** Where does each method put the credit? The registry `attribution.METHODS` holds one function for each, and
# `attribute` gives it the signals that it declares. `uniform` draws its split at random [O]. Two methods read something else than
# the PRM, which we write down too: `judge` a judge's score of each turn, and `value_model` a critic's value $V_t$ of the state
# before each token, here the same within a turn. Its reward is the *change* of the value, and $R-V_t$ at the end.

# %%
generator = torch.Generator().manual_seed(0)
signals = {"outcome": outcome, "turn_ids": turn_ids, "response_mask": response_mask, "generator": generator}
signals |= {"token_rewards": token_rewards, "temperature": eta}
signals["judge_scores"] = torch.tensor([[3.0, 0, 0, 0], [2, 1, 0, 0], [1, 3, 1, 0], [2, 0, 3, 1]])
value = torch.tensor([[0.6, 0, 0, 0], [0.6, 0.3, 0, 0], [0.6, 0.7, 0.8, 0], [0.6, 0.5, 0.3, 0.4]])
signals["values"] = value.gather(1, turn_ids.clamp(min=0)) * response_mask

# %%
rewards = {method: attribution.attribute(method, **signals) for method in attribution.METHODS}
tokens = walkthrough.reward_table(rewards, turn_ids, dict(enumerate(names)))
caption = "The rewards of each method on four rollouts written by hand, without baseline. Bars: rewards; dashes: the return of a token."
publish_by_hand(draw.rewards, "method_rows", profile, caption, tokens=tokens)

# %% [markdown]
# *What to see:* a reward at the end of turn $p$ reaches the return (dash) of every token up to $p$ and none after it. So
# rewarding the pivotal turn rather than the last one *spares the turns after the pivot*. Nothing else distinguishes turn-wise
# credit from trajectory-share, and where the last turn decides, there is nothing to gain.
#
# For the value model the dash is not what the policy sees: its rewards are already differences to an expectation, so notebook
# 05 uses each by itself.

# %% [markdown]
# ## From rewards to advantages: RLOO, and a bias in it
#
# Leave-one-out (RLOO) compares a rollout with the $n-1$ others of its group. The released code does so with the mean reward $m_i$
# over a rollout's reward positions, at *every* reward position [C]:
#
# $$\tilde r=\frac{n}{n-1}\,r-\frac1{n-1}\sum_jm_j$$
#
# From a dialogue of four turns this baseline is thus subtracted four times, from one of a single turn once. What does that do?
# Take three equally successful dialogues with 1, 2 and 4 turns, whose outcome 1 is split evenly.

# %%
patterns = ("uaaaaaaa", "uauaaaaa", "uauauaua")
equal = turns.turn_ids(torch.tensor([[token == "a" for token in pattern] for pattern in patterns]))
even = attribution.norm_itpo(torch.zeros(equal.shape), torch.ones(3), equal, temperature=1.0)
ends = attribution.reward_mask("turn", equal)
bias = {kind: advantages.rloo(even, ends, 3, kind).sum(1) for kind in advantages.BASELINES}
draw.baseline_bias(pd.DataFrame({"turns": [1, 2, 4], **bias}))

# %% [markdown]
# *What to see:* the return of the first token, before whitening. These dialogues are equally good, and `released` rewards
# brevity. `trajectory` subtracts the others' mean *total* once, at the last reward position. `to_go` [O] compares at every turn
# what is still to come: a dialogue's k-th turn with the k-th turns of the others, as far as they have one. Both give 0.
#
# Now the four rollouts, with each baseline, as returns of their first tokens.

# %%
mask = attribution.reward_mask("turn", turn_ids)
baselined = {kind: advantages.rloo(normalised, mask, 4, kind) for kind in advantages.BASELINES}
to_go = {kind: advantages.returns(rewards, response_mask) for kind, rewards in baselined.items()}
pd.DataFrame({kind: values[:, 1] for kind, values in to_go.items()}, index=list("ABCD")).assign(
    R=outcome
).round(3)

# %% [markdown]
# *What to see:* with `trajectory` and `to_go` it is $R$ minus the mean of the other three outcomes; with `released`, half a
# success in four turns (D) comes out worse than a failure in two (B).
#
# **Whitening** makes mean 0 and variance 1 over all assistant tokens of the batch, with Bessel's correction [C]. The advantages
# of Norm-ITPO with the `trajectory` baseline:

# %%
draw.token_grid(by_token(advantages.whiten(to_go["trajectory"], response_mask)), "advantage [s.d.]")

# %% [markdown]
# *What to see:* B is blamed by the comparison alone, all its tokens alike. C succeeded, yet its last turn is blamed: most of the
# reward lies behind it, at the pivotal second turn, and the baseline is still to come. The turns after the pivot are not merely
# spared, they are held against the average.
#
# The same with `to_go`:

# %%
draw.token_grid(by_token(advantages.whiten(to_go["to_go"], response_mask)), "advantage [s.d.]")

# %% [markdown]
# *What to see:* every turn is compared with those of the same number. The late turns of D are no longer held against successes
# that were over by then; its fourth, which no other dialogue reached, is compared with nothing. C's last turn is blamed still,
# because the only other dialogue that got so far, D, had more to come: where few get far, few compare.

# %% [markdown]
# ## The policy's loss
#
# With $\rho_t=\pi_\theta/\pi_{old}$ and $d_t=\log\pi_{ref}-\log\pi_\theta$, the policy minimises, averaged over assistant
# tokens [C],
#
# $$-\min\big(\rho_tA_t,\ \mathrm{clip}(\rho_t,0.8,1.2)\,A_t\big)+10^{-3}\,\big(e^{d_t}-d_t-1\big)-10^{-3}\,H_t.$$

# %%
token, zero = torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, 1)
rho, d, p = torch.linspace(0.5, 1.6, 111), torch.linspace(-2, 2, 81), torch.linspace(0.01, 0.99, 99)


def surrogate(gain):
    """The clipped loss of one token with this advantage, at every ratio."""
    return [losses.clipped_surrogate(r.log().view(1, 1), zero, zero + gain, token).item() for r in rho]


clipped = pd.DataFrame({r"ratio $\rho_t$": rho, "$A_t$ = +1": surrogate(1), "$A_t$ = -1": surrogate(-1)})
k3 = [losses.kl_k3(zero, x.view(1, 1), token).item() for x in d]
divergence = pd.DataFrame({"$d_t$ [nats]": d, "k3": k3, "$-d_t$": -d})
two_words = torch.distributions.Bernoulli(p).entropy()
draw.loss_curves(
    clipped, divergence, pd.DataFrame({"probability of one of two tokens": p, "entropy": two_words})
)

# %% [markdown]
# *What to see:* left, the loss goes flat once a good token is 1.2 times as likely or a bad one 0.8 times: no gradient beyond.
# Middle, k3 is never negative, while the plain log-ratio $-d_t$, with the same mean over the policy's own tokens, often is.
# Right, the entropy that the bonus keeps from collapsing.

# %% [markdown]
# ## Algorithm 1
#
# > **repeat**
# > 1. sample prompts, and roll out $n$ dialogues with each; score them: $R$
# > 2. update the PRM by (3)
# > 3. compute the rewards (1)-(2) under the *updated* PRM
# > 4. attribute: turn rewards (4), weights (5), rewards (6)
# > 5. advantages: baseline, returns, whitening
# > 6. a few minibatch updates of the policy
#
# The order of 2 and 3 is the released code's "double forward" [C]. Rewards beside the method's own (a length penalty, the
# outcome as a second source) get a baseline of their own, and what is left is summed [C]. RLOO is the only estimator of the
# released code [C]; notebook 05 has GRPO and PPO beside it.
#
# The six lines are `itpo.trainer.training_step`. Notebook `01_training` runs them one by one.

# %% [markdown]
# ## Exercises
#
# **1.** Add a constant $c$ to every turn reward $R_k$ of a dialogue. What becomes of ITPO's rewards, what of Norm-ITPO's?
#
# <details><summary>Solution</summary>
#
# Softmax does not change when a constant is added to all its inputs, so $w_k$ and $w_kR$ stay. ITPO's rewards are $Kc$ larger in
# total, and the first token's return grows by $Kc$: a PRM with an offset makes longer dialogues look better or worse. Check it:
#
# ```python
# print(turns.normalize(sums + 3.0, has_turn, eta) - weights)
# ```
# </details>
#
# **2.** In which dialogue do trajectory-share and Norm-ITPO give every token the same return, whatever the PRM says?
#
# <details><summary>Solution</summary>
#
# In one with a single turn ($w_1=1$: A above), and in one with $R=0$ (all rewards are 0: B above). Otherwise only the *first* turn
# has the return $R$; later ones have what is still to come.
# </details>

# %% [markdown]
# **3.** Why does $\beta$ cancel if the token rewards are rescaled by `prm.batch_norm`, and where does it still matter?
#
# <details><summary>Solution</summary>
#
# `batch_norm` divides all rewards by the batch's largest absolute reward-to-go, which is itself proportional to $\beta$.
# Rewards after it do not depend on $\beta$ (up to the $10^{-6}$ that is added). It still scales the logit in (3), hence what
# the PRM learns: with a small $\beta$ the log-ratios must grow larger to predict an outcome equally well. Check it:
#
# ```python
# print(prm.batch_norm(token_rewards) - prm.batch_norm(10 * token_rewards))
# ```
# </details>
