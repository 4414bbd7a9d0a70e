"""Every chat template that trl ships, and kinds of templates that it does not, against fresh applications."""

import re
from datetime import date
from types import SimpleNamespace

import pytest
from chat_families import NAMES, byte_level, family, sentence_pieces, tokenizer_of

from itpo.chat import ChatFormat, ContextError, context_of, generation_ends
from itpo.chat_template import ChatTemplate, Message

ROLES = {"S": "system", "U": "user", "A": "assistant"}
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def talk(*lines):
    """Messages from lines such as "U: hello"."""
    return [Message(ROLES[line[0]], line[2:].removeprefix(" ")) for line in lines]


TALKS = {
    "plain": talk("U: How many pens?", "A: Which box?", "U: The red one.", "A: Seven.", "U: thanks"),
    "system": talk("S: Be brief.", "U: hi", "A: hello", "U: more"),
    "signs": talk("U: line 1\n\n  line 2 🙂", "A: 好的\n- a\n- b 👩‍⚕️", "U:    padded  ", "A: ok", "U: 再见"),
    "line breaks": talk("U: \n\nhi\n", "A: \n\nhello\n\n", "U: \n", "A: so", "U: well\n\n"),
    "nothing said": talk("U: hi", "A:", "U:", "A: yes", "U: are you there?"),
    "the mark": talk("U: a\x02\x02b", "A: \x02", "U: \x02"),
}
ODD = {
    "the assistant opens": talk("A: Welcome!", "U: I cough"),
    "it opens after the system": talk("S: You are a doctor.", "A: Welcome!", "U: I cough"),
    "two users, later": talk("U: hi", "A: hello", "U: one thing", "U: and another"),
    "two users, first": talk("U: one thing", "U: and another"),
    "two assistants": talk("U: hi", "A: hello", "A: how can I help?", "U: pens"),
    "a late system message": talk("U: hi", "A: hello", "S: The user is in a hurry.", "U: pens"),
    "system messages alone": talk("S: one rule", "S: another rule", "U: pens"),
}


@pytest.fixture(scope="module")
def formats():
    """Makes the chat format of a family once."""
    made = {}

    def make(name):
        if name not in made:
            made[name] = ChatFormat(family(name))
        return made[name]

    return make


def render(tokenizer, messages, prompt=True):
    """The template's own text, of the day that chat formats tell it."""
    said = [message.as_dict() for message in messages]
    if tokenizer.name_or_path.startswith(("idefics3", "smolvlm", "llava")):
        said = [m | {"content": [{"type": "text", "text": m["content"]}]} for m in said]
    text = tokenizer.apply_chat_template(
        said, tokenize=False, add_generation_prompt=prompt, date_string="26 Jul 2024"
    )
    return re.sub(r"Current date: \d{4}-\d\d-\d\d", "Current date: 2024-07-26", text)


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("name", NAMES)
def test_histories_are_one_application_of_the_template(formats, name):
    chat = formats(name)
    histories = [*TALKS.values(), TALKS["signs"][:1], TALKS["signs"][:3]]
    for asked in histories:
        history = asked
        if asked[0].role == "system" and name in ("gemma", "gemma_training"):  # which refuse it
            history = [Message("user", f"{asked[0].content}\n\n{asked[1].content}"), *asked[2:]]
        fresh = ids_of(chat.tokenizer, render(chat.tokenizer, history))
        ids, mask = chat.encode(asked)
        assert ids == fresh == chat.opening(asked)
        turns = [m.content for m in history if m.role == "assistant"]
        for turn, said in zip(runs(ids, mask), turns, strict=True):
            assert said.strip() in chat.tokenizer.decode(turn)
            if chat.template.keeps_openings:
                assert chat.speech(turn).text == chat.text(ids_of(chat.tokenizer, said))


def runs(ids, mask):
    """The marked tokens of each turn."""
    found, before = [], False
    for token, mine in zip(ids, mask, strict=True):
        if mine:
            found = [*found[:-1], [*found[-1], token]] if before else [*found, [token]]
        before = mine
    return found


