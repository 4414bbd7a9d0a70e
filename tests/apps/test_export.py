"""Exported policies: read by plain PEFT, described by their own run, and refused where something would be lost."""

import base64
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from itpo.__main__ import main
from itpo.apps.export import CARD, CONFIG, WEIGHTS, ExportError, export, find_base
from itpo.apps.model_card import data_text, scale_of
from itpo.config import Estimator, TaskSpec
from itpo.dialogue import Dialogue, collate
from itpo.models.backbone import Backbone
from itpo.models.loading import load_base
from itpo.runs.artifacts import read_artifact
from itpo.runs.files import sha256
from itpo.runs.store import Store
from itpo.specs import Adapter, Imitation, PretrainedModel, TinyLM
from itpo.study.profiles import get_profile
from itpo.trainer import train
from itpo.training.build import base_model, trained

pytestmark = pytest.mark.usefixtures("unchecked")
SPEC = TinyLM(hidden_size=32, layers=2, heads=4, steps=80, dialogues_per_step=16)
SIZES = {"steps": 2, "prompts": 2, "rollouts": 2, "monitor_dialogues": 2, "eval_dialogues": 6}


def tiny_config(method):
    config = get_profile("smoke").config(method, seed=3)
    fast = replace(config.method, policy_lr=0.05)  # so large that the policy speaks differently
    return replace(config, method=fast, model=SPEC, adapter=Adapter(4, 8), **SIZES)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = Store(tmp_path_factory.mktemp("runs")).open(tiny_config("norm_itpo"))
    train(run.config, run)
    return run


@pytest.fixture
def exported(run, tmp_path):
    return export(run.folder, tmp_path / "adapter")


def response_logp(model, batch):
    """Log-probabilities of the response tokens by a plain forward pass."""
    with torch.no_grad():
        logits = model(batch.input_ids, attention_mask=batch.attention_mask.long()).logits[:, :-1].float()
    found = logits.log_softmax(-1).gather(-1, batch.input_ids[:, 1:, None]).squeeze(-1)
    return found[batch.response_mask[:, 1:]]


def code_blocks(folder):
    return re.findall(r"```python\n(.*?)\n```", (folder / CARD).read_text(), re.DOTALL)


def execute(code, base, adapter):
    """The card's code with the reader's own folders filled in; returns its names."""
    for name, place in (("base", base), ("adapter", adapter)):
        code, count = re.subn(rf"^{name} = .*$", f"{name} = {str(place)!r}", code, flags=re.MULTILINE)
        assert count == 1
    names = {}
    exec(code, names)
    return names


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_plain_peft_reads_the_policy(run, exported):
    assert {path.name for path in exported.iterdir()} == {CONFIG, WEIGHTS, CARD}
    learner = trained(run)
    batch = learner.collect("export", 4, 2, "policy")[1]
    mask = batch.response_mask
    base = AutoModelForCausalLM.from_pretrained(base_model(run.config, Store(run.folder.parent)))
    found = response_logp(PeftModel.from_pretrained(base, exported), batch)
    torch.testing.assert_close(found, learner.log_probs(batch, "policy")[mask], atol=2e-6, rtol=0)
    assert (found - learner.log_probs(batch, None)[mask]).abs().max() > 0.1


