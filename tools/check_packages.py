"""Build wheel and sdist, install them in clean environments, and use them there, away from the checkout.

    python tools/check_packages.py                       the wheel alone, then the sdist with all extras (several minutes)
    python tools/check_packages.py --python BIN/python   only use what is installed for another interpreter

The core must train a policy of every scripted task, list the runs, talk to one and export it, and refuse what it
lacks with the extra that brings it. With all extras every module must import.
"""

import argparse
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
DATA = (
    "apps/model_card.md",
    "figures/publishing/gallery.html",
    "models/bases/laptop-math/model.safetensors",
    "models/bases/smoke-medical/artifact.json",
    "py.typed",
    "rollout/prompts/judge_turns.txt",
)
ENGINES = (
    "integrations/verl/",
    "integrations/ray.py",
    "rollout/vllm_engine.py",
)  # each wants an environment of its own
SNIPPET = """
import torch
from itpo import attribution, turns
mask = torch.tensor([[False, True, True, False, True, True]])
rewards = torch.tensor([[0.0, 0.5, 0.25, 0.0, -0.25, 0.0]])
ids = turns.turn_ids(mask)
paid = attribution.norm_itpo(rewards, outcome=torch.tensor([1.0]), turn_ids=ids, temperature=0.4)
assert torch.allclose(paid, torch.tensor([[0.0, 0.0, 0.9241, 0.0, 0.0, 0.0759]]), atol=1e-4)
"""


def run(*command: str | Path, cwd: Path, expect: int = 0, typed: str = "") -> str:
    """Run a command and return what it printed; ends this program where it does not end as expected."""
    print("  " + " ".join(str(word) if len(str(word)) < 80 else "..." for word in command), flush=True)
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, input=typed)
    if done.returncode != expect:
        raise SystemExit(f"exit status {done.returncode}, not {expect}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def build(folder: Path) -> tuple[Path, Path]:
    """Make wheel and sdist, the wheel from the sdist, and look at what is in them."""
    python = environment(folder / "build-env", "build")
    run(python, "-m", "build", "--outdir", folder, ROOT, cwd=folder)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive, tarfile.open(sdist) as other:
        wheel_names = archive.namelist()
        sdist_names = [name.partition("/")[2] for name in other.getnames()]
    for names in (wheel_names, sdist_names):
        if missing := [name for name in DATA if f"itpo/{name}" not in names]:
            raise SystemExit(f"not packed: {', '.join(missing)}")
    tops = {name.partition("/")[0] for name in wheel_names}
    if len(tops) != 2:  # the package and what is said of it
        raise SystemExit(f"the wheel holds more than the package: {', '.join(sorted(tops))}")
    return wheel, sdist


def environment(folder: Path, *requirements: str | Path) -> Path:
    """The interpreter of a new virtual environment with these requirements, at the versions of constraints.txt."""
    run(sys.executable, "-m", "venv", folder, cwd=ROOT)
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    run(
        python,
        "-m",
        "pip",
        "install",
        "-qq",
        "--no-compile",
        "-c",
        ROOT / "constraints.txt",
        *requirements,
        cwd=ROOT,
    )
    return python


def use_core(python: Path) -> None:
    """What must work without any extra."""
    with tempfile.TemporaryDirectory() as place:
        here = Path(place)
        itpo = (python, "-m", "itpo")
        run(*itpo, "--version", cwd=here)
        run(*itpo, "methods", cwd=here)
        run(python, "-c", SNIPPET, cwd=here)
        for task in ("math", "documents", "medical"):
            run(*itpo, "train", "--task", task, "--profile", "smoke", "--seed", "0", cwd=here)
        if run(*itpo, "runs", cwd=here).count("norm_itpo") < 3:
            raise SystemExit("itpo runs does not list the three runs")
        mine = ("--task", "math", "--method", "norm_itpo", "--seed", "0")
        said = run(*itpo, "chat", *mine, cwd=here, typed="a\n\n")
        if "Norm-ITPO" not in said:
            raise SystemExit(f"itpo chat does not end with what each turn earned:\n{said}")
        run(*itpo, "export", "policy", *mine, cwd=here)


def refuse(python: Path) -> None:
    """What the core refuses, each in one line that names the extra."""
    with tempfile.TemporaryDirectory() as place:
        said = run(python, "-m", "itpo", "figures", cwd=Path(place), expect=2)
        if said.count("\n") != 1 or "pip install 'itpo[report]'" not in said:
            raise SystemExit(f"no one line that names the extra:\n{said}")


def import_all(python: Path) -> None:
    """Import every module, those of other engines left out."""
    paths = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "itpo").rglob("*.py"))]
    names = [
        path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for path in paths
        if not any(engine in path for engine in ENGINES) and not path.endswith(("__main__.py", "verifier.py"))
    ]
    with tempfile.TemporaryDirectory() as place:
        run(
            python,
            "-c",
            f"import importlib\nfor name in {names!r}: importlib.import_module(name)",
            cwd=Path(place),
        )


def main() -> None:
    """Build, install and use; or only use."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--python", type=Path, help="only use the package that this interpreter has")
    given = parser.parse_args().python
    if given:
        use_core(given.absolute())
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        wheel, sdist = build(folder)
        print("the core, from the wheel")
        python = environment(folder / "core", wheel)
        use_core(python)
        refuse(python)
        print("all extras, from the sdist")
        python = environment(folder / "all", f"itpo[all] @ {sdist.as_uri()}")
        use_core(python)
        import_all(python)
    print("wheel and sdist install and work")


if __name__ == "__main__":
    main()
