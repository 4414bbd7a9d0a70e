"""The loaders against small files of every format (and real ones, where ITPO_REAL_DATA names their folder)."""

import gzip
import json
import os
import shutil
import socket
import time
from collections import Counter
from pathlib import Path

import datasets
import huggingface_hub
import pyarrow
import pytest
from pyarrow import parquet

from itpo.data import (
    FORMATS,
    DataError,
    Example,
    answers_match,
    generate_gsm,
    load_examples,
    reference_answer,
    rows,
    split,
)
from itpo.dialogue import Message

FIXTURES = Path(__file__).parent


def real(name):
    folder = os.environ.get("ITPO_REAL_DATA")
    if not folder:
        pytest.skip(f"set ITPO_REAL_DATA to a folder with {name}")
    return Path(folder) / name


def rows_of(name):
    path = FIXTURES / name
    if path.suffix == ".parquet":
        return parquet.read_table(path).to_pylist()
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path, rows):
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


def question(number, text=None):
    return {"question": text or f"What is {number} + 0?", "answer": f"#### {number}"}


# Readers


def test_math_rows():
    first, second, third = load_examples(FIXTURES / "math.jsonl", "math").examples
    text = "Compute $3^2 + 1$."
    assert first == Example(
        "one",
        "math",
        (Message("user", text),),
        text,
        {"answer": "10"},
        {"solution": r"It is $9 + 1 = \boxed{10}$.", "level": "Level 1", "type": "Algebra"},
    )
    assert second.reference == {"answer": "3.5"}  # the given one, not the boxed 7/2
    assert (third.id, third.reference["answer"]) == ("math:3", "3^2")
    assert "level" not in third.metadata


@pytest.mark.parametrize("name, answers", [("gsm8k.jsonl", ["24", "1,500"]), ("gsm8k.csv", ["24"])])
def test_gsm8k_rows(name, answers):
    examples = load_examples(FIXTURES / name, "gsm8k").examples
    assert [example.reference["answer"] for example in examples] == answers
    assert [example.id for example in examples] == [f"gsm8k:{i + 1}" for i in range(len(answers))]
    assert examples[0].goal == examples[0].prompt[0].content
    assert "6 cups" in examples[0].goal and examples[0].task == "math"


def test_collabllm_keeps_each_conversations_first_message_and_each_prompt_once():
    loaded = load_examples(FIXTURES / "collabllm_math.jsonl", "collabllm-math")
    first, second = loaded.examples
    assert (first.id, second.id) == ("7", "8")  # 9 opens like 8
    assert loaded.repeated == 2 and not loaded.skipped
    assert first.prompt == (Message("user", "Can you help me add two numbers?"),)
    assert (first.goal, first.reference) == ("Add 19 and 23.", {"answer": "42"})
    assert first.metadata == {
        "solution": r"The sum is $\boxed{42}$.",
        "single_turn_metadata": {"level": "Level 5"},
    }


def test_a_later_turn_alone_opens_with_the_first_message_too(tmp_path):
    later = rows_of("collabllm_math.jsonl")[1]
    assert len(later["prompt"]) == 3
    (example,) = load_examples(write(tmp_path / "later.jsonl", [later]), "collabllm-math").examples
    assert example.prompt == (Message("user", "Can you help me add two numbers?"),)


def test_collabllm_documents():
    tea, rain = load_examples(FIXTURES / "collabllm_documents.parquet", "collabllm-documents").examples
    assert tea.task == "documents"
    assert tea.prompt == (Message("system", "Be brief."), Message("user", "Write about tea."))
    assert tea.reference == {"document": "Tea is a drink."} and "article" in tea.goal
    assert rain.metadata == {"single_turn_metadata": {"tags": ["a", "b"]}}


def test_mtmeddialog_parquet():
    cough, nose = load_examples(FIXTURES / "mtmeddialog.parquet", "mtmeddialog").examples
    assert (cough.id, cough.task) == ("4", "medical")
    assert [message.role for message in cough.prompt] == ["system", "user"]
    # The doctor's closing advice, which nobody answered, is not something the patient can tell.
    assert cough.goal == "I cough.\nDoctor: Since when? Any fever?\nPatient: Since Monday. No fever."
    assert cough.reference == {"diagnosis": "A cold.", "recommendation": "Rest and drink."}
    assert nose.metadata == {"patient_information": (("Any pain?", "No."),)}


