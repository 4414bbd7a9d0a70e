"""The measurement runs here at toy size and says so; what a step takes is counted from it."""

import pytest

from itpo.__main__ import main
from itpo.models.memory import Settings, Work
from itpo.models.shapes import Shape, find_shape
from itpo.models.timing import Pace, Times, measure

TOY = Shape(64, 128, 2, 4, 2, 16, 100, True)
SETTINGS = Settings(4096, 512, 43, 16384)


def pace(**times):
    return Pace(
        Times(**{"decode": 0.0, "read": 0.0, "score": 0.0, "learn": 0.0} | times), TOY, 1, 1, "here", False
    )


def test_a_step_is_counted_token_by_token():
    work = Work(prompt=1024, response=3584, dialogues=128, adapters=2)
    assert pace(decode=0.024).step(work, SETTINGS)["decoding"] == pytest.approx(3 * 3584 * 0.024)  # waves
    # PRM and policy learn; the reference, the PRM, and the policy again, whose sampled values 16 bits do not give.
    assert pace(learn=1.0).step(work, SETTINGS)["learning"] == 2 * 128 * 4608
    assert pace(score=1.0).step(work, SETTINGS)["scoring"] == 3 * 128 * 4608
    exact = Work(prompt=1024, response=3584, precision="full", value_bytes=4)
    assert pace(score=1.0).step(exact, SETTINGS)["scoring"] == 2 * 128 * 4608
    assert pace(read=1.0).step(work, SETTINGS)["reading"] == 128 * 4608
    # Four replies of a user, who reads instructions, the goal, the prompt and on average half of what was said.
    asked = Work(prompt=1024, response=3584, user_reply=256)
    assert pace(read=1.0).step(asked, SETTINGS)["reading"] == 128 * (4608 + 4 * (256 + 2 * 1024 + 1792))
    judged = Work(prompt=1024, response=3584, judge_reply=2048)
    assert pace(decode=1.0).step(judged, SETTINGS)["decoding"] == 3 * (3584 + 2048)
    assert pace(read=1.0).step(judged, SETTINGS)["reading"] == 128 * (4608 + 256 + 1024 + 4608)


def test_the_issue_of_time_is_told_in_minutes_and_days():
    text = pace(decode=0.0401785714).report(Work(response=3584), SETTINGS, steps=100)
    assert "a step of 128 dialogues of full length: 7.2 minutes (decoding 7.2, reading 0.0" in text
    assert "a run of 100 steps: 0.5 days at full length, 0.2 where dialogues take half of it" in text


def test_a_measurement_on_a_cpu_is_that_of_a_toy(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    shape = find_shape("Qwen/Qwen2.5-3B-Instruct")
    found = measure(shape, Work(response=256), SETTINGS)
    assert found.toy and found.shape.layers == shape.layers and found.place == "this CPU"
    assert all(seconds > 0 for seconds in found.times)
    # Many layers are what few differ by: reading a token costs less than learning from it.
    assert found.times.read < found.times.learn and found.times.score < found.times.learn


def test_the_command_measures_where_it_is_asked_to(capsys):
    given = [
        "plan",
        "--model",
        "Qwen/Qwen2.5-0.5B-Instruct",
        "--gpu",
        "24",
        "--prompt",
        "64",
        "--response",
        "64",
    ]
    assert main([*given, "--measure", "--steps", "30"]) == 0
    printed = capsys.readouterr().out
    assert "a run of 30 steps:" in printed and "settings: token_budget" in printed
    assert main(given) == 0 and "time, measured" not in capsys.readouterr().out