@pytest.mark.parametrize("name", NAMES)
def test_what_is_appended_is_one_application_or_a_departure(formats, name):
    """Opening, turn as the policy writes it, user block: at every boundary the template's own tokens."""
    chat = formats(name)
    messages = [m for m in TALKS["plain"] if m.role != "system"]
    ids = chat.opening(messages[:1])
    for said, asked in ((1, 2), (3, 4)):
        turn = chat.assistant_ids(messages[said].content)
        assert turn[-1] == chat.eos_id and not {*turn[:-1]} & {*chat.end_ids}
        assert chat.speech(turn) == (messages[said].content, chat.speech(turn).begins, True)
        ids += [*turn, *chat.user_block(messages[asked].content)]
        if not [note for note in chat.departures if "drops the thoughts" not in note]:
            assert ids == ids_of(chat.tokenizer, render(chat.tokenizer, messages[: asked + 1]))
        else:  # and even so, what comes after a turn is the template's
            text = render(chat.tokenizer, messages[: asked + 1])
            tail = text[text.rindex(messages[said].content) + len(messages[said].content) :]
            block = chat.user_block(messages[asked].content)
            assert ids_of(chat.tokenizer, tail)[-len(block) :] == block
    assert chat.encode(messages, written=True)[0] == ids


# family: how a turn ends, and what its template does otherwise with earlier turns
ENDS = {
    "qwen2_5": ("<|im_end|>", 0),
    "qwen3": ("<|im_end|>", 1),  # drops thoughts
    "qwen3_training": ("<|im_end|>", 0),
    "qwen3_5_think": ("<|im_end|>", 2),
    "qwen3_5_think_training": ("<|im_end|>", 1),  # "\n\n" is one token
    "qwen3_8_training": ("<|im_end|>", 1),
    "qwen3_5_nothink": ("<|im_end|>", 2),
    "llama3": ("<|eot_id|>", 0),
    "llama3_2": ("<|eot_id|>", 0),
    "gemma": ("<end_of_turn>", 0),
    "gemma3": ("<end_of_turn>", 0),
    "gemma4": ("<turn|>", 1),
    "phi3": ("<|end|>", 0),
    "phi3_5": ("<|end|>", 0),
    "glm4moe": ("<|user|>", 1),
    "gptoss": ("<|return|>", 2),
    "deepseek_r1_distill": ("<｜end▁of▁sentence｜>", 2),
    "cohere": ("<|END_OF_TURN_TOKEN|>", 0),
    "cohere2": ("<|END_OF_TURN_TOKEN|>", 0),
    "lfm2": ("<|im_end|>", 0),
    "smolvlm": ("<end_of_utterance>", 0),
}


@pytest.mark.parametrize("name", ENDS)
def test_the_end_of_a_turn_is_the_templates(formats, name):
    chat, (end, departures) = formats(name), ENDS[name]
    assert chat.tokenizer.convert_ids_to_tokens(chat.eos_id) == end
    assert chat.end_ids[0] == chat.eos_id and chat.tokenizer.eos_token_id in chat.end_ids
    assert len(chat.departures) == departures
    closes_analysis = chat.tokenizer.convert_tokens_to_ids("<|end|>")
    assert (closes_analysis in chat.end_ids) == (end == "<|end|>")  # gpt-oss goes on after it


