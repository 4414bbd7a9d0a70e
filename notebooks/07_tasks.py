# %% [markdown]
# # Three tasks, three users: what is hidden, what is asked, what it is worth
#
# The paper trains on three tasks [S][C]: math tutoring, document writing, medical recommendation. Here each exists twice.
# *Scripted* [O]: a small language, a scripted user, an exact score. *Real*: the paper's data, a language model as user and judge.
# This notebook asks of the scripted three: who is the user, what is hidden, how is a conversation scored, what does the process
# reward model (PRM) think of its turns, and what does training change? Its last section sets up the same with real data.
#
# Marks: [P] the paper's abstract and captions, [C] its released code, [S] secondary sources, [O] our own choice.

# %% tags=["parameters"]
profile = "laptop"

# %%
import random
from dataclasses import replace
from itertools import count, product

import pandas as pd
from IPython.display import HTML, Markdown, clear_output

from itpo.attribution import get_method
from itpo.data import DataError, load_examples
from itpo.dialogue import Message
from itpo.figures import conversations as draw
from itpo.figures import results
from itpo.figures.publishing.registry import publish
from itpo.figures.style import use_style
from itpo.rollout.prompts import fill, transcript
from itpo.rollout.real_tasks import RealMath
from itpo.rollout.users import ModelUser
from itpo.runs.paths import project_root, runs_root
from itpo.runs.sweep import sweep
from itpo.specs import Endpoint
from itpo.study import reward_dynamics, tables, transcripts
from itpo.study.profiles import get_profile, get_real_profile
from itpo.tasks.bleu import word_bleu
from itpo.tasks.documents import DocumentWriting, Wish
from itpo.tasks.math import Problem
from itpo.tasks.medical import MedicalRecommendation, Patient, knowledge_base
from itpo.tasks.registry import TASKS, get_task
from itpo.trainer import train
from itpo.training.build import trained

use_style("07_tasks")
scale = get_profile(profile)
METHODS = ("trajectory_share", "norm_itpo")
SEED = scale.seeds[0]

# %% [markdown]
# ## 1. The runs
#
# One run of trajectory-share and one of Norm-ITPO on each task, RLOO, with the first seed of notebook 02. One seed is enough to
# look at conversations; it is not enough to compare methods, which notebook 02 does.

# %%
keys = list(product(TASKS, METHODS))
configs = [scale.on(task).config(method, seed=SEED) for task, method in keys]
runs = dict(zip(keys, sweep(runs_root(), configs, train), strict=True))
learners = {key: trained(run) for key, run in runs.items()}
clear_output()
Markdown(f"{tables.scale_note(scale)} One seed, {SEED}.")

# %% [markdown]
# ### How to read a conversation
#
# The user speaks on the left, the assistant on the right. Above each turn of the assistant: its number, what it does in the
# task's own terms, and its weight
#
# $$w_k=\mathrm{softmax}_k(R_k/\eta),\qquad R_k=\sum_{t\in T_k}r_t\tag{4-5}$$
#
# by the PRM that the Norm-ITPO run ended with; the darker the bubble, the larger the weight. The weights of a conversation
# sum to 1, and Norm-ITPO's rewards are $w_kR$ (6). In a failed conversation the weights are an opinion and no reward. A PRM
# without any opinion gives each of $K$ turns $1/K$. A *missed repair* is a turn that left a vague or doubtful answer as it was.


# %%
def collapse_note(task):
    """What a caption adds if Norm-ITPO's run of this seed collapsed on a task, by the rule of docs/protocol.md."""
    return " This run collapsed." * bool(tables.results([runs[task, "norm_itpo"]])["collapsed"].item())


def show(conversations, name, caption):
    """Conversations as HTML; the same as a picture in figures/."""
    caption = f"{caption} Shade and number: weight (5) by the PRM that Norm-ITPO, seed {SEED}, ended with. Magenta: a missed repair."
    messages = transcripts.table(conversations)
    publish(draw.picture, name, profile, caption, messages=messages)
    return HTML(draw.html(messages))


# %% [markdown]
# Each task has two scripted policies: the *expert* solves it, and the *noisy expert*, which the model imitates before training (its
# warm start), seldom repairs, guesses, chats. We take the first problem on which the expert has something to repair. (User and policy
# draw from one generator, so that the user may answer the two differently.)


