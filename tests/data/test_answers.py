"""Reference answers and their comparison, in a process of its own that may be slow, killed or shared."""

import multiprocessing
import signal
import subprocess
import sys
import threading
import time

import pytest
from answer_kinds import ANSWER_KINDS

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


# How people and models write answers, by kind: pairs that are equal, and pairs that are not.
KINDS = {
    "degrees": (
        [
            ("30°", "30"),
            ("30°", r"30^\circ"),
            (r"\boxed{30°}", r"30^{\circ}"),
            (r"\boxed{30^\circ}", "30°"),
            ("30 degrees", r"30^\circ"),
            (r"\boxed{30\text{ degrees}}", "30°"),
            (r"30\degree", "30"),
            ("The angle is 30º.", r"30^\circ"),
            ("The answer is 22.5°.", r"\frac{45}{2}"),
            (r"\boxed{\theta = 45°}", "45"),
            (r"\boxed{\angle ABC = 30^\circ}", "30"),
            (r"\boxed{-40^\circ\text{C}}", "-40"),
            (r"\boxed{-40\,^{\circ}\mathrm{C}}", "-40"),
            ("It is -40 °C.", "-40"),
        ],
        [("31°", "30"), ("30°", "-30"), (r"\sin 30^\circ", r"\sin 31^\circ"), ("It is 30 °C.", "3")],
    ),
    "minus": (
        [
            ("It is −3", "-3"),
            ("−3", "-3"),
            (r"\boxed{−3}", "-3"),
            ("It is –3.", "-3"),
            ("It is -3", "−3"),
            ("It is −3.5 m", "-3.5"),
            (r"\boxed{x−1}", "x-1"),
            ("−1/2", r"-\frac12"),
            ("(−2, 7)", "(-2,7)"),
        ],
        [("It is −3", "3"), ("It is –3.", "3"), ("They are 3–5 years", "-5"), ("(−2, 7)", "(2,7)")],
    ),
    "percent": (
        [
            (r"\boxed{12.5\%}", "12.5"),
            (r"\boxed{12.5\%}", "0.125"),
            (r"12.5\%", r"\frac18"),
            ("12.5", r"12.5\%"),
            ("12.5", "12.5%"),
            ("0.125", r"12.5\%"),
            ("12.5 percent", "12.5"),
            (r"\boxed{12.5\text{ percent}}", r"12.5\%"),
            (r"33\frac{1}{3}\%", r"\frac{100}{3}"),
            (r"33\frac{1}{3}\%", r"\frac13"),
            ("It rose by 12.5%.", "12.5"),
            ("It rose by 12.5%.", "0.125"),
            ("150%", "1.5"),
            ("33.333333%", "1/3"),
            (r"\frac{1}{2}\%", "0.5"),
        ],
        [
            ("50%", "5"),
            ("12.5%", "1.25"),
            ("0.5%", "50"),
            ("0.5%", "50%"),
            ("12.5%", "12.6"),
            (r"33\frac{1}{3}\%", r"\frac13\%"),
        ],
    ),
    "currency": (
        [
            (r"\boxed{€7}", "7"),
            (r"\boxed{£7.50}", "7.5"),
            (r"\boxed{7\,€}", "7"),
            (r"\boxed{\text{€}7}", "7"),
            (r"\boxed{\pounds 5}", "5"),
            (r"\boxed{US\$7}", "7"),
            ("It costs €7.", "7"),
            ("It costs 7€.", "7"),
            ("It costs £1,234.50 in all.", "1234.5"),
            ("₹1,200", "1200"),
            ("7", "€7"),
            ("USD 7", "7"),
            ("-$5", "-5"),
            ("-€5", "-5"),
            ("50¢", "50"),
        ],
        [("8", "€7"), ("-€5", "5"), ("It costs €7.", "70"), ("€0.50", "50")],
    ),
    "thousands": (
        [
            ("1 000", "1000"),
            (r"\boxed{1 000 000}", "1,000,000"),
            (r"\boxed{1 000.5}", "1000.5"),
            ("1000", "1 000"),
            (r"1\,000", "1,000"),
            (r"1\;000", "1000"),
            (r"1\ 000", "1000"),
            ("1~000", "1000"),
            (r"12\!345", "12345"),
            ("1'000'000", "1000000"),
            (r"1{,}234{,}567", "1234567"),
            (r"\boxed{10 000 cm}", "10000"),
            ("It costs 12\u202f345 in all.", "12345"),
            ("It costs 12\u00a0345 in all.", "12345"),
            (r"\boxed{1\,200,3}", "1200,3"),
        ],
        [("1000", "10 000"), (r"\boxed{1, 200}", "1200"), ("1 000", "1"), ("1 000", "0"), ("1 00", "100")],
    ),
    "powers of ten": (
        [
            ("1.5e3", "1500"),
            (r"\boxed{1.5E3}", "1500"),
            ("1.5e+03", "1500"),
            ("It is 1.5e3.", "1500"),
            ("2e-3", r"\frac{1}{500}"),
            ("1500", "1.5e3"),
            (r"1.5 \times 10^{3}", "1.5e3"),
            (r"1.5 \cdot 10^3", "1500"),
            ("1.5 x 10^3", "1500"),
            ("1.5*10^3", "1500"),
            ("1.5 × 10³", "1500"),
            ("1.5·10^3", "1500"),
            ("It is 1.5 × 10^3 m.", "1500"),
            ("It is 1.5 x 10^3.", "1500"),
            ("6.02e23", r"6.02\times10^{23}"),
            ("1e3", "1,000"),
        ],
        [
            ("6.02e23", r"6.03\times10^{23}"),
            ("1.5e3", "1.5e4"),
            ("1.5e3", "1.5"),
            ("1.5e-3", "1500"),
            ("2e^3", "2000"),
            ("It is 1.5 × 10^3.", "3"),
            ("1e-7", "2e-7"),
            ("1e400", "1e401"),
        ],
    ),
    "repeating decimals": (
        [
            (r"\boxed{0.\overline{3}}", r"\frac13"),
            (r"\frac13", r"0.\overline{3}"),
            (r"0.1\overline{6}", r"\frac16"),
            (r"0.\bar{3}", "1/3"),
            (r"0.\overline3", "1/3"),
            ("0.(3)", "1/3"),
            ("0.3\u0305", "1/3"),
            ("0.333...", "1/3"),
            (r"0.333\ldots", "1/3"),
            ("0.333…", "1/3"),
            ("It is 0.333... of it.", "1/3"),
            ("The answer is 0.666....", "2/3"),
            ("0.166...", "1/6"),
            ("0.121212...", "4/33"),
            (r"2.\overline{45}", r"\frac{27}{11}"),
            (r"0.\overline{142857}", "1/7"),
            (r"-0.\overline{3}", r"-\frac13"),
            (r"\boxed{x = 0.\overline{3}}", "1/3"),
            (r"0.\overline{9}", "1"),
            (r"\overline{AB}", r"\overline{AB}"),
        ],
        [
            (r"0.\overline{3}", "0.3"),
            (r"0.\overline{3}", r"0.\overline{4}"),
            (r"0.1\overline{6}", r"0.\overline{16}"),
            ("0.333...", "0.333"),
            ("0.3", "1/3"),
            ("0.333", "1/3"),
            ("It is 0.333...", "3"),
        ],
    ),
    "names without a backslash": (
        [
            ("pi/2", r"\frac{\pi}{2}"),
            (r"\boxed{pi/2}", r"\frac{\pi}{2}"),
            (r"\frac{\pi}{2}", "pi/2"),
            ("5*pi/6", r"\frac{5\pi}{6}"),
            ("2pi", r"2\pi"),
            ("2π", r"2\pi"),
            ("The answer is pi/2.", r"\frac{\pi}{2}"),
            ("It is 2π.", r"2\pi"),
            ("The area is 4π cm^2, so the answer is 4π.", r"4\pi"),
            ("sqrt(3)/2", r"\frac{\sqrt3}{2}"),
            ("2*sqrt(3)", r"2\sqrt3"),
            ("2√3", r"2\sqrt3"),
            ("√(3)/2", r"\frac{\sqrt3}{2}"),
            ("(1+sqrt(5))/2", r"\frac{1+\sqrt5}{2}"),
            ("sqrt((1+2)/3)", "1"),
            ("The answer is sqrt(3).", r"\sqrt3"),
            (r"The answer is \frac{\sqrt3}{2}.", r"\frac{\sqrt3}{2}"),
            ("e^(pi)", r"e^\pi"),
            ("sin(x)", r"\sin x"),
            ("ln(2)", r"\ln 2"),
            ("x²+1", "x^2+1"),
            ("10⁻³", "0.001"),
            ("½", "0.5"),
            ("1½ hours", "1.5"),
            ("-∞", r"-\infty"),
            ("x ≤ 3", r"x \le 3"),
            ("3 pies", "3"),
        ],
        [
            ("pi/2", "2"),
            ("pi/3", r"\frac{\pi}{2}"),
            ("2pi", "2"),
            ("The answer is pi/2.", "2"),
            ("The answer is 2pi.", "2"),
            ("The answer is sqrt(3).", "3"),
            ("It is 2√3.", "3"),
            ("1½ hours", "0.5"),
            ("x²", "2x"),
        ],
    ),
    "words around a number": (
        [
            ("I think it's forty-two (42).", "42"),
            ("The answer is forty-two (42) pens.", "42"),
            ("It is a third (1/3).", "1/3"),
            ("The answer is (-42).", "-42"),
            ("The answer is [42].", "42"),
            ("The answer is `42`.", "42"),
            ('The answer is "42".', "42"),
            ("The answer is __42__.", "42"),
            ("**Answer:** 42", "42"),
            ("Answer:42", "42"),
            ("answer → 42", "42"),
            ("Answer: 3:5", "3:5"),
            ("She starts at 5-3 = 2:00 pm.", "2"),
            ("The answer is 42!", "42"),
            ("The answer is 42, the sum of 12 and 30.", "42"),
            ("The answer is 42. Does that help, or shall I show sqrt(4) too?", "42"),
            ("12 and 30 make 42.", "42"),
            ("It is 41 or 42.", "41,42"),
            ("The roots are 3 and -3.", "3,-3"),
            ("The answer is 2x+3.", "2x+3"),
            ("The answer is 12 + 30 = 42.", "42"),
        ],
        [
            ("forty-two (42)", "41"),
            ("It is 41 or 42.", "42"),
            ("The answer is 41 or 42.", "42"),
            ("It is either 41 or 42.", "41"),
            ("x is between 41 and 42", "42"),
            ("The answer is 2x+3.", "3"),
        ],
    ),
    "labels": (
        [
            (r"\boxed{x = 5}", "5"),
            (r"\boxed{\text{Answer: } 5}", "5"),
            (r"\boxed{\text{Answer: }\frac{1}{2}}", "0.5"),
            (r"\boxed{Answer: \frac12}", "0.5"),
            (r"\boxed{\textbf{Answer: }5}", "5"),
            (r"\boxed{\mathbf{Answer:}\ 5}", "5"),
            (r"\boxed{\text{Answer: } x = 5}", "5"),
            (r"\boxed{\text{Answer: (C)}}", "C"),
            (r"\boxed{\text{Answer: Navin}}", "Navin"),
            (r"\boxed{\text{The answer is } 5}", "5"),
            (r"\boxed{\text{Area} = \frac{5}{2}}", "2.5"),
            (r"\boxed{\mathrm{Area}=5}", "5"),
            (r"\boxed{\text{Total cost: }\$5}", "5"),
            (r"\boxed{\text{Distance: } 2\sqrt{3}}", r"2\sqrt3"),
            ("5", r"\text{Answer: }5"),
            ("#### Answer: 7", "7"),
            (r"\boxed{f(x) = 2x}", "2x"),
            (r"\boxed{3:5}", "3:5"),
        ],
        [
            (r"\boxed{\text{Answer: } 5}", "6"),
            (r"\boxed{3:5}", "5"),
            (r"\boxed{x=5}", "x=6"),
            (r"\boxed{\text{Area}=5}", r"\text{Perimeter}=5"),
            (r"\boxed{\text{Alice is taller}}", r"\text{Bob is taller}"),
        ],
    ),
    "empty boxes": (
        [
            (r"The answer is \boxed{42}. Next, try \boxed{}!", "42"),
            (r"\boxed{42} \boxed{ }", "42"),
            (r"\boxed{42} \fbox{}", "42"),
            (r"\boxed{42} and \boxed{\text{}}", "42"),
            (r"\boxed{42} \boxed{\ }", "42"),
            (r"\boxed{42}, now \boxed{?}", "42"),
            (r"\boxed{42} and \boxed{", "42"),
            ("So \\boxed{}\n#### 42", "42"),
        ],
        [(r"\boxed{41} \boxed{42} \boxed{}", "41"), (r"\boxed{} \boxed{}", "0"), (r"42 \boxed{}", "42")],
    ),
    "tiny and large numbers": (
        [
            ("1/2^98", r"2^{-98}"),
            (r"\frac{1}{30!}", r"\frac{1}{30\cdot 29!}"),
            ("100!", r"100\cdot 99!"),
            ("2^{100}", "1267650600228229401496703205376"),
            ("0.0000010", "10^{-6}"),
            ("0.1+0.2", "0.3"),
            (r"\sqrt{3+2\sqrt2}", r"1+\sqrt2"),
            (r"\frac{1}{\sqrt2}", r"\frac{\sqrt2}{2}"),
            ("0.333333333", r"\frac13"),
            ("3.141593", r"\pi"),
        ],
        [
            (r"\boxed{\frac{1}{2^{98}}}", r"\frac{1}{2^{99}}"),
            ("1/2^98", "1/2^99"),
            ("1/30!", "1/31!"),
            (r"\frac{1}{100!}", r"\frac{1}{101!}"),
            (r"\frac{1}{\binom{60}{30}}", r"\frac{1}{\binom{60}{29}}"),
            (r"\frac{x}{2^{98}}", r"\frac{x}{2^{99}}"),
            (r"\left(\frac{1}{2^{98}},1\right)", r"\left(\frac{1}{2^{99}},1\right)"),
            (r"\{10^{-20}\}", r"\{10^{-21}\}"),
            (r"\begin{pmatrix}10^{-20}\\1\end{pmatrix}", r"\begin{pmatrix}10^{-21}\\1\end{pmatrix}"),
            ("e^{-50}", "e^{-51}"),
            ("e^{-50}", "0"),
            ("2^{-1074}", "0"),
            ("0.0000001", "0.0000002"),
            ("0.0000001", "0"),
            ("0.000001", "0.0000011"),
            ("0.12345678", "0.12345679"),
            ("0.5", "0.50000000000000001"),
            ("1.0000001", "1"),
            ("0.3333334", r"\frac13"),
            ("2^{100}", "2^{100}+1"),
            ("100!", "99!"),
            ("1267650600228229401496703205376", "1267650600228229401496703205377"),
            ("1234567890123456789.5", "1234567890123456789.6"),
            (r"\sqrt{10^{40}+1}", "10^{20}"),
            (r"1-\frac{1}{2^{60}}", "1"),
        ],
    ),
    "bases": (
        [
            ("1010_{2}", "1010_2"),
            ("It is $1010_2$.", "1010_{2}"),
            ("10_{10}", "1010_2"),
            ("12_3", "5_{10}"),
            ("1010", "1010_2"),
            (r"\log_2 8", "3"),
        ],
        [
            ("1010_3", "1010_2"),
            (r"\boxed{1010_{3}}", "1010_2"),
            ("It is $1010_3$.", "1010_2"),
            ("2516_8", "2516_9"),
            ("x_1", "x_2"),
            ("a_{10}", "a_{11}"),
            (r"\log_2 8", r"\log_3 8"),
        ],
    ),
    "intervals and symbols": (
        [
            (r"\boxed{2 \le x < 5}", "[2,5)"),
            ("[2,5)", r"2 \le x < 5"),
            ("x>3", r"(3,\infty)"),
            (r"\boxed{\sqrt{1/n}}", r"\frac{1}{\sqrt{n}}"),
            (r"\sqrt{x^2}", "|x|"),
            (r"\frac{x^2-1}{x-1}", "x+1"),
        ],
        [
            ("2 < x < 5", "[2,5)"),
            ("x>3", r"[3,\infty)"),
            (r"\sqrt{x^2}", "x"),
            (r"|x|", "x"),
            ("x", "y"),
            ("x^2", "x^3"),
        ],
    ),
}