def test_mtmeddialog_json():
    (cough,) = load_examples(FIXTURES / "mtmeddialog_rl.json", "mtmeddialog").examples
    assert cough.goal == "I have coughed since Monday and have no fever."
    sneeze, ear = load_examples(FIXTURES / "mtmeddialog_test.json", "mtmeddialog").examples
    assert sneeze.prompt == (Message("user", "Patient's description: I sneeze."),)
    assert sneeze.goal == "I sneeze outside, in spring."
    assert ear.goal == "My ear hurts.\nDoctor: Since when?\nPatient: Yesterday."
    assert (ear.id, ear.reference["diagnosis"]) == ("mtmeddialog_test:2", "Otitis.")


@pytest.mark.parametrize("name, format", [("math.jsonl", "math"), ("collabllm_math.jsonl", "collabllm-math")])
def test_json_lines_json_lists_and_parquet_give_the_same_examples(name, format, tmp_path):
    lines = load_examples(FIXTURES / name, format)
    rows, stem = rows_of(name), name.partition(".")[0]
    (tmp_path / f"{stem}.json").write_text("\ufeff" + json.dumps(rows, indent=1), encoding="utf-8")
    columns = dict.fromkeys(key for row in rows for key in row)  # pyarrow takes them from the first row
    table = pyarrow.table({key: [row.get(key) for row in rows] for key in columns})
    parquet.write_table(table, tmp_path / f"{stem}.parquet")
    assert load_examples(tmp_path / f"{stem}.json", format) == lines
    assert load_examples(str(tmp_path / f"{stem}.parquet"), format) == lines
    write(tmp_path / f"{stem}.json", ["", *map(json.dumps, rows)])  # lines, under the other ending
    assert [e.goal for e in load_examples(tmp_path / f"{stem}.json", format).examples] == [
        e.goal for e in lines.examples
    ]


def test_a_folder_is_read_by_split_and_without_what_is_not_data(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / ".cache").mkdir()
    write(tmp_path / "data" / "train-00001.jsonl", [question(2), question(1)])
    write(tmp_path / "data" / "train-00000.jsonl", [question(1)])
    write(tmp_path / "data" / "test-00000.jsonl", [question(3)])
    write(tmp_path / ".cache" / "train.json", ["{}"])
    write(tmp_path / "dataset_infos.json", ["{}"])
    (tmp_path / "README.md").write_text("read me")
    loaded = load_examples(tmp_path, "gsm8k")
    assert [e.id for e in loaded.examples] == ["train-00000:1", "train-00001:1"] and loaded.repeated == 1
    assert [e.id for e in load_examples(tmp_path, "gsm8k", part="test").examples] == ["test-00000:1"]
    with pytest.raises(DataError, match="holds no validation files: name the folder"):
        load_examples(tmp_path, "gsm8k", part="validation")
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(DataError, match=r"holds no data files \(.json, .jsonl, .ndjson, .csv \(also"):
        load_examples(tmp_path, "gsm8k")


@pytest.mark.parametrize(
    "name", ["r.ndjson", "r.JSONL", "r.jsonl.gz", "r.json.gz", "r.csv.gz", "r.NDJSON.gz"]
)
def test_more_endings(name, tmp_path):
    json_rows = "\n".join(json.dumps(question(number)) for number in (1, 2))
    text = "question,answer\nWhat is 1 + 0?,#### 1\nWhat is 2 + 0?,#### 2\n" if ".csv" in name else json_rows
    content = text.encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    for source in (tmp_path / name, tmp_path):  # the file, and the folder that holds it
        examples = load_examples(source, "gsm8k").examples
        assert [(e.id, e.reference["answer"]) for e in examples] == [("r:1", "1"), ("r:2", "2")]
    (tmp_path / name).write_bytes(content[:20] if name.endswith(".gz") else b"{")
    with pytest.raises(DataError, match="cannot be read|is not JSON"):
        load_examples(tmp_path / name, "gsm8k")


PROBLEM = "How many pens?"