def test_the_code_of_the_card_makes_the_base_and_loads_the_adapter(
    run, exported, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    recipe, load = code_blocks(exported)
    names = {}
    exec(recipe, names)
    assert names["base"].parent == tmp_path / "runs" / "models"
    digest = sha256((names["base"] / "model.safetensors").read_bytes())
    own = base_model(run.config, Store(run.folder.parent))
    assert (
        digest == sha256((own / "model.safetensors").read_bytes()) and digest in (exported / CARD).read_text()
    )
    capsys.readouterr()
    names = execute(load, names["base"], exported)
    assert capsys.readouterr().out.strip() == names["tokenizer"].decode(
        names["reply"][0, names["prompt"].shape[1] :], skip_special_tokens=True
    )
    learner = trained(run)
    batch = learner.collect("export", 2, 2, "policy")[1]
    expected = learner.log_probs(batch, "policy")[batch.response_mask]
    torch.testing.assert_close(response_logp(names["model"], batch), expected, atol=2e-6, rtol=0)


def test_the_card_is_that_of_the_run(run, exported):
    text = (exported / CARD).read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front == ModelCard.load(exported / CARD).data.to_dict()
    assert front["library_name"] == "peft" and {"norm_itpo", "rloo"} <= set(front["tags"])
    config = json.loads((exported / CONFIG).read_text())
    assert config["base_model_name_or_path"] == front["base_model"] and "license" not in front
    assert "| `policy_lr` | 0.05 | 0.001 |" in text and "| `rank` | 4 | 16 |" in text
    assert "2 steps of 2 prompts x 2 rollouts: 8 dialogues, one run, seed 3" in text
    assert "{{" not in text and "{%" not in text and "None" not in text and "torch 2" in text
    watched, summary = run.metrics()["eval_success"].dropna(), run.summary()
    wanted = [
        ("before training (step 0)", "sampled", watched.iloc[0], "6"),
        ("after training (step 2)", "sampled", watched.iloc[-1], "6"),
        ("after training", "sampled", summary["success"], "12"),
        ("after training", "greedy", summary["greedy_success"], "the same 12"),
    ]
    table = text.partition("## Results")[2].partition("##")[0]
    lines = [line.strip("| ").split(" | ") for line in table.splitlines() if "training" in line]
    for line, (policy, decoding, success, dialogues) in zip(lines, wanted, strict=True):
        assert line[:2] == [policy, decoding] and line[3].startswith(dialogues)
        assert line[2].startswith(f"{success:.4f} ±")


def test_the_core_without_pandas_exports_too(run, exported, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)  # importing it raises ImportError
    again = export(run.folder, tmp_path / "without")
    assert {path.name: text for path, text in contents(again).items()} == {
        path.name: text for path, text in contents(exported).items()
    }


def test_nothing_in_it_names_this_machine(run, exported):
    for content in contents(exported).values():
        assert str(run.folder.parent).encode() not in content and b"/tmp" not in content


def test_equal_runs_give_equal_folders(run, exported, tmp_path):
    again = export(run.folder, tmp_path / "new" / "again")
    assert list(contents(again).values()) and {p.name: c for p, c in contents(again).items()} == {
        p.name: c for p, c in contents(exported).items()
    }


@pytest.mark.parametrize("name", ["smoke", "laptop"])
def test_a_card_knows_its_profile(name):
    profile = get_profile(name)
    for config in (
        *profile.on("medical").grid("ppo")[-1:],
        replace(profile.config("uniform", 0), estimator=Estimator("rloo", {"baseline": "trajectory"})),
    ):
        assert scale_of(config) == name
        assert scale_of(replace(config, steps=3)) is None


@pytest.fixture
def handed(tiny_folder, tmp_path):
    """A finished run on a base in a folder of this machine, in 4 bits; and that backbone."""
    pytest.importorskip("bitsandbytes", reason='needs the extra "gpu"')
    own = PretrainedModel(str(tiny_folder), "nf4")
    config = replace(tiny_config("trajectory_share"), task=TaskSpec("math_prose"), model=own)
    run = Store(tmp_path / "handed").open(config)
    backbone = Backbone(load_base(tiny_folder, "nf4", "cpu")[0], ["policy"], Adapter(4, 8))
    generator = torch.Generator().manual_seed(0)
    for parameter in backbone.parameters("policy").values():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    run.log(0, {"eval_success": 0.25})
    backbone.save_adapter("policy", run.folder / "policy")
    run.finish({"success": 0.5, "greedy_success": None})
    return run, backbone


def test_an_adapter_of_a_base_in_4_bits(handed, tiny_folder, tmp_path, monkeypatch):
    run, backbone = handed
    # Else some CPUs repack the weights when the card's code samples, to other numbers (see `itpo.models.loading.tame`).
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False)
    about = {"base": "someone/tiny", "data": "Word problems of a school.", "license": "apache-2.0"}
    folder = export(run.folder, tmp_path / "adapter", **about)
    text = (folder / CARD).read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["base_model"] == "someone/tiny" and front["license"] == "apache-2.0"
    assert "Word problems of a school." in text and "| after training | greedy | – |" in text
    (load,) = code_blocks(folder)
    assert 'base = "someone/tiny"' in load
    names = execute(load, tiny_folder, folder)
    generator = torch.Generator().manual_seed(1)
    rows = torch.randint(5, 60, (4, 20), generator=generator).tolist()
    mask = (False, *[True] * 19)
    batch = collate([Dialogue(None, (), tuple(row), mask, (0.0,) * 20, 1.0) for row in rows], 1, pad_id=0)
    expected = backbone.log_probs(batch, "policy", 1000)[batch.response_mask]
    torch.testing.assert_close(response_logp(names["model"], batch), expected, atol=1e-5, rtol=0)