# %%
def both_experts(task):
    """The same problem by the expert and by the noisy expert."""
    learner, rules = learners[task, "norm_itpo"], get_task(task)
    by_expert = (transcripts.scripted(learner, rules.expert, number) for number in count())
    number = next(n for n, conversation in enumerate(by_expert) if {*rules.skills} & {*conversation.kinds})
    params = {"by the expert": rules.expert, "by the noisy expert": rules.noisy_expert}
    return {title: transcripts.scripted(learner, one, number) for title, one in params.items()}


# %% [markdown]
# ## 2. Math tutoring
#
# **The user** tells a word problem without its two numbers. **Hidden:** the numbers. Asked for one, the user states it, is
# vague ("quite a few"), or gives a doubtful and mostly wrong value ("maybe 3"). Only the very next turn repairs that:
# *exactly how many ?* or *are you sure ?* Each number can be asked for once, and a number that the assistant assumes is never
# told.
#
# **The score** is 1 if the last message gives the right answer, else 0. What is said before has no value of its own:

# %%
problem = Problem("sam", "pears", "times", 3, 4)
endings = ("so 3 times 4 : the answer is 12 .", "so 3 times 5 : the answer is 15 .", "it is 12 .")
scores = [get_task("math").score(problem, [Message("assistant", text)]) for text in endings]
Markdown(tables.markdown(pd.DataFrame({"last message": endings, "score": scores})))

# %% [markdown]
# *What to see:* the number must stand in an answer; the third message gives none.

# %%
caption = "Math tutoring: the same problem by the expert and the noisy expert."
show(both_experts("math"), "tasks_math", caption)

# %% [markdown]
# ## 3. Document writing
#
# **The user** wants a short text. **Hidden:** its subject, its readers, its tone, and with them the text itself. Subject and
# readers can be asked for, with the same traps: *please name one* repairs a vague answer, *are you sure ?* a doubtful one,
# and what a draft has filled in unasked, the user lets stand. The tone is noticed in a draft: the first one that has it wrong
# is sent back.

# %% [markdown]
# **The score** is the BLEU of the last draft against the text that the user had in mind. The released code calls nltk's
# `sentence_bleu` on two *strings*, so that its n-grams are made of **characters** [C]. That is the score here; sacreBLEU, over
# words, stands beside it. Two more traps of the released code are options of `DocumentWriting`: without `smooth` a draft that
# shares no four characters in a row with the text scores 0, and with `keep_marker` the marker before the draft is scored with
# it.

# %%
wish = Wish("music", "children", "warm")
drafts = {
    "as wished": wish.target,
    "another tone": replace(wish, tone="funny").target,
    "other readers": replace(wish, audience="parents").target,
    "another subject": replace(wish, subject="chess").target,
    "in other words": "we like to sing and dance and jump to music",
}
options = {"ours": {}, "not smoothed [C]": {"smooth": False}, "with marker [C]": {"keep_marker": True}}

# %%
lines = []
for name, text in drafts.items():
    messages = [Message("assistant", f"draft : {text}")]
    scores = {title: DocumentWriting(**option).score(wish, messages) for title, option in options.items()}
    lines.append({"": name, "draft": text} | scores | {"words": word_bleu(text, wish.target)})
Markdown(tables.markdown(pd.DataFrame(lines).round(2)))

# %% [markdown]
# *What to see:* characters are generous. Texts that have nothing to do with each other share some, so that a draft on the
# wrong subject still earns something; words give it less. A perfect draft loses by the marker that was left in front of it, and the
# shorter the text, the more. And BLEU of either kind rewards *the* text, not a good one: said in other words, a fitting text
# gets next to nothing. Smoothing lets bad drafts keep an order, so that a policy can begin to learn.

# %%
caption = "Document writing: the same wish by the expert and the noisy expert."
show(both_experts("documents"), "tasks_documents", caption)

# %% [markdown]
# ## 4. Medical recommendation
#
# **The patient** tells one complaint. **Hidden:** where it is, since when, and allergies. Asked, the patient says so, is unsure
# (*please be exact* repairs that), or is mistaken (*are you sure ?*). A leading question ("it is in your back , right ?") is
# only agreed to. Nothing here is medicine: illnesses and remedies are made up by a table, of which some lines are

