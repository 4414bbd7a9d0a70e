# %% [markdown]
# # A tour of ITPO: which turn earned the outcome?
#
# A user wants something and says too little. An assistant asks, listens and answers. At the end comes one number: it went
# well, or it did not. **Which turn made the difference?** That is the question of *Implicit Turn-Wise Policy Optimization*
# (ITPO). This notebook follows one failed and one successful conversation through its answer.
#
# It needs one small training run. From an empty store that takes about a minute at profile `laptop`, and seconds at profile
# `smoke`, whose numbers mean nothing. A run that is there already is loaded.
#
# Marks say where a number or a definition comes from: [P] the paper's abstract and captions, [C] its released code, [S]
# secondary sources, [O] our own choice.

# %% tags=["colab"]
import sys

if "google.colab" in sys.modules:  # installs the library beside the torch that Colab has
    import subprocess
    from importlib.metadata import version

    source = input("Address of the repository that this notebook is from (https://...): ")
    wanted = [f"itpo[report,train] @ git+{source}", f"torch=={version('torch')}"]
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *wanted], check=True)

# %% tags=["parameters"]
profile = "laptop"

# %%
import torch
from IPython.display import HTML, Markdown, clear_output

from itpo import attribution, turns
from itpo.figures import conversations
from itpo.figures import method as draw
from itpo.figures.publishing.registry import publish
from itpo.figures.style import use_style
from itpo.rollout.seeding import seeded
from itpo.runs.paths import runs_root
from itpo.runs.sweep import sweep
from itpo.study import tables, transcripts, walkthrough
from itpo.study.profiles import get_profile
from itpo.trainer import train
from itpo.training.build import trained
from itpo.training.ranking import ranking_auc

use_style("00_tour")
torch.set_num_threads(1)

# %% [markdown]
# ## 1. Two conversations, and the answer
#
# A user tells a word problem without its two numbers [O]. Asked for one, the user states it, is vague ("quite a few"), or
# gives a doubtful and mostly wrong value ("maybe 3"). Only the very next turn can repair that: *exactly how many ?* or *are
# you sure ?* A turn later it is too late.
#
# The assistant is a small language model that has imitated a clumsy tutor. We train it by Norm-ITPO; the run is the first seed
# of notebook 02. The conversations below are new, and held by the model as it was *before* training.

# %%
scale = get_profile(profile)
(run,) = sweep(runs_root(), [scale.config("norm_itpo", seed=scale.seeds[0])], train)
clear_output()
learner = trained(run)
dialogues, batch = learner.collect("tour", prompts=256, rollouts=1, adapter=None)
print(f"{len(dialogues)} conversations, of which {batch.outcome.mean():.0%} succeed")

# %% [markdown]
# **Which two are shown?** Where an answer calls for repair exactly once, the turn that follows it is the *pivotal turn*: the
# task's rules make it so. We take the first conversation that missed the repair and *failed*, and the first that made it and
# *succeeded*. No credit is looked at. (`itpo.study.walkthrough.pivots` has the small print: the conversation ends in an
# answer, the call comes before the last turn, and no number was assumed.)
#
# Read the two conversations first. Then look at the shade: it is the share $w_k$ of the credit that Norm-ITPO gives each turn
# of the assistant. How it comes about is the rest of this notebook.

# %%
found = walkthrough.pivots(learner.task, dialogues)
lost, won = walkthrough.failed_and_won(found)
titles = {lost: "failed: the repair was missed", won: "succeeded: the repair was made"}
held = transcripts.read(learner, [dialogues[pivot.dialogue] for pivot in titles])
HTML(conversations.html(transcripts.table(dict(zip(titles.values(), held, strict=True)))))

# %% [markdown]
# ## 2. A judge that nobody wrote
#
# **Question.** Only the outcome is known. Who says what a turn was worth? Take a second model $\pi_\phi$, equal to the frozen
# reference $\pi_{ref}$ at first. Read its log-ratio over a conversation as a prediction of the outcome, and train that
# prediction by cross-entropy [S][C]:
#
# $$q_t=\log\pi_\phi(a_t\mid s_t)-\log\pi_{ref}(a_t\mid s_t),\qquad r_t=\beta\,q_t,\tag{1-2}$$
# $$L_\phi=\mathrm{BCE}\Big(\sigma\big(\textstyle\sum_t r_t\big),\,R\Big).\tag{3}$$
#
# It learns only how whole conversations ended, yet its prediction is a sum over tokens. That is the *implicit process reward
# model* (PRM).
#
# **How to read it.** Every batch is predicted before it is learned from. AUC is the chance that a conversation which succeeds
# gets the higher prediction; 0.5 is blind guessing. Left of the dotted line the reference holds the conversations, right of it
# the policy, which learns meanwhile.