def test_a_folder_of_this_machine_has_to_be_named(handed, tmp_path, capsys):
    source, target = str(handed[0].folder), str(tmp_path / "adapter")
    assert main(["export", source, target]) == 2
    assert "name it on the hub with --base" in capsys.readouterr().err
    (tmp_path / "local").mkdir()
    for wrong in (str(tmp_path / "local"), "../local", "a b"):
        assert main(["export", source, target, "--base", wrong, "--data", "d"]) == 2
        assert f"--base {wrong}" in capsys.readouterr().err
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize("task", ["math", "documents", "medical"])
@pytest.mark.parametrize("profile", ["smoke", "laptop"])
def test_a_base_that_ships_is_known_by_its_hash(profile, task, tmp_path):
    config = get_profile(profile).on(task).config("norm_itpo", seed=0)
    folder = base_model(config, Store(tmp_path))
    base = find_base(tmp_path / "run", config, folder.name)
    assert base.shipped and base.sha256 == read_artifact(folder)["files"]["model.safetensors"]
    assert not list(tmp_path.iterdir())


def test_the_card_says_that_a_base_comes_with_the_library(tmp_path, monkeypatch):
    """The code of the card finds it, makes nothing, and loads the adapter on it."""
    config = get_profile("smoke").config("norm_itpo", seed=0)
    own = Store(tmp_path / "runs")
    base, run = base_model(config, own), own.open(config)
    backbone = Backbone(load_base(base)[0], ["policy"], config.adapter)
    run.log(0, {"eval_success": 0.25})
    backbone.save_adapter("policy", run.folder / "policy")
    run.finish({"success": 0.5, "greedy_success": None})
    folder = export(run.folder, tmp_path / "adapter")
    card = (folder / CARD).read_text()
    assert sha256((base / "model.safetensors").read_bytes()) in card
    assert "It is on no hub. It comes with the library. This finds its folder:\n\n```python" in card
    assert "makes it" not in card and "the code above finds" in card
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    recipe, load = code_blocks(folder)
    names = {}
    exec(recipe, names)
    assert names["base"] == base and not list(Path.cwd().iterdir())
    assert execute(load, names["base"], folder)["reply"].shape[0] == 1


def test_a_base_that_the_store_made_may_be_on_the_hub_too(run):
    made = find_base(run.folder, run.config, "base-0123456789abcdef", "me/warm-start")
    assert made.published and made.name == "me/warm-start" and "base_model(" in made.recipe