@pytest.mark.parametrize("pairs, equal", [(EQUAL, True), (DIFFERENT, False)], ids=["equal", "different"])
def test_answers(pairs, equal):
    assert [pair for pair in pairs if answers_match(*pair) != equal] == []


@pytest.mark.parametrize("kind", [*KINDS, *ANSWER_KINDS])
def test_ways_to_write_an_answer(kind):
    equal, different = (KINDS | ANSWER_KINDS)[kind]
    assert [pair for pair in equal if not answers_match(*pair)] == []
    assert [pair for pair in different if answers_match(*pair)] == []


def test_a_lone_surrogate_is_compared_like_any_other_sign():
    assert answers_match("\\boxed{42} \ud83d", "42") and not answers_match("\ud83d 41", "42")


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


def test_a_process_that_hangs_is_replaced(monkeypatch):
    assert answers_match("1/2", "0.5")
    hung = answers._VERIFIER._process
    hung.send_signal(signal.SIGSTOP)
    monkeypatch.setattr(answers, "_WALL_SECONDS", 10.0)
    start = time.monotonic()
    assert answers_match("2/4", "0.5")  # the answer of a new process, and not "no match"
    assert 10 <= time.monotonic() - start < 60
    assert hung.returncode == -signal.SIGKILL and answers._VERIFIER._process is not hung


