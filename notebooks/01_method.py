# %% [markdown]
# # The method on four conversations
#
# A language model talks with a user over several turns, and at the end comes one number: did it go well? Turn-wise credit asks
# which turns earned it. Here is every equation of ITPO, each beside the function that computes it, on four dialogues that are
# small enough to check by hand. Nothing is trained and no model is loaded: the numbers that models would give are written down.
# (`01_training` runs the same functions in a training.)
#
# The words, once:
#
# - The *policy* is the model that is trained. The *reference* is the same model before training, and stays as it is.
# - A *dialogue* alternates between user and policy, and is made of *tokens*. It ends with an *outcome* $R$ between 0 and 1.
# - The *process reward model* (PRM) is a third model that starts as the reference and learns to predict $R$. Where it gives a
#   token a higher probability than the reference does, it believes that this token makes success more likely.
# - A *reward* is a part of the credit that is placed on one token. The *return* of a token is the sum of the rewards from it on.
# - The *advantage* of a token is its return compared with a *baseline*, what was to be expected anyway. It trains the policy:
#   tokens with a positive advantage become more likely.
#
# Shapes are those of the library: $B$ dialogues, $T$ tokens, $K$ turns. Marks say where a definition comes from: [P] the paper's abstract and captions, [C] its released code, [S] secondary
# sources, [O] our own choice.

# %% tags=["parameters"]
profile = "laptop"

# %%
import pandas as pd
import torch

from itpo import advantages, attribution, losses, prm, turns
from itpo.figures import method as draw
from itpo.figures.publishing.registry import publish
from itpo.figures.style import use_style

use_style("01_method")

# %% [markdown]
# ## Four dialogues with one user
#
# A dialogue that the policy held is called a *rollout*; rollouts of the same prompt form a *group*. Groups may differ in size, and
# a batch may have their rows in any order, if each row says to which prompt it belongs. Our group has rollouts of 1, 2, 3 and
# 4 turns. Below, `u` is a user token, `a` an assistant token, a dot is padding. An outcome $R\in[0,1]$ comes once, at the end [P]; the last one here is half a success.

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
# $\pi_\phi$ is the process reward model (PRM), a language model that starts equal to the frozen reference $\pi_{ref}$ [C]. We
# pretend that the reference gave every token the log-probability $-1$, and write down what the PRM has learned to change.

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
# The released math runs take $\beta=0.05$ for ITPO and $0.01$ for Norm-ITPO [C]; ours here is $0.5$, so that the numbers show
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
sums = turns.aggregate(token_rewards, turn_ids)
reductions = {name: turns.aggregate(token_rewards, turn_ids, name) for name in turns.REDUCTIONS}
tables = {name: pd.DataFrame(values, index=list("ABCD")) for name, values in reductions.items()}
table = pd.concat(tables, axis=1).rename(columns=lambda k: k + 1 if isinstance(k, int) else k)
table.where(pd.concat([pd.DataFrame(has_turn, index=table.index)] * 3, axis=1).values).style.format(
    "{:.2f}", na_rep=""
)

# %% [markdown]
# *What to see:* the second turn of C stands out by its sum; its mean is less exceptional, since that turn has three tokens
# and the others two.
#
# ## Equation 5: which turn was it?
#
# $$w_k=\mathrm{softmax}_k\big(R_k/\eta\big)\tag{5}$$
#
# Read $R_k$ as evidence that turn $k$ is *the* pivotal one: then (5) is a posterior over turns, under a uniform prior. The
# temperature $\eta$ is 0.4 in the released runs [C], the dotted line below.

# %%
eta = 0.4
weights = turns.normalize(sums, has_turn, eta)
temperatures = torch.logspace(-1.3, 1.3, 60)
curves = torch.stack([turns.normalize(sums, has_turn, value) for value in temperatures.tolist()])
lines = [
    (names[b], k + 1, value, curves[e, b, k].item())
    for e, value in enumerate(temperatures.tolist())
    for b, k in has_turn.nonzero().tolist()
]
draw.weight_curves(pd.DataFrame(lines, columns=["dialogue", "turn", "temperature", "weight"]))
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
by_turn = pd.DataFrame(weights * outcome[:, None], index=list("ABCD"), columns=["turn 1", "2", "3", "4"])
by_turn.assign(sum=by_turn.sum(axis=1), outcome=outcome.tolist()).round(3)