# %%
learning = run.metrics().dropna(subset=["prm_auc"]).reset_index(drop=True)
figure = draw.prm_learning(learning.assign(batch=learning.index))
for ax in figure.axes:
    ax.axvline((learning["step"] < 0).sum() - 0.5, color="gray", linestyle=":")
figure

# %% [markdown]
# ## 3. Token rewards
#
# The policy is responsible for the tokens it sampled and for no others. `turns.turn_ids` numbers the unbroken runs of them:
# the sets $T_k$ of equation (4). What the user says (white) is read as context and earns nothing. A turn's closing
# `<|end|>` was sampled too: to stop talking is a choice.
#
# Below is the reward $r_t$ of each token of the failed conversation. Blue: the PRM finds the token more likely in a success
# than the reference does. Red: less likely. Nobody labelled a token.

# %%
token_rewards = learner.token_rewards(batch, learner.log_probs(batch, None))
row = lost.dialogue
tokens = walkthrough.token_table(learner.chat, dialogues[row], batch.turn_ids[row], token_rewards[row])
caption = "Token rewards (2) of a failed conversation (white: what the user says, which earns nothing)."
label = r"token reward $r_t$ (2) [logits]"
publish(draw.token_text, "tour_tokens", profile, caption, tokens=tokens, label=label)

# %% [markdown]
# ## 4. From tokens to turns
#
# A token is too small a thing to praise. ITPO adds up each turn (4). Norm-ITPO reads the sums as evidence and asks how
# probable it is that turn $k$ is *the* pivotal one (5), at a temperature $\eta$ (0.4 in the released runs [C]):
#
# $$R_k=\sum_{t\in T_k} r_t,\tag{4}$$
# $$w_k=\mathrm{softmax}_k(R_k/\eta).\tag{5}$$
#
# **How to read it.** Bars: the turn rewards. Table: the weights, a column for each temperature. A low one bets everything on
# one turn, a high one splits evenly. The pivotal turn is in bold.

# %%
turn_rewards, has_turn = turns.aggregate(token_rewards, batch.turn_ids), turns.turn_mask(batch.turn_ids)
weights = {eta: turns.normalize(turn_rewards, has_turn, eta) for eta in (0.1, 0.4, 1.0, 4.0)}
table = walkthrough.turn_table(dialogues, titles, turn_rewards, weights)
caption = "Turn rewards (4) of two conversations and the weights (5) they become; the pivotal turn in bold."
publish(draw.turn_credit, "tour_turns", profile, caption, turns=table)

# %% [markdown]
# **Does the PRM find the pivotal turn?** Two conversations prove nothing. So we count, over all with a pivotal turn: how often
# does it have the lowest $R_k$ where the repair was missed and the conversation failed, and the highest where it was made and
# the conversation succeeded? Chance is one over the number of turns.
#
# We count twice: on the conversations above, and on as many that the *trained* policy holds.

# %%
after, batch_after = learner.collect("tour", prompts=256, rollouts=1, adapter="policy")
rewards_after = learner.token_rewards(batch_after, learner.log_probs(batch_after, None))
policies = {
    "before training": (dialogues, batch, token_rewards),
    "trained": (after, batch_after, rewards_after),
}
text = tables.mark(scale)
for name, (seen, those, r) in policies.items():
    counts = walkthrough.found_by(
        turns.aggregate(r, those.turn_ids), those.turn_ids, walkthrough.pivots(learner.task, seen)
    )
    auc = ranking_auc(r.sum(1), those.outcome)
    text += f"**Policy {name}** ({those.outcome.mean():.0%} succeed; AUC {auc:.2f}):\n\n{walkthrough.finding(counts)}\n\n"
