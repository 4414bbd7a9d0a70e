"""Reference answers and their comparison, in a process of its own that may be slow, killed or shared."""

import multiprocessing
import signal
import threading
import time

import pytest

from itpo.data import answers, answers_match, reference_answer

EQUAL = [
    ("42", "42"),
    ("The answer is 42.", "42"),
    ("42 dollars", "42"),
    ("**$42**", "42"),
    (r"\$42.00", "42"),
    (r"$\boxed{42\text{ cm}}$", "42"),
    (r"\boxed{5}, no, \boxed{6}", "6"),
    ("1,450,000", "1450000"),
    ("1450000", "1,450,000"),
    (r"1{,}450\,000", "1,450,000"),
    ("3 + 4 = 7\n#### 7", "7"),
    ("#### 1,450,000\n", "1450000"),
    ("#### Step 4\nSo she has 7 left.", "7"),
    ("#### Final answer: $1,200", "1200"),
    (r"\boxed{42 dollars}", "42"),
    (r"\boxed{3 \text{ and } 5}", "3,5"),
    ("42", "42 km/h"),
    ("50%", r"50\%"),
    ("0.5", r"50\%"),
    ("50", "50%"),
    ("1/2", r"\frac{1}{2}"),
    (r"\frac12", "0.5"),
    ("137.5", r"137\frac{1}{2}"),
    (r"\boxed{\dfrac{16}{27}}", r"\frac{16}{27}"),
    ("0.333333", r"\frac13"),
    ("(2, 4)", "(2,4)"),
    ("7,5,3", "3,5,7"),
    ("[-2, 7]", "[-2,7]"),
    (r"(-\infty, 2) \cup (3, \infty)", r"(-\infty,2)\cup(3,\infty)"),
    (r"1+\sqrt5, 1-\sqrt5, -2", r"\{1\pm\sqrt{5},-2\}"),
    (r"\begin{pmatrix}0.2\\-3.6\end{pmatrix}", r"\begin{pmatrix}1/5\\-18/5\end{pmatrix}"),
    ("2(k+1)", "2k+2"),
    ("$x = 10$", "10"),
    (r"90^\circ", "90"),
    ("4210_5", "4210_{5}"),
    ("(C)", "C"),
    (r"$\boxed{\text{(C)}}$", "(C)"),
    (r"So it is \boxed{navin}.", r"\text{Navin}"),
    ("She pays $18 in total, so $18.", "18"),
    ("It costs $5 and then $1,234.50 in all.", "1234.5"),
    (r"We get $3$, so the answer is $\sqrt{51}$.", r"\sqrt{51}"),
    (r"\[x=\frac{3}{4}\]", "0.75"),
]
DIFFERENT = [
    ("41", "42"),
    ("", "42"),
    ("I do not know.", "42"),
    ("-5", "5"),
    (r"\boxed{6}, no, \boxed{5}", "6"),
    ("42 apples and 7 pears", "42"),
    ("(4,2)", "(2,4)"),
    ("(-2,7)", "[-2,7]"),
    ("3,5", "3,5,7"),
    ("3.14", r"\pi"),
    ("2(k+1)", "2"),
    (r"\boxed{}", "0"),
    (r"\boxed{", "0"),
    ("#### ", "7"),
    ("1/0", "0"),
    (r"\boxed{seat}", "east"),
    ("not even", "even"),
    (r"\boxed{2 or 3}", "3"),
    ("#### Step 4\nSo she has 7 left.", "4"),
    ("D", "(C)"),
    ("__import__('os').getpid()", "1"),
]


@pytest.mark.parametrize("pairs, equal", [(EQUAL, True), (DIFFERENT, False)], ids=["equal", "different"])
def test_answers(pairs, equal):
    assert [pair for pair in pairs if answers_match(*pair) != equal] == []