@pytest.mark.parametrize(
    "format, row, answer, solution",
    [
        ("math", {"problem": PROBLEM, "answer": "7"}, "7", None),
        ("math", {"problem": PROBLEM, "answer": 70}, "70", None),
        ("math", {"problem": PROBLEM, "answer": r"\text{Navin}"}, r"\text{Navin}", None),
        ("math", {"problem": PROBLEM, "answer": "no solution"}, "no solution", None),
        ("math", {"problem": PROBLEM, "answer": r"It is $\boxed{7}$."}, "7", None),
        ("math", {"problem": PROBLEM, "answer": "7", "solution": "So 7."}, "7", "So 7."),
        ("math", {"problem": PROBLEM, "answer": None, "solution": r"\boxed{7}"}, "7", r"\boxed{7}"),
        ("gsm8k", {"question": PROBLEM, "answer": "7"}, "7", None),
        ("gsm8k", {"question": PROBLEM, "answer": " 1,450,000 "}, "1,450,000", None),
        ("gsm8k", {"question": PROBLEM, "answer": 7}, "7", None),
        ("gsm8k", {"question": PROBLEM, "answer": "-1/2"}, "-1/2", None),
        ("gsm8k", {"question": PROBLEM, "answer": "So\n#### 7"}, "7", "So\n#### 7"),
    ],
)
def test_bare_answers_and_answers_in_their_own_column(format, row, answer, solution, tmp_path):
    (example,) = load_examples(write(tmp_path / "rows.jsonl", [row]), format).examples
    assert example.reference == {"answer": answer} and example.metadata.get("solution") == solution


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_content_in_parts(ending, tmp_path):
    row = rows_of("collabllm_math.jsonl")[0]
    parts = [{"type": "text", "text": "Can you help me"}, {"type": "text", "text": "with pens?"}]
    row["prompt"] = [{"role": "user", "content": parts}]
    path = tmp_path / f"rows.{ending}"
    if ending == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist([row]), path)
    else:
        write(path, [row])
    (example,) = load_examples(path, "collabllm-math").examples
    assert example.prompt == (Message("user", "Can you help me\nwith pens?"),)


def test_what_follows_the_first_message_of_the_user_is_not_looked_at(tmp_path):
    prompt = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}, {"role": "tool"}]
    (example,) = load_examples(write(tmp_path / "rows.jsonl", [talk(prompt)]), "collabllm-math").examples
    assert example.prompt == (Message("system", "Be brief."), Message("user", "Hi"))


# Real data


@pytest.mark.parametrize(
    "name, format, count",
    [
        ("math_100.jsonl", "math", 100),
        ("gsm8k_200.jsonl", "gsm8k", 200),
        ("mtmeddialog_66.parquet", "mtmeddialog", 66),
    ],
)
def test_real_files_load_whole(name, format, count):
    loaded = load_examples(real(name), format)
    assert (len(loaded.examples), loaded.skipped, loaded.repeated) == (count, (), 0)
    assert len({example.id for example in loaded.examples}) == count
    assert all(e.prompt[-1].role == "user" and e.goal and all(e.reference.values()) for e in loaded.examples)


@pytest.mark.parametrize("name, format", [("math_100.jsonl", "math"), ("gsm8k_200.jsonl", "gsm8k")])
def test_real_solutions_match_their_own_answers_and_not_the_next(name, format):
    examples = load_examples(real(name), format).examples
    for example, other in zip(examples, [*examples[1:], examples[0]], strict=True):
        answer = example.reference["answer"]
        assert answers_match(example.metadata["solution"], answer), example
        assert answers_match(reference_answer(example.metadata["solution"]), answer), example
        if other.reference["answer"] != answer:
            assert not answers_match(example.metadata["solution"], other.reference["answer"]), (
                example,
                other,
            )


def test_real_patients_do_not_know_the_advice():
    for example in load_examples(real("mtmeddialog_66.parquet"), "mtmeddialog").examples:
        assert all(asked and answered for asked, answered in example.metadata["patient_information"])
        assert "Decide next action" not in example.goal


# Bad input

GOOD = question(1)
CONVERSATION = json.loads((FIXTURES / "collabllm_math.jsonl").read_text().partition("\n")[0])
PATIENT = json.loads((FIXTURES / "mtmeddialog_rl.json").read_text())[0]


def talk(prompt):
    return {**CONVERSATION, "conv_id": 99, "prompt": prompt}


def patient(**reward_model):
    return {
        **PATIENT,
        "extra_info": {"index": 99},
        "reward_model": {**PATIENT["reward_model"], **reward_model},
    }