# %% [markdown]
# *What to see:* rewards sit on the last token of each turn, and those of a dialogue add up to its outcome. B has no outcome to
# share: with $R=0$ the PRM's dislike of its second turn leaves no trace.
#
# ## Every method of Table 1, side by side
#
# Same four dialogues, same PRM. The registry `attribution.METHODS` holds one function for each method, and `attribute` gives each
# the signals it declares. `uniform` draws its split from a Dirichlet distribution with parameters 1 [O]. Two methods read something
# else than the PRM, which we write down too: `judge` a judge's score of each turn, and `value_model` a critic's value $V_t$ of
# the state before each token, here the same within a turn. Its reward is the *change* of the value, and $R-V_t$ at the end.

# %%
generator = torch.Generator().manual_seed(0)
signals = {"outcome": outcome, "turn_ids": turn_ids, "response_mask": response_mask, "generator": generator}
signals |= {"token_rewards": token_rewards, "temperature": eta}
signals["judge_scores"] = torch.tensor([[3.0, 0, 0, 0], [2, 1, 0, 0], [1, 3, 1, 0], [2, 0, 3, 1]])
value = torch.tensor([[0.6, 0, 0, 0], [0.6, 0.3, 0, 0], [0.6, 0.7, 0.8, 0], [0.6, 0.5, 0.3, 0.4]])
signals["values"] = value.gather(1, turn_ids.clamp(min=0)) * response_mask

# %%
lines = []
for method in attribution.METHODS:
    rewards = attribution.attribute(method, **signals)
    to_go = advantages.returns(rewards, response_mask)
    lines += [
        (method, names[b], t, turn_ids[b, t].item() + 1, rewards[b, t].item(), to_go[b, t].item())
        for b, t in response_mask.nonzero().tolist()
    ]

# %%
publish(
    draw.rewards,
    "method_rows",
    profile,
    "The rewards of each method on four hand-written rollouts, without baseline.",
    tokens=pd.DataFrame(lines, columns=["row", "dialogue", "token", "turn", "reward", "return"]),
)
# %% [markdown]
# *What to see:* a reward at the end of turn $p$ reaches the return (dash) of every token up to $p$ and none after it. So
# rewarding the pivotal turn rather than the last one *spares the turns after the pivot*. Nothing else distinguishes turn-wise
# credit from trajectory-share, and where the last turn decides, there is nothing to gain. For the value model the dash is not
# what the policy sees: its rewards are already differences to an expectation, so notebook 05 uses each by itself.
#
# ## From rewards to advantages: RLOO, and a bias in it
#
# Leave-one-out (RLOO) compares a rollout with the $n-1$ others of its group. The released code does so with the mean reward $m_i$
# over a rollout's reward positions, at *every* reward position [C]:
#
# $$\tilde r=\frac{n}{n-1}\,r-\frac1{n-1}\sum_jm_j$$
#
# From a dialogue of four turns the baseline is thus subtracted four times, from one of a single turn once. Take three equally successful
# dialogues with 1, 2 and 4 turns, whose outcome 1 is split evenly.

# %%
patterns = ("uaaaaaaa", "uauaaaaa", "uauauaua")
equal = turns.turn_ids(torch.tensor([[token == "a" for token in pattern] for pattern in patterns]))
even = attribution.norm_itpo(torch.zeros(equal.shape), torch.ones(3), equal, temperature=1.0)
ends = attribution.reward_mask("turn", equal)
bias = {kind: advantages.rloo(even, ends, 3, kind).sum(1) for kind in advantages.BASELINES}
draw.baseline_bias(pd.DataFrame({"turns": [1, 2, 4], **bias}))
# %% [markdown]
# *What to see:* before whitening the first tokens of these equally good dialogues get $+0.625$, $-0.25$ and $-2$: the
# released baseline rewards brevity. `baseline="trajectory"` subtracts the others' mean *total* once, at the last reward
# position: all get 0. So they do by `baseline="to_go"` [O], which compares at every turn what is still to come: a dialogue's k-th
# turn with the k-th turns of the others, as far as they have one.
#
# Now the four rollouts, with each baseline, as returns.

# %%
mask = attribution.reward_mask("turn", turn_ids)
baselined = {kind: advantages.rloo(normalised, mask, 4, kind) for kind in advantages.BASELINES}
to_go = {kind: advantages.returns(rewards, response_mask) for kind, rewards in baselined.items()}
first = {kind: values[:, 1].tolist() for kind, values in to_go.items()}
pd.DataFrame(first, index=names).rename(index=lambda name: name.replace("$", "")).round(3)

# %% [markdown]
# *What to see:* the return of the first token. With `trajectory` and `to_go` it is $R$ minus the mean of the other three
# outcomes; with `released`, half a success in four turns (D) comes out worse than a failure in two (B).
#
# **Whitening** makes mean 0 and variance 1 over all assistant tokens of the batch, with Bessel's correction [C].