# %%
print(*knowledge_base()[::10], sep="\n")

# %% [markdown]
# **The score** goes from 0 to 10 points, as the paper's judge does [S], divided by 10: 6 for the diagnosis (2 if one of its
# three words is wrong) and, if that is right, 4 for the remedy [O]. From 8 points on a recommendation is *accurate* [S], which
# here takes all 10.

# %%
patient = Patient("rash", "back", "days", "pollen")
endings = (
    "you have subacute dorsal dermatitis . take warmth .",
    "you have subacute dorsal dermatitis . take tea .",
    "you have subacute cranial dermatitis . take warmth .",
    "you have chronic cranial dermatitis . take warmth .",
)
points = [MedicalRecommendation.points(patient, [Message("assistant", text)]) for text in endings]
Markdown(tables.markdown(pd.DataFrame({"last message": endings, "points": points})))

# %% [markdown]
# *What to see:* the second forgets the allergy, the third has the wrong place, the fourth place and time. The right remedy
# for a wrong illness earns nothing.

# %%
caption = "Medical recommendation: the same patient by the expert and the noisy expert."
show(both_experts("medical"), "tasks_medical", caption)

# %% [markdown]
# ## 5. Reward dynamics of a document and of a medical case (F14, F15)
#
# **Question.** Notebook 03 watched the PRM's opinion of one math dialogue form (F2). Is it like that here? **Method.** As
# there: a dialogue of the *monitor set*, held once by the untrained policy and never learned from; rewards of turns (4) and tokens (2)
# relative to the largest in the dialogue at each step. **Which one?** By the rule of notebook 03: the first failed one of at least four
# turns in which a vague or doubtful answer was left unrepaired, or failing that the next best; *failed* means
# $R\le 0.5$ here. **How to read it.** Along the axis the assistant's tokens, upwards training; blue is praise, red is blame.


# %%
def watched_case(task):
    """The dialogue that the rule chooses: over training, as a conversation, and the caption."""
    watched = reward_dynamics.read_monitor(runs[task, "norm_itpo"])
    chosen, rule = reward_dynamics.choose_case(watched)
    learner, size = learners[task, "norm_itpo"], watched.run.config.monitor_dialogues
    conversation = transcripts.hold(learner, None, size, "probe")[chosen]  # the stream of the monitor set
    caption = f"Relative implicit rewards of one dialogue of the monitor set ({task}) over training, turns (above) against tokens "
    caption += f"(below); blue: praise, red: blame, 1: the largest of the dialogue; Norm-ITPO, seed {SEED}. "
    caption += f"Magenta: a missed repair. The case: {rule}.{collapse_note(task)}"
    shown = transcripts.table({f"dialogue {chosen + 1} of {size}": conversation})
    return reward_dynamics.case_frames(watched, chosen), shown, caption


# %% [markdown]
# ### A document

# %%
frames, messages, caption = watched_case("documents")
HTML(draw.html(messages))

# %%
name = "F14_reward_dynamics_documents"
publish(results.reward_dynamics, name, profile, f"F14. {caption}", **frames)

# %% [markdown]
# ### A medical case

# %%
frames, messages, caption = watched_case("medical")
HTML(draw.html(messages))

# %%
name = "F15_reward_dynamics_medical"
publish(results.reward_dynamics, name, profile, f"F15. {caption}", **frames)

# %% [markdown]
# A draft has many more tokens than a question, and by the sum of (4) it can gather a larger reward without any of its tokens
# being remarkable. Whether it does, the lower half of the picture shows. The released softmax takes a length-normalised mean
# instead [C]; notebook 06 compares the two. One case of each task proves nothing; notebook 04 measures the whole monitor set.

# %% [markdown]
# ## 6. Before and after training (F22)
#
# **Question.** What has the policy learned to say? **Method.** The warm start and the trained policies each talk to the users of the same
# fresh problems. Problem and user's random numbers are the same for all. **Which one is shown?** The first whose conversation
# *before* training leaves an answer unrepaired and has $R\le 0.5$. The one after training is shown whatever it is. A problem
# that was failed once would often be better at a second attempt without any training: the table below, over all problems, is the
# measure, and the conversation an illustration.