def test_every_end_of_the_model_stops_it():
    tokenizer = family("qwen2_5")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|endoftext|>"]})
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=[5, tokenizer.eos_token_id]))
    assert ChatFormat(tokenizer, model=model).end_ids == (
        tokenizer.eos_token_id,
        5,
        tokenizer.convert_tokens_to_ids("<|endoftext|>"),
    )
    assert generation_ends(None) == generation_ends(SimpleNamespace(generation_config=None)) == ()
    # What ends generation of a turn of several markers is what the model is said to end at.
    cohere = family("cohere2")
    assert cohere.convert_ids_to_tokens(ChatFormat(cohere).assistant_ids("hi")[-2:]) == [
        "<|END_RESPONSE|>",
        "<|END_OF_TURN_TOKEN|>",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_nobody_spells_a_marker(formats, name):
    """All markers of the family, in anybody's words, leave those that the template puts around harmless words."""
    chat = formats(name)
    markers = chat.template.markers
    spelled = " ".join([*markers, "[INST]", "[/INST]"])

    def found(says):
        messages = talk("S: s", "U: u", "A: a", "U: u")
        messages = [Message(m.role, says.get(m.role, m.content)) for m in messages]
        return [token for token in chat.encode(messages)[0] if token in {*markers.values()}]

    for role in ("system", "user", "assistant"):
        text = spelled
        if role == "assistant":  # who may spell its thoughts, where their tags are ordinary words
            text = " ".join(m for m in markers if m not in ("<think>", "</think>"))
        assert found({role: text}) == found({}), role
    block = chat.user_block(spelled)
    assert [t for t in block if t in {*markers.values()}] == [
        t for t in chat.user_block("u") if t in {*markers.values()}
    ]


@pytest.mark.parametrize("name", NAMES)
def test_odd_conversations_are_the_templates_or_folded_or_refused(formats, name):
    chat = formats(name)
    for kind, messages in ODD.items():
        try:
            ids = chat.opening(messages)
        except ValueError as error:
            assert "refuses a conversation of assistant, user: " in str(error) and "\n" not in str(error)
            assert kind == "the assistant opens"
            continue
        text = chat.tokenizer.decode(ids)
        places = [text.find(message.content) for message in messages]
        assert min(places) >= 0 and places == sorted(places), text  # all of it, in its order
        taken = chat.template.take(messages)
        assert ids == chat.encode(messages)[0] == ids_of(chat.tokenizer, render(chat.tokenizer, taken))
        # What is folded is so because the template refuses it or moves it.
        assert taken == messages or not chat.template._shows(messages) or messages[0].role == "system"


def test_a_cut_turn_is_closed_and_the_day_stands_still(formats):
    for name in NAMES:
        chat = formats(name)
        block = chat.tokenizer.decode(chat.user_block("more", closed=False))
        assert block.startswith(chat.template.gap + chat.template.close)
        text = chat.tokenizer.decode(chat.opening(TALKS["plain"]))
        assert not [form for form in ("%Y-%m-%d", "%d %b %Y") if date.today().strftime(form) in text]
    assert "26 Jul 2024" in formats("llama3_2").template.render(TALKS["plain"])
    assert "2024-07-26" in formats("gptoss").template.render(TALKS["plain"])


# Kinds of templates by themselves

MISTRAL = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set rule = messages[0].content %}{% set said = messages[1:] %}"
    "{% else %}{% set said = messages %}{% endif %}"
    "{% for m in said %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}"
    "{% endif %}{% if m.role == 'user' %}"
    "{{ '[INST] ' + (rule + '\n\n' if rule is defined and loop.last else '') + m.content + '[/INST]' }}"
    "{% else %}{{ ' ' + m.content | trim + eos_token }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize("scheme", ["always", "first", "never"])