def test_answers_from_many_threads_at_once():
    verdicts = {}

    def compare(number):
        verdicts[number] = [answers_match(f"It makes {i} pears.", str(number)) for i in range(6)]

    threads = [threading.Thread(target=compare, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == {number: [i == number for i in range(6)] for number in range(6)}


@pytest.mark.parametrize("answer", [r"\boxed{9^{9^{9^{9}}}}", "(" * 3000])
def test_an_answer_that_cannot_be_compared_in_time_is_no_match(answer, monkeypatch):
    monkeypatch.setattr(answers, "_CPU_SECONDS", 0.5)
    answers._VERIFIER.close()
    start = time.monotonic()
    assert not answers_match(answer, "7")
    assert time.monotonic() - start < 30
    assert answers_match("7.0", "7")  # by a new process
    answers._VERIFIER.close()


def test_a_process_that_was_killed_or_that_fails(monkeypatch, tmp_path, capfd):
    assert answers_match("1/2", "0.5")
    answers._VERIFIER._process.kill()
    answers._VERIFIER._process.wait()
    assert answers_match("1/2", "0.5")
    answers._VERIFIER.close()
    monkeypatch.setattr(answers, "_CPU_SECONDS", "soon")
    with pytest.raises(RuntimeError, match=r"failed \(exit status 1\); its error is above"):
        answers_match("1/2", "0.5")
    assert "could not convert string to float: 'soon'" in capfd.readouterr().err


def test_an_interrupted_comparison_leaves_no_reply_behind():
    assert answers_match("1/2", "0.5")
    process = answers._VERIFIER._process

    class Interrupted:
        def __init__(self, file):
            self.file = file

        def readline(self):
            raise KeyboardInterrupt

        def __getattr__(self, name):
            return getattr(self.file, name)

    process.stdout = Interrupted(process.stdout)
    with pytest.raises(KeyboardInterrupt):
        answers_match("1/2", "0.5")
    assert process.returncode == -signal.SIGKILL
    assert not answers_match("1/2", "0.75")


def _compare_in_child(pairs, queue):
    queue.put([answers_match(*pair) for pair in pairs])


def test_a_forked_process_has_its_own():
    assert answers_match("1/2", "0.5")
    mine = answers._VERIFIER._process
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_compare_in_child, args=([("1/3", "0.5"), ("2/4", "0.5")], queue))
    child.start()
    assert queue.get(timeout=60) == [False, True]
    child.join(60)
    assert answers_match("2/4", "0.5") and answers._VERIFIER._process is mine


@pytest.mark.parametrize("piece", [r"\boxed{", "$1.", r"\text{", "####", r"\boxed{1", "$", " (", "7 "])
def test_a_reply_that_repeats_itself_costs_little(piece):
    start = time.process_time()
    answers_match(piece * (20_000 // len(piece)), "42")
    assert time.process_time() - start < 1  # of this process; the other one has a limit


def test_nothing_can_be_compared_with_an_empty_reference():
    with pytest.raises(ValueError, match="the reference answer is empty"):
        answers_match("7", " ")


@pytest.mark.parametrize(
    "solution, answer",
    [
        (r"$\boxed{1}$ and then $\boxed{\frac{1}{\sqrt{2}}}$.", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed 5 is it", "5"),
        (r"\fbox{6}", "6"),
        (r"\boxed{7} or \boxed{", "7"),
        ("#### 1\nNo:\n#### 1,450,000\n", "1,450,000"),
        (r"\boxed{1} \boxed{2 \boxed{", "1"),
    ],
)
def test_reference_answers(solution, answer):
    assert reference_answer(solution) == answer


@pytest.mark.parametrize(
    "solution", ["", "It is 42.", r"\boxed{}", "#### ", r"\boxed{1", "#### 5\nThat is it."]
)
def test_a_solution_without_a_marked_answer_is_refused(solution):
    with pytest.raises(
        ValueError, match=r"marks no final answer: end it with \\boxed\{...\} or with a line '#### "
    ):
        reference_answer(solution)


def test_missing_math_verify_is_named_too(monkeypatch):
    answers._VERIFIER.close()
    monkeypatch.setattr(answers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="math-verify, which is missing: pip install math-verify"):
        answers_match("1/2", "0.5")