Markdown(text)

# %% [markdown]
# Two things to take along. First, AUC is about whole conversations and the count about turns: one may be good where the other
# is not. A policy that hardly misses a repair fails by bad luck, which no turn foretells.
#
# Second, a turn that speaks against success has a *low* $R_k$, hence a *low* weight. So (5) finds the turn that speaks most for
# success, not the one to blame. In a failure Norm-ITPO has no outcome to share anyway.
#
# ## 5. The rewards of every method
#
# The methods of the paper's main table differ in how they turn one outcome $R$ into rewards: $R$ at the end, a random split, a
# split by a judge's scores (a program here, often wrong [O]), $r_t$ at every token (PRIME), $R_k$ at turn ends (ITPO), or $w_kR$ at turn ends (Norm-ITPO, (6))
# [S]. *Value model* needs a critic (notebook 05).

# %%
signals = {"outcome": batch.outcome, "turn_ids": batch.turn_ids, "response_mask": batch.response_mask}
signals |= {"token_rewards": token_rewards, "temperature": 0.4, "generator": seeded("tour", "split")}
_, signals["judge_scores"], _ = learner.judge_turns(dialogues, batch, "tour")
names = [name for name, method in attribution.METHODS.items() if not method.needs_values]
rewards = {name: attribution.attribute(name, **signals) for name in names}
outcomes = {lost.dialogue: "failed, $R=0$", won.dialogue: "succeeded, $R=1$"}
draw.rewards(walkthrough.reward_table(rewards, batch.turn_ids, outcomes))

# %% [markdown]
# **How to read it.** Bars are rewards. Dashes are the *return* of a token: the sum of the rewards from there to the end, which
# is what the policy gradient sees.
#
# Under trajectory-share every token of the success has the same return. Norm-ITPO gives the same total, divided over the
# turns: a turn near the end sees only what is still to come. In the failure all methods that share $R$ out give 0; there the
# blame comes from the comparison with other conversations about the same problem. PRIME and ITPO do blame turns, on a scale
# that nothing fixes.

# %% [markdown]
# ## Exercises
#
# **1.** Under PRIME, what is the return of the first token of a conversation? Which number of section 2 is it?
#
# <details><summary>Solution</summary>
#
# It is $\sum_t r_t$, the logit by which the PRM predicts success in (3). Check it:
#
# ```python
# print(token_rewards[lost.dialogue].sum(), token_rewards[lost.dialogue].sum().sigmoid())
# ```
# </details>
#
# **2.** Take $\eta$ ever smaller in the failed conversation. Which turn wins, and is it the one to blame?
#
# <details><summary>Solution</summary>
#
# The turn with the largest $R_k$, which speaks most *for* success. The turn to blame has the smallest one, and gets nothing:
#
# ```python
# print(turn_rewards[lost.dialogue], turns.normalize(turn_rewards, has_turn, 0.01)[lost.dialogue])
# ```
# </details>

# %% [markdown]
# **3.** What is a turn truly worth? Here the user is a program, so it can be measured: hold many continuations from just
# before a turn and from just after it, and compare how often they succeed. Does $R_k$ have the right signs?
#
# <details><summary>Solution</summary>
#
# `turn_values` does it, here with 32 continuations a side and by the model before training. Each line is a conversation, each
# column a turn; the difference is the turn's true advantage. Notebook 06 does this for all methods.
#
# ```python
# from itpo.rollout.sampler import Sampling
# from itpo.study.oracle import turn_values
#
# both = [dialogues[lost.dialogue], dialogues[won.dialogue]]
# sampling = Sampling(learner.config.max_turn_tokens)
# with learner.backbone.use(None):
#     worth = turn_values(learner.backbone, learner.chat, learner.task, both, 32, "worth", sampling)
# print(worth.advantage, turn_rewards[[lost.dialogue, won.dialogue]])
# ```
# </details>

# %% [markdown]
# ## Where to go from here
#
# - **01_training**: Algorithm 1 line by line, on a model that learns within a minute.
# - **01_method**: every equation on four conversations small enough to check by hand.
# - **02 and later**: the main results with seeds and intervals, then how rewards behave during training.
# - **05**: what changes when the advantages are estimated by GRPO or PPO instead of RLOO.