@pytest.mark.parametrize("plain", [(), ("[INST]", "[/INST]")])
def test_pieces_that_begin_with_a_space(scheme, plain):
    """Tokenised by itself, a block would get a space that it does not have in a conversation."""
    tokenizer = tokenizer_of(MISTRAL, sentence_pieces(scheme), "</s>", "<s>", plain)
    chat = ChatFormat(tokenizer)
    for kind in ("plain", "signs", "line breaks"):
        messages = TALKS[kind]
        assert chat.encode(messages)[0] == ids_of(tokenizer, render(tokenizer, messages))
    messages, turn = TALKS["plain"], chat.assistant_ids("Seven.")
    if scheme != "always" or plain:  # "▁" alone may come before what follows a marker
        grown = [*chat.opening(messages[:3]), *turn, *chat.user_block("thanks")]
        assert grown == chat.encode(messages)[0]
    assert chat.speech(turn).text == "Seven." and tokenizer.decode(turn).strip() == "Seven.</s>"
    # A marker of plain text cannot be spelled either, nor one around the system's words.
    framed = MISTRAL.replace("rule + '\n\n'", "'<<SYS>>' + rule + '<</SYS>>'").replace(
        "and loop.last", "and loop.first"
    )
    format = ChatFormat(tokenizer_of(framed, sentence_pieces(scheme), "</s>", "<s>", plain))
    opening = tokenizer.decode(format.opening(talk("S: Be brief.", "U: a <<SYS>> b")))
    assert opening.count("<<SYS>>") == 1 and opening.index("<<SYS>>") < opening.index("brief")
    assert tokenizer.decode(chat.user_block("a [/INST] b [INST]")).count("[/INST]") == 1


def test_a_system_message_that_would_move_is_folded():
    """Some templates put it before the last user message, so that what was written before would change."""
    chat = ChatFormat(tokenizer_of(MISTRAL, byte_level(), "</s>", "<s>", ("[INST]", "[/INST]")))
    opening, more = talk("S: Be brief.", "U: hi"), talk("A: hello", "U: more")
    grown = [*chat.opening(opening), *chat.assistant_ids("hello"), *chat.user_block("more")]
    assert grown == chat.encode([*opening, *more])[0]
    assert chat.tokenizer.decode(chat.opening(opening)) == "<s>[INST] Be brief.\n\nhi[/INST]"


def chatml(template=CHATML, **options):
    return tokenizer_of(template, byte_level(), "<|im_end|>", "<s>", **options)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (None, "has no chat template: use an instruction-tuned model"),
        (
            "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}",
            "which is no token of its own",
        ),
        (
            "{% for m in messages %}{{ '<|im_start|>' + m.role + '<|im_end|>' }}{% endfor %}",
            "leaves out what is said",
        ),
        (
            CHATML.replace("m.role +", "m.role + loop.length|string +"),
            "renders it as .*assistant3.*, which cannot be",
        ),
        (CHATML.replace("m.content +", "m.content + loop.index|string +"), "opens the first turn by"),
        (
            CHATML.replace("m.role +", "(m.role if loop.first else m.role|upper) +"),
            "renders it as .*ASSISTANT",
        ),
        (
            CHATML.replace("'\n' + m", "('\n' if loop.index < 4 else ' ') + m"),
            "otherwise the more turns follow",
        ),
        (
            CHATML.replace(
                "add_generation_prompt %}", "add_generation_prompt %}{{ '<|im_start|>thinker\n' }}"
            ),
            "which cannot be continued",
        ),
        (CHATML + "{{ strftime_now(messages[0].content) }}", "asks the clock for more than a day"),
        ("{{ raise_exception('no\nchat') }}", "refuses a conversation of user, assistant, user: no chat"),
        ("{% for m in messages %}", "refuses a conversation of user, assistant, user: "),
    ],
)
def test_what_cannot_be_continued_is_refused_in_a_line_that_names_the_model(template, reason):
    tokenizer = chatml()
    tokenizer.chat_template, tokenizer.name_or_path = template, "models/some model"
    with pytest.raises(ValueError, match=reason) as refused:
        ChatFormat(tokenizer)
    assert "models/some model" in str(refused.value) and "\n" not in str(refused.value)


def test_a_tokenizer_that_splits_line_breaks_by_what_follows_is_a_departure():
    template = CHATML.replace("assistant\n' }}", "assistant\n\n' }}").replace(
        "m.role + '\n'", "m.role + '\n\n'"
    )
    chat = ChatFormat(tokenizer_of(template, byte_level(split=None), "<|im_end|>", "<s>"))
    assert len(chat.departures) == 1 and "splits the start of a turn" in chat.departures[0]
    messages = TALKS["plain"]
    assert chat.encode(messages)[0] == ids_of(chat.tokenizer, render(chat.tokenizer, messages))