# %%
fresh = scale.run.eval_dialogues
before = {
    task: transcripts.hold(learners[task, "norm_itpo"], None, fresh, "before and after") for task in TASKS
}
after = {
    key: transcripts.hold(learner, "policy", fresh, "before and after") for key, learner in learners.items()
}


# %%
def before_and_after(task):
    """One problem by the warm start and by the policy that Norm-ITPO trained."""
    chosen, rule = transcripts.choose(before[task])
    pair = {"before training": before[task][chosen], "after training": after[task, "norm_itpo"][chosen]}
    caption = (
        f"F22. The same problem and user ({task}) before and after training by Norm-ITPO. Chosen: {rule}."
    )
    caption += collapse_note(task)
    return show(pair, f"F22_dialogues_{task}", caption)


# %%
before_and_after("math")

# %%
before_and_after("documents")

# %%
before_and_after("medical")

# %% [markdown]
# **How to read the table.** Mean over the problems [95 % interval over problems]. Gain: paired by problem, against the warm start.
# Beside the outcome stands the task's other measure: word BLEU, or the share of accurate recommendations. The intervals speak of
# other problems, not of other seeds; notebook 02 compares methods.

# %%
held = {t: {"warm start": before[t]} | {get_method(m).label: after[t, m] for m in METHODS} for t in TASKS}
compared = pd.concat([transcripts.comparison(task, held[task]) for task in TASKS])
note = f"{fresh} fresh problems for each task, the same for all policies; RLOO, seed {SEED}. Intervals are over problems."
text = transcripts.comparison_text(compared)
Markdown(tables.write_table(text, compared, "F22_before_after", scale, note))

# %% [markdown]
# ## 7. The same three tasks on real data
#
# Nothing above was real language. `itpo.data` reads the public data sets, `itpo.rollout.real_tasks` has the tasks, and a language
# model behind an OpenAI-compatible server plays user and judge. This section needs neither network nor server: it reads the few
# made-up rows that the tests use, and stops where the first question would be sent.

# %% [markdown]
# ### Data
#
# A row of a data set becomes an `Example`: the *prompt* that the assistant sees, the *goal* that only the user knows, the *reference* that
# scores. As in the released code [C], a conversation keeps its first user message, and equal prompts count once.

# %%
folder = project_root() / "tests" / "data"
sources = {
    "math": ("collabllm_math.jsonl", "collabllm-math"),
    "documents": ("collabllm_documents.parquet", "collabllm-documents"),
    "medical": ("mtmeddialog.parquet", "mtmeddialog"),
}
examples = {task: load_examples(folder / file, layout).examples for task, (file, layout) in sources.items()}

# %%
firsts = {task: rows[0] for task, rows in examples.items()}
pd.DataFrame(
    {
        "assistant sees": {task: transcript(e.prompt) for task, e in firsts.items()},
        "only the user knows": {task: e.goal for task, e in firsts.items()},
        "scored against": {task: "; ".join(e.reference.values()) for task, e in firsts.items()},
    }
).style.set_properties(**{"text-align": "left", "white-space": "pre-wrap"})

# %% [markdown]
# The real sets are read the same way, from local files, or from the hub by `load_examples(None, "collabllm-math")`. Bad rows
# are refused with file, row and remedy (`skip_bad=True` counts and lists them instead):

# %%
try:
    load_examples(folder / "gsm8k.jsonl", "math")
except DataError as error:
    print(str(error).replace(str(folder), "tests/data"))

# %% [markdown]
# Plain problem sets hide nothing; there `ModelUser.open` has the user write a first message that leaves something out.
# `itpo.data.generate_gsm(500, seed=0)` makes such problems without any download, if the package reasoning-gym is installed.
#
# ### Users and judges behind a server
#
# `Endpoint` says where a server is and which of its models answers. Any that speaks the OpenAI protocol will do: vLLM, Ollama,
# llama.cpp, `transformers serve`. Users speak at temperature 1 in training and 0 in evaluation, judges at 0 [S]. User, judge and
# data are part of a run's config, like all that decides its numbers. Here with the settings of notebook 08's `consumer`:

# %%
server = Endpoint("http://127.0.0.1:8000/v1", "Qwen/Qwen2.5-14B-Instruct")
models = {"user": server, "judge": replace(server, temperature=0.0)}
consumer = get_real_profile("consumer")
configs = [replace(consumer.on(task).config("norm_itpo", seed=0), **models) for task in TASKS]
lines = [
    {"task": c.task.name, "data": c.task.format, "policy": c.model.name, "user": c.user.model}
    for c in configs
]
pd.DataFrame(lines)

# %% [markdown]
# Nothing has been asked yet: `train(config, run)` would. What the user's model would read before each of its messages:

# %%
first = firsts["math"]
print(fill("user_math", goal=first.goal, conversation=transcript(first.prompt)))

# %% [markdown]
# To see the rest of the way without a server, a stand-in gives two replies as a model would: JSON around what is said, and
# `[[TERMINATE CHAT]]` at the end [S].


# %%
class StandIn:
    """Answers like a language model that plays a user, with replies written by hand."""

    lanes = 1
    replies = iter(
        [
            '{"thought": "only what was asked", "response": "19 and 23, I think"}',
            '{"response": "[[TERMINATE CHAT]]"}',
        ]
    )

    def ask(self, prompts, seeds, read):
        return [read(next(self.replies)) for _ in prompts]


# %%
task, rng = RealMath(examples["math"], ModelUser(StandIn())), random.Random(0)
messages = task.opening(first)
for text in ("Sure. Which two numbers?", r"Then the sum is $\boxed{42}$."):
    messages.append(Message("assistant", text))
    reply = task.reply(first, messages, rng)
    messages += [Message("user", reply)] if reply else []
scores = {"success": task.score(first, messages)}
ended = transcripts.Conversation(tuple(messages), ("ask", "answer"), scores, hidden=first.goal)
HTML(draw.html(transcripts.table({"a user played by a stand-in": ended})))

# %% [markdown]
# *What to see:* the user's second reply ends the conversation and is not shown; the answer is compared by a checker of
# mathematics, not by equality of text. Without a PRM there are no weights, and the bubbles stay white.

# %% [markdown]
# ## What not to conclude
#
# - **Conversations are anecdotes.** Each is chosen by a rule, but there is one of each; the tables count.
# - **A weight is an opinion of one PRM**, trained on the dialogues of one seed. Other policies' conversations may be unlike all it has
#   learned from.
# - **The scripted tasks are caricatures** built so that early turns decide [O]; they say nothing about real users.
# - **Scores of different tasks have different scales.** A character BLEU of 0.3 is next to nothing, 30 % success is not.

# %% [markdown]
# ## Exercises
#
# **1.** What does character BLEU give a writer who never asks and drafts one of the texts at random? Why is that more than 0,
# and what follows for the size of gains?
#
# <details><summary>Solution</summary>
#
# ```python
# from itpo.tasks.documents import VALUES
# every = [Wish(*values) for values in product(*VALUES.values())]
# pairs = list(product(every, every))
# sum(get_task("documents").score(w, [Message("assistant", d.draft)]) for w, d in pairs) / len(pairs)
# ```
#
# 1 in 16 drafts has the right subject and readers, and any two texts share letters, spaces and some longer runs. The score that can be
# won by asking is the distance from there to 1, so a gain of 10 points is more of it than it seems.
# </details>

# %% [markdown]
# **2.** Let the patient always answer clearly: `MedicalRecommendation(clear=1.0)`. Which turns still decide the score, and what is
# left for turn-wise credit to do? Try with `scripted_dialogue(task, task.noisy_expert, rng)` of `itpo.models.tiny` over many `rng`.
#
# <details><summary>Solution</summary>
#
# ```python
# from itpo.models.tiny import scripted_dialogue
# for task in (MedicalRecommendation(), MedicalRecommendation(clear=1.0)):
#     dialogues = [scripted_dialogue(task, task.noisy_expert, random.Random(n)) for n in range(2000)]
#     print(sum(outcome for _, _, outcome in dialogues) / len(dialogues))
# ```
#
# Nothing needs repair any more. What remains are leading questions, which lose a finding for good, and the forgotten allergy,
# which costs 4 points in half of the patients. The noisy expert does better at once, and fewer turns matter: little is left by which
# methods would differ.
# </details>