def test_a_pretrained_base_that_imitated_is_made_again(prose_folder, tmp_path):
    """The recipe of the card, executed, makes the same bytes; the adapter then loads on it."""
    imitation = Imitation(steps=2, dialogues_per_step=2)
    spec = PretrainedModel(str(prose_folder), imitation=imitation)
    config = replace(tiny_config("uniform"), task=TaskSpec("math_prose"), model=spec)
    run = Store(tmp_path / "runs").open(config)
    train(config, run)
    folder = export(run.folder, tmp_path / "adapter")
    card = (folder / CARD).read_text()
    assert "imitated 4 conversations" in card
    (recipe, load) = code_blocks(folder)
    recipe = recipe.replace('Store("runs")', f"Store({str(tmp_path / 'again')!r})")
    names = {}
    exec(recipe, names)
    weights = [
        Path(place) / "model.safetensors"
        for place in (base_model(config, Store(tmp_path / "runs")), names["base"])
    ]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert sha256(weights[0].read_bytes()) in card
    assert execute(load, names["base"], folder)["reply"].shape[0] == 1


def test_a_base_that_imitated_is_made_anew_when_the_folder_behind_it_changes(prose_folder, tmp_path):
    """The folder's name stays; what it holds decides."""
    own = Path(shutil.copytree(prose_folder, tmp_path / "own"))
    spec = PretrainedModel(str(own), imitation=Imitation(steps=1, dialogues_per_step=2))
    config = replace(tiny_config("uniform"), task=TaskSpec("math_prose"), model=spec)
    store = Store(tmp_path / "runs")
    first = base_model(config, store)
    assert base_model(config, store) == first
    weights = load_file(own / "model.safetensors")
    changed = {name: 1.01 * tensor for name, tensor in weights.items()}
    save_file(changed, own / "model.safetensors", metadata={"format": "pt"})
    assert base_model(config, store) != first


def test_a_base_in_4_bits_that_the_library_makes_is_loaded_so(prose_folder, tmp_path, monkeypatch):
    """The card has the code that makes the base, and the code that loads it in 4 bits."""
    pytest.importorskip("bitsandbytes", reason='needs the extra "gpu"')
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False)  # as above
    spec = PretrainedModel(str(prose_folder), "nf4", Imitation(steps=1, dialogues_per_step=2))
    config = replace(tiny_config("uniform"), task=TaskSpec("math_prose"), model=spec)
    store = Store(tmp_path / "runs")
    run, base = store.open(config), base_model(config, store)
    backbone = Backbone(load_base(base, "nf4", "cpu")[0], ["policy"], config.adapter)
    run.log(0, {"eval_success": 0.25})
    backbone.save_adapter("policy", run.folder / "policy")
    run.finish({"success": 0.5, "greedy_success": None})
    recipe, load = code_blocks(export(run.folder, tmp_path / "adapter"))
    assert "base_model(" in recipe
    names = execute(load, base, tmp_path / "adapter")
    assert names["model"].get_base_model().is_loaded_in_4bit and names["reply"].shape[0] == 1


def test_bases_and_data_that_a_config_names_need_no_options(run):
    config = get_profile("consumer").run
    base = find_base(run.folder, config, "Qwen/Qwen2.5-3B-Instruct")
    assert (base.name, base.precision, base.recipe) == ("Qwen/Qwen2.5-3B-Instruct", "nf4", "")
    assert "`collabllm/collabllm-multiturn-math-hard-large`" in data_text(config)


def test_a_folder_stays_one_when_it_is_seen_from_elsewhere(run, tiny_folder, tmp_path, monkeypatch):
    """A path of two parts reads as a name of the hub, but the run's adapter knows it as a folder."""
    (tmp_path / "build").symlink_to(tiny_folder.parent)
    name = f"build/{tiny_folder.name}"
    config = replace(run.config, task=TaskSpec("math_prose"), model=PretrainedModel(name))
    monkeypatch.chdir(tmp_path)
    backbone = Backbone(load_base(name)[0], ["policy"], Adapter(4, 8))
    backbone.save_adapter("policy", tmp_path / "policy")
    known_as = json.loads((tmp_path / "policy" / CONFIG).read_text())["base_model_name_or_path"]
    (tmp_path / "elsewhere").mkdir()
    for place in (tmp_path, tmp_path / "elsewhere"):
        monkeypatch.chdir(place)
        with pytest.raises(ExportError, match="name it on the hub with --base"):
            find_base(run.folder, config, known_as)
        assert find_base(run.folder, config, known_as, "me/tiny").name == "me/tiny"