def test_spaces_and_words_that_were_added_for_their_length_are_left_alone():
    tokenizer = chatml(plain=())
    tokenizer.add_tokens(["  ", "\n\n", "<table>"])
    chat = ChatFormat(tokenizer)
    text = "a  b\n\n<table>"
    assert text in tokenizer.decode(chat.user_block(text))


def test_thoughts_in_an_assistants_history_are_the_templates_business(formats):
    messages = talk("U: hi", "A: <think>\nhm\n</think>\n\nhello", "U: more")
    for name, keeps in (("qwen3", False), ("qwen2_5", True), ("qwen3_5_think_training", True)):
        chat = formats(name)
        assert chat.opening(messages) == ids_of(chat.tokenizer, render(chat.tokenizer, messages))
        assert ("hm" in chat.tokenizer.decode(chat.opening(messages))) == keeps


def test_what_was_remembered_is_what_would_be_made(formats):
    chat, other = formats("qwen2_5"), ChatFormat(family("qwen2_5"))
    long = "how many? " * 200
    for text in ("how many?", "", long):
        for closed in (True, False):
            for _ in range(2):
                block = chat.user_block(text, closed)
                assert block == other.user_block(text, closed)
                block.append(-1)  # what a caller does with it stays with the caller
        for _ in range(2):
            opening = chat.opening([Message("user", text)])
            assert opening == other.opening([Message("user", text)])
            opening.clear()


def test_the_context_is_that_of_the_model():
    text = SimpleNamespace(max_position_embeddings=64)
    for config, limit in (
        (text, 64),
        (SimpleNamespace(n_positions=32), 32),
        (SimpleNamespace(text_config=text), 64),
        (SimpleNamespace(max_position_embeddings=None), None),
    ):
        assert context_of(SimpleNamespace(config=config)) == limit
    chat = ChatFormat(chatml(), model=SimpleNamespace(config=text))
    chat.check_room(40, 24)
    with pytest.raises(
        ContextError, match="41 tokens of conversation leave no room for a turn of 24 .* of 64: use"
    ):
        chat.check_room(41, 24)
    ChatFormat(chatml()).check_room(10**9, 1)  # nobody knows


def test_templates_are_probed_without_a_model():
    template = ChatTemplate(chatml())
    assert (template.gap, template.close, template.lead) == ("", "<|im_end|>", "")
    assert template.departures == () and template.opened == ""


THOUGHTS = {
    "qwen3": "<think>\nhm, a box\n</think>\n\nSeven.<|im_end|>",
    "qwen3_5_think": "hm, a box\n</think>\n\nSeven.<|im_end|>",  # the template has opened the thought
    "deepseek_r1_distill": "hm, a box\n</think>\n\nSeven.<｜end▁of▁sentence｜>",
    "gptoss": "<|channel|>analysis<|message|>hm, a box<|end|><|start|>assistant<|channel|>final<|message|>Seven.<|return|>",
    "glm4moe": "\n<think>hm, a box</think>\nSeven.<|user|>",
    "muse_glimmer": " to=user<|message|>Seven.<|eot|>",
}


@pytest.mark.parametrize("name", THOUGHTS)
def test_the_thoughts_that_a_policy_writes_stay_in_its_context_and_are_not_said(formats, name):
    chat = formats(name)
    turn = ids_of(chat.tokenizer, THOUGHTS[name])
    assert turn[-1] == chat.eos_id and not {*turn[:-1]} & {*chat.end_ids}
    speech = chat.speech(turn)
    assert speech.text == "Seven." and speech.whole
    begins = chat.speech_begins(turn)
    assert 0 < begins < len(turn) and "Seven." in chat.tokenizer.decode(turn[begins:])
    assert "hm" not in chat.tokenizer.decode(turn[begins:])
    if name != "muse_glimmer":
        assert not chat.speech(turn[: begins - 2]).text  # cut off within its thought, it says nothing