# %%
advantage = advantages.whiten(to_go["trajectory"], response_mask)
draw.token_grid(by_token(advantage), "advantage [s.d.]")
# %% [markdown]
# *What to see:* the advantage of each token under Norm-ITPO with the trajectory baseline. B is blamed by the comparison
# alone, all its tokens alike. C succeeded, yet its last turn is blamed: most of the reward lies behind it, at the pivotal second turn,
# and the baseline is still to come. The turns after the pivot are not merely spared, they are held against the average.
#
# The same with `to_go`:

# %%
advantage = advantages.whiten(to_go["to_go"], response_mask)
draw.token_grid(by_token(advantage), "advantage [s.d.]")
# %% [markdown]
# *What to see:* every turn is compared with those of the same number. The late turns of D are no longer held against successes
# that were over by then; its fourth, which no other dialogue reached, is compared with nothing. C's last turn is blamed still,
# because the only other dialogue that got so far, D, had more to come: where few get far, few compare.
#
# ## The policy's loss
#
# With $\rho_t=\pi_\theta/\pi_{old}$ and $d_t=\log\pi_{ref}-\log\pi_\theta$, the policy minimises, averaged over assistant
# tokens [C],
#
# $$-\min\big(\rho_tA_t,\ \mathrm{clip}(\rho_t,0.8,1.2)\,A_t\big)+10^{-3}\,\big(e^{d_t}-d_t-1\big)-10^{-3}\,H_t.$$

# %%
token, zero = torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, 1)
rho, d, p = torch.linspace(0.5, 1.6, 111), torch.linspace(-2, 2, 81), torch.linspace(0.01, 0.99, 99)
clip = {
    f"$A_t$ = {a:+d}": [
        losses.clipped_surrogate(r.log().view(1, 1), zero, zero + a, token).item() for r in rho
    ]
    for a in (1, -1)
}
k3 = [losses.kl_k3(zero, x.view(1, 1), token).item() for x in d]
two_words = torch.distributions.Bernoulli(p).entropy()

# %%
surrogate = pd.DataFrame({r"ratio $\rho_t$": rho, **clip})
divergence = pd.DataFrame({"$d_t$ [nats]": d, "k3": k3, "$-d_t$": -d})
entropy = pd.DataFrame({"probability of one of two tokens": p, "entropy": two_words})
draw.loss_curves(surrogate, divergence, entropy)
# %% [markdown]
# *What to see:* left, the loss goes flat once a good token is 1.2 times as likely or a bad one 0.8 times: no gradient beyond.
# Middle, k3 is never negative, while the plain log-ratio $-d_t$, with the same mean over the policy's own tokens, often is.
# Right, the entropy that the bonus keeps from collapsing.
#
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
# The order of 2 and 3 is the released code's "double forward" [C]: rewards are read off a PRM that has just learned from the
# batch. Rewards beside the method's own (a length penalty, the outcome as a second source) get a baseline of their own, and
# what is left is summed [C]. RLOO is the only estimator of the released code [C]; notebook 05 has GRPO and PPO beside it.
#
# The six lines are `itpo.trainer.training_step`. Notebook `01_training` runs them one by one.
#
# ## Exercises
#
# **1.** Add a constant $c$ to every turn reward $R_k$ of a dialogue. What becomes of ITPO's rewards, what of Norm-ITPO's?
#
# <details><summary>Solution</summary>
#
# Softmax does not change when a constant is added to all its inputs, so $w_k$ and $w_kR$ stay. ITPO's rewards are $Kc$ larger in
# total, and the first token's return grows by $Kc$: a PRM with an offset makes longer dialogues look better or worse. Check it with
# `turns.normalize(sums + 3.0, has_turn, eta)`.
# </details>
#
# **2.** In which dialogue do trajectory-share and Norm-ITPO give every token the same return, whatever the PRM says?
#
# <details><summary>Solution</summary>
#
# In one with a single turn ($w_1=1$, placed at the last assistant token: A above), and in one with $R=0$ (all rewards are 0: B
# above). Otherwise the *first* turn still has the same return $R$; later ones have only what is still to come.
# </details>
#
# **3.** Why does $\beta$ cancel if the token rewards are rescaled by `prm.batch_norm`, and where does it still matter?
#
# <details><summary>Solution</summary>
#
# `batch_norm` divides all rewards by the batch's largest absolute reward-to-go, which is itself proportional to $\beta$.
# Rewards after it do not depend on $\beta$ (up to the $10^{-6}$ that is added). It still scales the logit in (3), hence what
# the PRM learns: with a small $\beta$ the log-ratios must grow larger to predict an outcome equally well.
# </details>