BAD = [
    ("gsm8k", '{"question": "Half', "is not JSON (Unterminated string"),
    ("gsm8k", "[1, 2]", "is a JSON list, not an object: write an object"),
    ("gsm8k", {"question": "What?"}, "column 'answer' is missing (found: question): check the format"),
    ("gsm8k", {"question": None, "answer": "#### 1"}, "column 'question' is missing"),
    ("gsm8k", {"question": 7, "answer": "#### 1"}, "column 'question' is 7, not text"),
    ("gsm8k", {"question": " ", "answer": "#### 1"}, "column 'question' is ' ', not text"),
    (
        "gsm8k",
        {"question": "What?", "answer": "It is 1."},
        "column 'answer': the solution marks no final answer",
    ),
    ("collabllm-math", talk([]), "the conversation in 'prompt' is [], not a list of messages"),
    ("collabllm-math", talk("Hello"), "the conversation in 'prompt' is 'Hello', not a list"),
    (
        "collabllm-math",
        talk([{"role": "user", "content": 3}]),
        "the content of message 1 of 'prompt' is 3, not text",
    ),
    (
        "collabllm-math",
        talk([{"role": "user", "content": ""}]),
        "the content of message 1 of 'prompt' is '', not",
    ),
    (
        "collabllm-math",
        talk([{"role": "human", "content": "Hi"}]),
        "message 1 of 'prompt' has the role 'human': use one of system, user",
    ),
    ("collabllm-math", talk(["Hi"]), "message 1 of 'prompt' has the role None"),
    (
        "collabllm-math",
        talk([{"role": "system", "content": "Hi"}]),
        "the conversation in 'prompt' has no message",
    ),
    (
        "collabllm-math",
        {**CONVERSATION, "single_turn_prompt": "Other."},
        "the id '7' is that of another example: give",
    ),
    *(
        ("collabllm-math", talk(prompt), wrong)
        for prompt, wrong in [
            (
                [{"role": "assistant", "content": "Welcome!"}, {"role": "user", "content": "Hi"}],
                "message 1 of 'prompt' is of the assistant, before the user has said anything: begin with",
            ),
            (
                [{"role": "system", "content": "A"}, {"role": "system", "content": "B"}],
                "message 2 of 'prompt' is of the system, before the user",
            ),
            ([{"role": "user", "content": " \u200b\n"}], "the content of message 1 of 'prompt' is "),
            ([{"role": "user", "content": None}], "the content of message 1 of 'prompt' is None, not text"),
            ([{"role": "user", "content": []}], "the content of message 1 of 'prompt' is "),
            (
                [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
                "the content of message 1 of 'prompt' is [{'image_url': {'url': 'x'}, 'type': 'image_url'}], not text",
            ),
            ([{"role": "tool", "content": "Hi"}], "message 1 of 'prompt' has the role 'tool': use one of"),
            (
                [{"role": ["user"], "content": "Hi"}],
                "message 1 of 'prompt' has the role ['user']: use one of",
            ),
            ([None], "message 1 of 'prompt' has the role None"),
            ('[{"role": "user"}]', "the conversation in 'prompt' is '[{\"role\": \"user\"}]', not a list"),
            ([{"role": "user", "content": "Hi \ud83d"}], "'Hi \\ud83d' has half of a character (a lone surr"),
        ]
    ),
    (
        "collabllm-math",
        {**CONVERSATION, "conv_id": 99, "single_turn_completion": r"\boxed{43}"},
        "contradicts '7': the same question with another reference: keep the right one of the two",
    ),
    ("gsm8k", {"question": "What is 1 + 0?", "answer": "2"}, "contradicts 'rows:1': the same question with"),
    ("gsm8k", {"question": "What?", "answer": True}, "column 'answer' is True, not text"),
    ("gsm8k", '{"question": "What?", "answer": NaN}', "column 'answer' is nan, not text"),
    ("gsm8k", '{"question": "What? \\ud83d", "answer": "#### 2"}', "'What? \\ud83d' has half of a character"),
    (
        "gsm8k",
        '{"question": "What?", "answer": "\\udc00 #### 2"}',
        "'\\udc00 #### 2' has half of a character",
    ),
    ("gsm8k", '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "is nested too deeply to be read: repair or"),
    (
        "math",
        {"problem": "What?", "answer": "First there are some pens, so 7"},
        "column 'answer': the solution",
    ),
    ("math", {"problem": "What?", "answer": "7\n8"}, "column 'answer': the solution marks no final answer"),
    ("math", {"problem": "What?", "level": "Level 5"}, "column 'solution' is missing"),
    (
        "math",
        {"problem": "What?", "solution": r"\boxed{\frac{1}{2}"},
        r"column 'solution': no answer can be read behind its mark \boxed, or its braces do not close: repair",
    ),
    (
        "math",
        {"problem": "What?", "answer": r"\fbox{7"},
        r"column 'answer': no answer can be read behind its",
    ),
    (
        "gsm8k",
        {"question": "What?", "answer": "#### 7 ####"},
        "column 'answer': no answer can be read behind",
    ),
    (
        "gsm8k",
        '{"question": "What?", "answer": "1", "answer": "2"}',
        "has the key 'answer' twice in one object: give each its own name, or skip bad rows",
    ),
    (
        "mtmeddialog",
        patient(enhanced_description=PATIENT["prompt"][-1]["content"]),
        "the first message of the user tells the whole goal, so that nothing is left to ask: let the first",
    ),
    (
        "mtmeddialog",
        {**PATIENT, "reward_model": "none"},
        "column 'reward_model.ground_truth.diagnosis' is missing",
    ),
    (
        "mtmeddialog",
        patient(enhanced_description=None, patient_information=[]),
        "there is no patient information",
    ),
    (
        "mtmeddialog",
        patient(patient_information="I cough."),
        "the patient information is 'I cough.', not a list",
    ),
    (
        "mtmeddialog",
        patient(patient_information=[{"doctor_question": 1, "patient_response": "No."}]),
        "doctor_question of turn 1 of the patient information is 1, not text",
    ),
]


@pytest.mark.parametrize("format, bad, wrong", BAD, ids=range(len(BAD)))
def test_a_bad_row_is_named_or_skipped_and_listed(format, bad, wrong, tmp_path):
    good = {
        "gsm8k": GOOD,
        "math": {"problem": "1?", "answer": "1"},
        "collabllm-math": CONVERSATION,
        "mtmeddialog": PATIENT,
    }[format]
    path = write(tmp_path / "rows.jsonl", [good, "", bad])
    with pytest.raises(DataError) as error:
        load_examples(path, format)
    assert str(error.value).startswith(f"{path}, row 3: {wrong}")
    assert (error.value.where, error.value.row) == (str(path), 3)
    loaded = load_examples(path, format, skip_bad=True)
    assert len(loaded.examples) == 1 and loaded.repeated == 0
    assert [str(bad) for bad in loaded.skipped] == [str(error.value)]


def test_one_question_with_one_answer_in_two_ways_is_repeated(tmp_path):
    rows = [{"question": "How much?", "answer": answer} for answer in ("1/2", "0.5", "#### 0.50")]
    loaded = load_examples(write(tmp_path / "rows.jsonl", rows), "gsm8k")
    assert len(loaded.examples) == 1 and loaded.repeated == 2


def test_a_document_whose_first_message_is_the_whole_request_is_refused_by_row(tmp_path):
    row = {**CONVERSATION, "single_turn_prompt": "Can you help me add two numbers?"}
    path = write(tmp_path / "rows.jsonl", [row])
    with pytest.raises(
        DataError, match="rows.jsonl, row 1: the first message of the user tells the whole goal"
    ):
        load_examples(path, "collabllm-documents")
    (problem,) = load_examples(path, "collabllm-math").examples  # the user of a problem opens it anew
    assert problem.prompt[-1].content == problem.goal


def test_two_documents_for_one_request_contradict_each_other(tmp_path):
    rows = [
        {**CONVERSATION, "conv_id": number, "single_turn_completion": text}
        for number, text in enumerate(("Tea.", "Rain."))
    ]
    with pytest.raises(DataError, match="row 2: contradicts '0': the same question with another reference"):
        load_examples(write(tmp_path / "rows.jsonl", rows), "collabllm-documents")


@pytest.mark.parametrize("depth", [500, 100_000])
@pytest.mark.parametrize(
    "template", ['{"question": %s, "answer": "#### 1"}', '[{"question": %s, "answer": 1}]']
)
def test_deeply_nested_json_is_refused_with_and_without_skipping(depth, template, tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(template % ("[" * depth + "]" * depth))
    for skip_bad in (False, True):
        with pytest.raises(DataError, match="nested too deeply|not text") as error:
            load_examples(path, "gsm8k", skip_bad=skip_bad)
        assert len(str(error.value)) < 600


def test_an_empty_source_is_not_the_default_of_the_hub():
    for source in ("", "  "):
        with pytest.raises(
            DataError, match="the source: is an empty text: pass a path or a name; None is the hub's"
        ):
            load_examples(source, "gsm8k")


def test_bytes_that_are_not_text_spoil_one_row(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b'\n{"question": "\xff"}\n')
    with pytest.raises(DataError, match=r"rows.jsonl, row 2: is not JSON \('utf-8' codec"):
        load_examples(path, "gsm8k")
    assert len(load_examples(path, "gsm8k", skip_bad=True).skipped) == 1


def test_a_missing_column_of_parquet_and_csv(tmp_path):
    parquet.write_table(pyarrow.Table.from_pylist([{"question": "What?"}]), tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("question,answer\nWhat?\nHow?,#### 1,\n")
    with pytest.raises(DataError, match=r"a.parquet, row 1: column 'answer' is missing \(found: question\)"):
        load_examples(tmp_path / "a.parquet", "gsm8k")
    with pytest.raises(DataError, match="a.csv, row 1: column 'answer' is missing"):
        load_examples(tmp_path / "a.csv", "gsm8k")
    assert [e.goal for e in load_examples(tmp_path / "a.csv", "gsm8k", skip_bad=True).examples] == ["How?"]


def test_a_row_of_csv_with_more_fields_than_the_header_is_bad(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('question,answer\nWhat?,"#### 1,450"\nHow?,#### 1,450\nWhen?,1,450\n')
    with pytest.raises(
        DataError, match=r"a.csv, row 2: has more fields than the header \(from '450' on\): quote fields"
    ):
        load_examples(path, "gsm8k")
    loaded = load_examples(path, "gsm8k", skip_bad=True)
    assert [example.reference["answer"] for example in loaded.examples] == ["1,450"]
    assert [error.row for error in loaded.skipped] == [2, 3]


def test_a_column_that_hides_another_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("question,,,answer,answer\nWhat?,,,#### 1,#### 2\n")
    twice = pyarrow.table([["What?"], ["#### 1"], ["#### 2"]], names=["question", "answer", "answer"])
    parquet.write_table(twice, tmp_path / "a.parquet")
    for name in ("a.csv", "a.parquet"):
        with pytest.raises(DataError, match=f"{name}: has two columns 'answer': delete one or give it"):
            load_examples(tmp_path / name, "gsm8k")
    (tmp_path / "a.csv").write_text("question,answer,,\nWhat?,#### 1,,\n")
    assert len(load_examples(tmp_path / "a.csv", "gsm8k").examples) == 1


@pytest.mark.parametrize(
    "name, content, wrong",
    [
        (
            "twice.json",
            b'[{"question": "a", "answer": "1", "answer": "2"}]',
            "has the key 'answer' twice in one object: give each its own name",
        ),
        ("absent.jsonl", None, "there is no such file or folder: check the path"),
        ("rows.txt", b"hello", r"has the ending '.txt': use one of .json, .jsonl, .ndjson, .csv"),
        (
            "rows.json",
            b'[{"question": "Half',
            r"is not JSON \(Unterminated string.*line 1 column 15.*: download",
        ),
        ("rows.parquet", b"PAR1 and no more", r"is not parquet \(.*\): download"),
        ("rows.csv", b"question,answer\n\xff,#### 1\n", r"is not CSV in UTF-8 \(.*\): write"),
        ("rows.jsonl", b"\n\n", "there are no rows: check the format and the source"),
        (
            "bad.jsonl",
            b"{}\n{}\n",
            r"no row is good, the first because: .*, row 1: column 'answer' is missing",
        ),
    ],
)
def test_a_source_that_gives_nothing_is_refused_also_when_bad_rows_are_skipped(
    name, content, wrong, tmp_path
):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=f"{name}: {wrong}") as error:
        load_examples(path, "gsm8k", skip_bad=True)
    assert error.value.row is None


def test_unknown_formats_and_formats_without_a_hub_name():
    with pytest.raises(ValueError, match="unknown format 'poems'; known formats: collabllm-documents, coll"):
        load_examples("x.json", "poems")
    with pytest.raises(
        DataError, match="mtmeddialog: is not on the hub: download its files and pass their path"
    ):
        load_examples(None, "mtmeddialog")


# The hub


def test_a_hub_name_without_network_says_what_to_download(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    start = time.monotonic()
    with pytest.raises(DataError, match=r"someone/some-set: is not in the local cache \(") as error:
        load_examples("someone/some-set", "gsm8k")
    assert time.monotonic() - start < 5
    assert "run 'hf download someone/some-set --repo-type dataset --local-dir FOLDER'" in str(error.value)


def test_a_hub_that_never_answers_is_given_up_in_seconds(monkeypatch):
    monkeypatch.setattr(rows, "_PROBE_SECONDS", 0.5)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
        start = time.monotonic()
        with pytest.raises(
            DataError, match="set: is not a local path, and the hub did not give it .*copy FOLDER here"
        ):
            load_examples("someone/some-set", "gsm8k")
    assert time.monotonic() - start < 10


def test_hub_rows_are_read_as_local_ones(monkeypatch):
    asked = []

    def load_dataset(name, config, split):
        asked.append((name, config, split))
        return datasets.Dataset.from_list([question(1), {"question": "What?", "answer": None}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="openai/gsm8k, row 2: column 'answer' is missing"):
        load_examples(None, "gsm8k")
    loaded = load_examples("me/mine", "gsm8k", part="test", skip_bad=True)
    assert [example.id for example in loaded.examples] == ["mine:1"]
    assert asked == [("openai/gsm8k", "main", "train"), ("me/mine", None, "test")]


def test_default_hub_names():
    assert {name: layout.hub for name, layout in FORMATS.items() if name.startswith("collabllm")} == {
        "collabllm-math": "collabllm/collabllm-multiturn-math-hard-large",
        "collabllm-documents": "collabllm/collabllm-multiturn-medium-large",
    }


# Split and generated problems


def test_split_is_the_one_of_the_released_script():
    examples = generate_gsm(57, seed=3)
    train, held_out = split(examples)
    theirs = datasets.Dataset.from_dict({"i": list(range(57))}).train_test_split(test_size=0.1, seed=42)
    assert [examples[i] for i in theirs["train"]["i"]] == train
    assert [examples[i] for i in theirs["test"]["i"]] == held_out


@pytest.mark.parametrize("count, validation, size", [(2, 0.1, 1), (20, 0.1, 2), (21, 0.1, 3), (20, 0.5, 10)])
def test_split_is_reproducible_disjoint_and_of_the_right_size(count, validation, size):
    examples = generate_gsm(count, seed=1)
    train, held_out = split(examples, validation, seed=7)
    assert (train, held_out) == split(examples, validation, seed=7)
    assert len(held_out) == size
    assert Counter(e.id for e in train + held_out) == Counter(e.id for e in examples)
    assert count < 20 or split(examples, validation, seed=8) != (train, held_out)


@pytest.mark.parametrize("count, validation", [(1, 0.1), (0, 0.1), (10, 0.0), (10, 1.0), (10, -0.1)])
def test_a_split_with_an_empty_side_is_refused(count, validation):
    with pytest.raises(ValueError, match="pass a share between 0 and 1, and at least 2 examples"):
        split(generate_gsm(10, seed=1)[:count], validation)


def test_generated_problems_are_distinct_and_a_seed_fixes_them():
    examples = generate_gsm(2000, seed=5)
    assert generate_gsm(10, seed=5) == examples[:10]
    assert len({e.goal for e in examples}) == len({e.id for e in examples}) == 2000
    # Not shifted by one, as neighbouring seeds of the package are; some templates have few instances.
    assert len({e.goal for e in examples} & {e.goal for e in generate_gsm(2000, seed=6)}) < 60
    assert all(float(e.reference["answer"]) >= 0 and e.task == "math" for e in examples)
    assert not any("final answer" in e.goal for e in examples)
    for example in examples[:100]:
        assert answers_match(example.metadata["solution"], example.reference["answer"])
    with pytest.raises(ValueError, match="count is 0: ask for at least one problem"):
        generate_gsm(0, seed=5)
