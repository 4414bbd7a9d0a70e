"""Two-step runs of every method under every estimator, and losses far from their usual range: what guards ``itpo.NUMERICS``.

``python tests/golden_runs.py`` records them in ``tests/golden/numerics.json``, for each capability of this processor. Do that
after a change of the numerics, together with raising ``itpo.NUMERICS``; ``tests/test_numerics.py`` compares.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

import itpo.rollout.prompts
from itpo import NUMERICS, advantages, losses
from itpo.attribution import METHODS
from itpo.config import Estimator, Method, RunConfig, TaskSpec, allows
from itpo.estimators import ESTIMATORS
from itpo.runs.files import sha256
from itpo.runs.platform import numeric_platform
from itpo.runs.store import Run, Store, fingerprint
from itpo.specs import PROMPTS_VERSION, Adapter, TinyLM
from itpo.tasks import registry
from itpo.trainer import train

RECORD = Path(__file__).parent / "golden" / "numerics.json"
CAPABILITIES = ("default", "avx2", "avx512")  # values of ATEN_CPU_CAPABILITY
# A base model learns the corridor within seconds, so that outcomes differ and every method has something to share out.
_CORRIDOR = TaskSpec("corridor", {"turns": 4, "pivots": 1, "position": "spread"})
_SIZES: dict[str, Any] = {
    "seed": 0,
    "steps": 2,
    "task": _CORRIDOR,
    "model": TinyLM(32, 2, 2, steps=250, dialogues_per_step=8, learning_rate=4e-3),
    "adapter": Adapter(4, 8),
    "max_turn_tokens": 6,
    "prompts": 2,
    "rollouts": 4,
    "policy_minibatches": 2,
    "prm_minibatches": 2,
    "critic_minibatches": 2,
    "warmup": 1,
    "eval_every": 2,
    "eval_dialogues": 4,
    "monitor_dialogues": 4,
    "monitor_every": 1,
}


def configs() -> dict[str, RunConfig]:
    """The runs by name: the whole of Table 1 on one task, the other tasks, and settings that change the path of the numbers."""
    pairs = [
        (method, estimator) for estimator in ESTIMATORS for method in METHODS if allows(estimator, method)
    ]
    named = {f"{m}, {e}": RunConfig(Method(m), estimator=Estimator(e), **_SIZES) for m, e in pairs}
    named["itpo and outcome, ppo"] = RunConfig(
        Method("itpo", outcome_coef=5.0), estimator=Estimator("ppo"), **_SIZES
    )
    released = Method("norm_itpo", {"reduction": "length_normalized"}, scale="released")
    named["norm_itpo as released, rloo"] = RunConfig(released, **_SIZES)
    for baseline in advantages.BASELINES[1:]:
        estimator = Estimator("rloo", {"baseline": baseline})
        named[f"norm_itpo, rloo, {baseline}"] = RunConfig(Method("norm_itpo"), estimator=estimator, **_SIZES)
    others = _SIZES | {"model": TinyLM(16, 1, 2, steps=20, dialogues_per_step=8), "max_turn_tokens": 10}
    for name in registry.TASKS:
        named[f"norm_itpo, rloo, {name}"] = RunConfig(
            Method("norm_itpo"), **others | {"task": TaskSpec(name)}
        )
    return named


def train_all(folder: Path) -> dict[str, Run]:
    """Train every configuration, one thread each."""
    torch.set_num_threads(1)
    store, runs = Store(folder), {}
    for name, config in configs().items():
        runs[name] = store.open(config)
        train(config, runs[name])
    return runs


def metrics(run: Run) -> list[dict[str, float]]:
    """What a run logged, and its summary, without what is undefined, such as the AUC of a batch in which nothing succeeds."""
    lines = (run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    numbers = [*map(json.loads, lines), run.summary()]
    return [{key: value for key, value in line.items() if value is not None} for line in numbers]


def loss_values() -> dict[str, list[float]]:
    """Every loss at log-ratios from 0 to far beyond those that training meets, alone and averaged."""
    ratios = torch.tensor(
        [[0.0, 0.1, -0.3, 1.0, -2.5, 5.0, -12.0, 19.0, -21.0, 60.0, -300.0]], dtype=torch.float64
    )
    advantage = torch.tensor(
        [[1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 1.0, -1.0, 1.0, -1.0, 1.0]], dtype=torch.float64
    )
    zero, one = torch.zeros_like(ratios), torch.ones_like(ratios, dtype=torch.bool)
    alone = [torch.eye(ratios.shape[1], dtype=torch.bool)[None, k] for k in range(ratios.shape[1])]

    def values(loss: Any) -> list[float]:
        return [float(loss(mask)) for mask in (*alone, one)]

    return {
        "importance_ratio": losses.importance_ratio(ratios, zero, one)[0].tolist(),
        "clipped_surrogate": values(
            lambda mask: losses.clipped_surrogate(ratios, zero, advantage, mask, 0.2)
        ),
        "kl_k3": values(lambda mask: losses.kl_k3(ratios, zero, mask)),
        "clip_fraction": values(lambda mask: losses.clip_fraction(ratios, zero, advantage, mask, 0.2)),
        "value_loss": values(lambda mask: losses.value_loss(ratios, zero, advantage, mask, 0.2)),
    }


def prompts() -> str:
    """The version of the prompts of users and judges, and a hash of their texts."""
    texts = [path.read_bytes() for path in sorted(Path(itpo.rollout.prompts.__file__).parent.glob("*.txt"))]
    return f"{PROMPTS_VERSION}: {sha256(b''.join(texts))[:16]}"


def platform_name() -> str:
    """What decides the last bits: torch, the instructions it uses, and the processor that libraries choose kernels for."""
    here = numeric_platform()
    return f"torch {here['libraries']['torch']}, {here['cpu_capability']}, {here['processor']}"


def measure() -> dict[str, Any]:
    """Fingerprints and metrics of this process's platform."""
    with tempfile.TemporaryDirectory() as folder:
        runs = train_all(Path(folder))
        fingerprints = {name: fingerprint(run)[:16] for name, run in runs.items()}
        return {
            "platform": platform_name(),
            "fingerprints": fingerprints,
            "metrics": {n: metrics(r) for n, r in runs.items()},
        }


def record() -> None:
    """Write the record anew where the numerics' version changed, else add this machine's platforms to it."""
    old = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    content = old if old.get("numerics") == NUMERICS else {"numerics": NUMERICS, "fingerprints": {}}
    for capability in CAPABILITIES:
        command = [sys.executable, __file__, "--measure"]
        environment = os.environ | {"ATEN_CPU_CAPABILITY": capability, "OMP_NUM_THREADS": "1"}
        output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
        measured = json.loads(output.splitlines()[-1])
        content["fingerprints"][measured["platform"]] = measured["fingerprints"]
        content |= {"metrics": measured["metrics"], "losses": loss_values(), "prompts": prompts()}
        print(measured["platform"])
    RECORD.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    print(json.dumps(measure())) if "--measure" in sys.argv else record()