def test_where_no_process_answers_in_time_nothing_is_decided(monkeypatch):
    answers._VERIFIER.close()
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    monkeypatch.setattr(answers, "_start", lambda: pipe(command))
    monkeypatch.setattr(answers, "_WALL_SECONDS", 0.5)
    start = time.monotonic()
    with pytest.raises(RuntimeError, match=r"were killed, or did not answer within 0.5 seconds: the machine"):
        answers_match("1/2", "0.5")
    assert time.monotonic() - start < 20
    monkeypatch.undo()
    assert answers_match("1/2", "0.5")


def test_closing_ends_a_process_that_hangs(monkeypatch):
    assert answers_match("1/2", "0.5")
    hung = answers._VERIFIER._process
    hung.send_signal(signal.SIGSTOP)
    monkeypatch.setattr(answers, "_END_SECONDS", 0.2)
    answers._VERIFIER.close()
    assert hung.returncode == -signal.SIGKILL


def pipe(command):
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


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


@pytest.mark.parametrize(
    "piece", [r"\boxed{", "$1.", r"\text{", "####", r"\boxed{1", "$", " (", "7 ", "((", "answer "]
)
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
    with pytest.raises(ImportError, match=r"math-verify, which is missing: pip install 'itpo\[data\]'"):
        answers_match("1/2", "0.5")