def test_refusals_say_what_to_do_and_lose_nothing(run, written_runs, tmp_path, capsys):
    unfinished = Store(tmp_path / "runs").open(tiny_config("uniform"))
    full, file, link = tmp_path / "full", tmp_path / "file", tmp_path / "link"
    full.mkdir()
    (full / "thesis.txt").write_text("years of work")
    file.write_text("more of it")
    link.symlink_to(tmp_path / "nowhere")
    damaged = tmp_path / "runs" / run.folder.name
    shutil.copytree(run.folder, damaged)
    with open(damaged / "metrics.jsonl", "a") as log:
        log.write("{}\n")
    new, before = tmp_path / "new", contents(tmp_path) | contents(run.folder.parent)
    cases = [
        (tmp_path / "absent", new, [], "is not the folder of a run: name one, such as runs/"),
        (run.folder / "policy", new, [], "is not the folder of a run"),
        (base_model(run.config, Store(run.folder.parent)), new, [], "is not the folder of a run"),
        (unfinished.folder, new, [], "is not finished: train it to its end"),
        (written_runs[0].folder, new, [], "has no policy"),
        (damaged, new, [], "was changed, added or removed after the run finished"),
        (run.folder, full, [], "is not empty: name a new folder"),
        (run.folder, run.folder, [], "is not empty"),
        (run.folder, file, [], "is a file or a link: name a new folder"),
        (run.folder, link, [], "is a file or a link: name a new folder"),
        (run.folder, file / "below", [], "cannot be written ("),
        (run.folder, run.folder / "export", [], "is inside the run"),
        (run.folder, new, ["--push-to-hub", "a/b/c"], "--push-to-hub a/b/c: Repo id must be"),
    ]
    for source, target, options, says in cases:
        assert main(["export", str(source), str(target), *options]) == 2, says
        printed = capsys.readouterr()
        assert says in printed.err and printed.err.count("\n") == 1 and not printed.out
    assert contents(tmp_path) | contents(run.folder.parent) == before
    assert not new.exists() and link.is_symlink()


def test_a_write_that_fails_leaves_nothing(run, tmp_path, monkeypatch):
    monkeypatch.setattr("itpo.apps.export.ModelCard.save", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export(run.folder, tmp_path / "adapter")
    assert not list(tmp_path.iterdir())
    (tmp_path / ".partial-adapter").mkdir()
    with pytest.raises(ExportError, match="half written: then delete .*/.partial-adapter"):
        export(run.folder, tmp_path / "adapter")


def test_a_killed_export_leaves_no_folder_or_a_whole_one_and_says_how_to_go_on(run, tmp_path, exported):
    """Killed before each operation on files; a half-written folder beside is named and, once deleted, exporting goes on."""
    number, seen = 0, set()
    place = tmp_path / "killed"
    partial = place / ".partial-adapter"
    while True:
        child = os.fork()
        if child == 0:
            left = iter(range(number))

            def hook(event, arguments, left=left):
                on_files = event in ("open", "os.rename", "os.mkdir")
                if on_files and str(place) in str(arguments[0]) and next(left, None) is None:
                    os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(hook)
            with contextlib.suppress(BaseException):
                export(run.folder, place / "adapter")
                os._exit(0)
            os._exit(1)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        whole = (place / "adapter").exists()
        if whole:
            assert {p.name: c for p, c in contents(place / "adapter").items()} == {
                p.name: c for p, c in contents(exported).items()
            }
        elif partial.exists():
            with pytest.raises(ExportError, match=r"half written: then delete .*/.partial-adapter"):
                export(run.folder, place / "adapter")
        seen.add(whole)
        if status == 0:
            break
        assert status == -signal.SIGKILL
        shutil.rmtree(place, ignore_errors=True)
        number += 1
    assert number >= 5 and seen == {True, False}


def test_a_full_disk_is_one_line_and_leaves_nothing(run, tmp_path):
    limit = "import resource, sys; from itpo.__main__ import main; "
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, -1)); sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", limit, "export", str(run.folder), str(tmp_path / "adapter")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "or make room" in done.stderr
    assert not list(tmp_path.iterdir())


