"""verl's whole training loop on a CPU: two steps with dialogues, rewards, PRM and policy, in processes of their own."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from itpo import prm
from itpo.integrations.credit import credit, group_ids

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def padded(rows: list[list[float]]) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)


def run(folder: Path, lora: bool) -> list:
    environment = {
        **os.environ,
        "VERL_USE_EXTERNAL_MODULES": "verl_cpu,itpo.integrations.verl",
        "PYTHONPATH": f"{HERE}{os.pathsep}{ROOT}",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    # Imported, so that what is registered and pickled has the same name in every process.
    code = f"import pathlib, verl_loop; verl_loop.main(pathlib.Path({str(folder)!r}), {lora})"
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1500)
    assert (folder / "results.json").exists(), done.stdout[-3000:] + done.stderr[-6000:]
    return json.loads((folder / "results.json").read_text())


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_two_steps_of_verls_loop(tmp_path, lora):
    noted = run(tmp_path, lora)

    assert noted.pop(0)[0] == "ReplayBuffer, sync", (
        "what verl does by mode is done as in its synchronous trainer"
    )
    order = [event for event, _ in noted]
    learning = ["PRM learned", "PRM scored", "advantages", "policy learned", "metrics"]
    scored = ["reference or policy scored"] * (2 if lora else 1)  # with LoRA both are one worker's
    assert order == (scored + learning) * 2, (
        "Algorithm 1: the PRM learns, then scores the same batch, then the policy learns"
    )
    print(f"\norder of a step{' with LoRA' if lora else ''}: {', '.join(order[: len(order) // 2])}")

    steps = [fed for event, fed in noted if event == "advantages"]
    for fed in steps:
        mask = padded(fed["response_mask"]).bool()
        assert all(row[0] == row[-1] == 1 for row in fed["response_mask"]), (
            "dialogues begin and end with the assistant"
        )
        assert any(0 in row for row in fed["response_mask"])
        of_response = [
            row[-len(m) - 1 : -1] for row, m in zip(fed["log_probs"], fed["response_mask"], strict=True)
        ]
        rewards = prm.token_rewards(padded(of_response), padded(fed["ref_log_prob"]), mask, beta=0.5)
        # Before it learned the PRM was the reference, whose rewards are 0.
        assert rewards.abs().max() > 1e-3
        expected = credit(
            "norm_itpo",
            "rloo",
            mask,
            padded(fed["rm_scores"]).sum(-1),
            group_ids(fed["uid"]),
            estimator_options={"baseline": "to_go"},
            token_rewards=rewards,
        ).advantages
        found = padded(fed["advantages"])
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        print(f"advantages of {len(mask)} dialogues: equal to {(found - expected).abs().max():.0e}")

    first, second = (values for event, values in noted if event == "metrics")
    assert first["prm/loss"] == pytest.approx(math.log(2), abs=1e-5), (
        "a PRM that equals the reference predicts 1/2"
    )
    assert second["prm/loss"] != pytest.approx(math.log(2), abs=1e-5)
    assert first["actor/grad_norm"] > 0 and not any(
        "vf_" in key or "values" in key for key in first if "timing" not in key
    )
    print(f"PRM loss: {first['prm/loss']:.4f} (log 2), then {second['prm/loss']:.4f}")

    saved = {path.name for path in (tmp_path / "checkpoints/global_step_2/critic").iterdir()}
    assert {"model_world_size_1_rank_0.pt", "optim_world_size_1_rank_0.pt"} <= saved