def test_an_export_has_the_permissions_that_the_umask_leaves(run, tmp_path):
    mask = os.umask(0o027)
    try:
        folder = export(run.folder, tmp_path / "adapter")
    finally:
        os.umask(mask)
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o640}
    assert folder.stat().st_mode & 0o777 == 0o750


def test_an_empty_folder_is_filled(run, tmp_path, monkeypatch):
    (tmp_path / "adapter").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(run.folder), "adapter", "--license", "apache-2.0"]) == 0
    assert len(list((tmp_path / "adapter").iterdir())) == 3


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's interface as an upload needs; takes one repository and writes down what comes."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.seen.append((self.path, self.headers["Authorization"], body))
        place = f"http://127.0.0.1:{self.server.server_port}/someone/adapter"
        if self.path == "/api/repos/create":
            taken = sum(path == self.path for path, *_ in self.server.seen) > 1
            self.answer(
                409 if taken else 200, {"error": "You already have this repo"} if taken else {"url": place}
            )
        elif self.path == "/api/models/someone/adapter/preupload/main":
            files = [
                {**file, "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]
            ]
            self.answer(200, {"files": files})
        elif self.path == "/api/models/someone/adapter/commit/main":
            self.answer(200, {"commitUrl": f"{place}/commit/1", "commitOid": "1", "pullRequestUrl": None})
        else:
            self.answer(200 if self.path == "/api/validate-yaml" else 404, {"errors": [], "warnings": []})

    def do_GET(self):
        self.server.seen.append((self.path, self.headers["Authorization"], ""))
        self.answer(404, {"error": "no such thing"})

    def answer(self, status, document):
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.seen = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_example")
    yield server
    server.shutdown()
    server.server_close()


def test_push_sends_the_folder_to_a_new_repository(run, hub, tmp_path, capsys):
    target = tmp_path / "adapter"
    assert main(["export", str(run.folder), str(target), "--push-to-hub", "someone/adapter"]) == 0
    assert "on the hub: http://127.0.0.1" in capsys.readouterr().out
    assert all(token == "Bearer hf_example" for path, token, _ in hub.seen if "adapter" in path), hub.seen
    created = next(json.loads(body) for path, _, body in hub.seen if path == "/api/repos/create")
    assert (created["organization"], created["name"]) == ("someone", "adapter")
    (commit,) = [body for path, _, body in hub.seen if path.endswith("/commit/main")]
    sent = [json.loads(line)["value"] for line in commit.splitlines() if '"file"' in line]
    found = {file["path"]: base64.b64decode(file["content"]) for file in sent}
    assert found == {path.name: content for path, content in contents(target).items()}
    assert b'adapter = "someone/adapter"' in found[CARD]


def test_a_push_that_fails_says_why_and_keeps_the_folder(run, hub, tmp_path, monkeypatch, capsys):
    def pushed(name):
        status = main(["export", str(run.folder), str(tmp_path / name), "--push-to-hub", "someone/adapter"])
        return status, capsys.readouterr().err

    assert pushed("first")[0] == 0
    status, printed = pushed("second")  # the name is taken
    assert status == 2 and "already have this repo" in printed and printed.count("\n") == 1
    assert f"send it by `hf upload someone/adapter {tmp_path / 'second'}`" in printed
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    status, printed = pushed("third")  # nobody is there
    assert status == 2 and "is complete, but not on the hub" in printed and printed.count("\n") == 1
    assert all((tmp_path / name / CARD).is_file() for name in ("first", "second", "third"))
    assert sum(path.endswith("/commit/main") for path, *_ in hub.seen) == 1
