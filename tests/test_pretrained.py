"""Named models: found in a folder or in the Hub's cache, refused where they must not be used, loaded without network."""

import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import httpx2
import pytest
import torch
from conftest import random_gemma
from huggingface_hub import constants, errors
from lora import adapter_files, whole_files
from safetensors.torch import load_file, save_file

from undertone.lm import hub, loading
from undertone.lm.adapters import new_adapter, save_adapter, save_whole
from undertone.lm.checkpoint import n_parameters
from undertone.lm.loading import load
from undertone.models import pretrained
from undertone.models.pretrained import make_pretrained
from undertone.runtime.files import read_json
from undertone.study.config.models import Model
from undertone.study.formats import INDEX, WEIGHTS

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "lab/gemma-tiny"


@pytest.fixture(scope="module")
def saved(tiny_settings, tokenizer, tmp_path_factory):
    """A tiny chat model in Hugging Face format."""
    folder = tmp_path_factory.mktemp("saved")
    random_gemma(tiny_settings, tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of it to change."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the Hub, which is switched off."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def fill(cache, folder, name=NAME, commit=COMMIT):
    """Put a folder's files into the cache as a download does: blobs, named by their hash, and links to them."""
    home = cache / f"models--{name.replace('/', '--')}"
    (home / "blobs").mkdir(parents=True)
    (home / "snapshots" / commit).mkdir(parents=True)
    for file in folder.iterdir():
        blob = home / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.copy2(file, blob)
        (home / "snapshots" / commit / file.name).symlink_to(blob)
    return home


def make(name, record, revision=None, dtype="float32"):
    settings = Model(name=str(name), revision=revision, dtype=dtype)
    return make_pretrained(record, [], settings, {"of": "pretrained"}, record.with_name("unfinished"))


def edit(path, **changes):
    """Change keys of a JSON file; None removes one."""
    told = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in told.items() if value is not None}))


def test_a_folder_is_recorded_with_what_is_in_it(folder, tmp_path, no_network):
    record = tmp_path / "results/model.json"
    log = make(folder, record)
    told, model = read_json(record), load(record).model
    assert (told["source"], told["name"], told["revision"], told["dtype"]) == ("folder", str(folder), None, "float32")
    assert (told["architecture"], told["n_layers"], told["d_model"]) == ("GemmaForCausalLM", 2, 32)
    assert told["parameters"] == model.num_parameters()
    assert told["stamp"] == {"of": "pretrained"}
    assert set(told["files"]) == {path.name for path in folder.iterdir()}
    for name, file in told["files"].items():
        content = (folder / name).read_bytes()
        assert file == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert f"{model.num_parameters():,} parameters, 2 layers of width 32" in log
    assert repr(told["template"]["prompt"]) in log


def test_what_loading_does_not_read_is_not_recorded(folder, tmp_path):
    (folder / "consolidated.safetensors").write_bytes(b"other format")
    (folder / "trainer_state.json").write_text("{}")
    make(folder, tmp_path / "model.json")
    assert not {"consolidated.safetensors", "trainer_state.json"} & set(read_json(tmp_path / "model.json")["files"])


def test_a_model_in_shards_is_recorded_and_loaded_whole(folder, tmp_path):
    whole = load_file(folder / WEIGHTS)
    make(folder, tmp_path / "one.json")
    parts = [dict(list(whole.items())[n::2]) for n in range(2)]
    for n, part in enumerate(parts):
        save_file(part, folder / f"model-{n}.safetensors", {"format": "pt"})
    (folder / WEIGHTS).unlink()
    weight_map = {key: f"model-{n}.safetensors" for n in range(2) for key in parts[n]}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    make(folder, tmp_path / "model.json")
    told = read_json(tmp_path / "model.json")
    assert {INDEX, "model-0.safetensors", "model-1.safetensors"} <= set(told["files"])
    assert told["parameters"] == read_json(tmp_path / "one.json")["parameters"]
    assert torch.equal(load(tmp_path / "model.json").model.get_input_embeddings().weight, whole["model.embed_tokens.weight"])
    (folder / "model-1.safetensors").unlink()
    with pytest.raises(ValueError, match=r"lacks model-1\.safetensors, which model\.safetensors\.index\.json names"):
        make(folder, tmp_path / "model.json")


def test_a_hub_model_is_found_in_the_cache_and_loaded_with_no_network_and_no_machine_path(saved, cache, tmp_path, no_network):
    fill(cache, saved)
    record = tmp_path / "results/model.json"
    log = make(NAME, record, COMMIT)
    told = read_json(record)
    assert (told["source"], told["name"], told["revision"]) == ("hub", NAME, COMMIT)
    assert str(tmp_path) not in record.read_text()
    assert str(tmp_path) not in log
    assert COMMIT in log
    loaded, ids = load(record), torch.arange(10, 30)[None]
    make(saved, tmp_path / "own.json")
    assert torch.equal(loaded.model(ids).logits, load(tmp_path / "own.json").model(ids).logits)


def test_a_record_is_loaded_from_the_cache_even_where_the_hub_is_reached(saved, cache, tmp_path, monkeypatch, no_network):
    fill(cache, saved)
    make(NAME, tmp_path / "model.json", COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert load(tmp_path / "model.json").stop_ids == [1, 4]


def test_what_is_trained_on_a_hub_model_names_its_commit_and_no_machine_path(saved, cache, tmp_path, monkeypatch, no_network):
    fill(cache, saved)
    make(NAME, tmp_path / "model.json", COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    adapter = adapter_files(tmp_path / "student")
    save_adapter(new_adapter(load(tmp_path / "model.json"), 2, 2, ["q_proj"], seed=0), *adapter, tmp_path / "scratch")
    config = adapter[1].read_text()
    assert json.loads(config)["base_model_name_or_path"] == NAME
    assert json.loads(config)["revision"] == COMMIT
    whole = whole_files(tmp_path / "whole")
    save_whole(load(tmp_path / "model.json").model, *whole, tmp_path / "scratch")
    assert str(tmp_path) not in config + whole[1].read_text()


@pytest.mark.parametrize("folder", ["results/model", "model", "snapshots/abc", "hub/datasets--a--b/snapshots/abc"])
def test_a_folder_outside_the_cache_has_no_name_of_the_hub(folder):
    assert hub.identity(folder) is None
    assert hub.identity("/home/hub/models--a--b/snapshots/abc") == ("a/b", "abc")


def test_a_cached_file_whose_content_is_not_the_hubs_is_refused(saved, cache, tmp_path):
    home = fill(cache, saved)
    weights = home / "snapshots" / COMMIT / WEIGHTS
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.resolve().write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged: the Hub's file has SHA-256 \w+, .* has \w+; delete"):
        make(NAME, tmp_path / "model.json", COMMIT)
    assert not (tmp_path / "model.json").exists()


def test_a_model_that_is_not_in_the_cache_says_where_it_was_sought(saved, cache, tmp_path):
    with pytest.raises(
        ValueError, match=rf"{NAME} at {COMMIT} is not, or not wholly, in the cache {cache}, and HF_HUB_OFFLINE"
    ):
        make(NAME, tmp_path / "model.json", COMMIT)
    home = fill(cache, saved)
    make(NAME, tmp_path / "model.json", COMMIT)
    shutil.rmtree(home)
    with pytest.raises(ValueError, match="fetch it once where there is network"):
        load(tmp_path / "model.json")


def hub_error(kind, status):
    return kind("refused", response=httpx2.Response(status, request=httpx2.Request("GET", "https://huggingface.co")))


@pytest.mark.parametrize(
    ("error", "complaint"),
    [
        (
            hub_error(errors.GatedRepoError, 403),
            r"is gated, found no token: accept its licence on https://huggingface\.co/lab/gemma-tiny, then log in there with "
            "`hf auth login`, or set HF_TOKEN",
        ),
        (
            hub_error(errors.RepositoryNotFoundError, 404),
            "there is no folder lab/gemma-tiny, and the Hub has no lab/gemma-tiny",
        ),
        (hub_error(errors.RevisionNotFoundError, 404), f"lab/gemma-tiny has no revision {COMMIT}: .*/commits/main lists"),
        (errors.LocalEntryNotFoundError("no connection"), r"and the Hub was not reached \(no connection\): fetch it once"),
        (hub_error(errors.HfHubHTTPError, 503), r"the Hub did not give lab/gemma-tiny at \w+ \(.*\): try again later"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_the_hub_refuses_is_said_in_a_sentence(error, complaint, monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise error

    monkeypatch.setattr(hub, "snapshot_download", refuse)
    monkeypatch.setattr(hub, "get_token", lambda: None)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(ValueError, match=complaint):
        make(NAME, tmp_path / "model.json", COMMIT)


def test_a_token_without_access_is_told_from_none(monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise hub_error(errors.GatedRepoError, 403)

    monkeypatch.setattr(hub, "snapshot_download", refuse)
    monkeypatch.setattr(hub, "get_token", lambda: "hf_secret")
    with pytest.raises(ValueError, match="found a token that has no access") as raised:
        make(NAME, tmp_path / "model.json", COMMIT)
    assert "hf_secret" not in str(raised.value)


def test_what_is_no_name_at_all_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'no/such/folder' is neither a folder nor a name of the Hub"):
        make("no/such/folder", tmp_path / "model.json", COMMIT)


def test_a_refused_model_costs_no_download_of_its_weights(folder, monkeypatch, tmp_path):
    asked = []

    def cached(name, revision, files, download):
        asked.append(set(files))
        return folder

    monkeypatch.setattr(pretrained, "cached", cached)
    make(NAME, tmp_path / "model.json", COMMIT)
    assert [WEIGHTS in files for files in asked] == [False, True]
    edit(folder / "config.json", auto_map={"AutoModelForCausalLM": "modeling.Own"})
    with pytest.raises(ValueError, match="asks to run code"):
        make(NAME, tmp_path / "model.json", COMMIT)
    assert len(asked) == 3
    assert WEIGHTS not in asked[-1]


def without_template(folder):
    (folder / "chat_template.jinja").unlink()


def pickled_only(folder):
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def without_weights(folder):
    (folder / WEIGHTS).unlink()


def code_for_the_model(folder):
    edit(folder / "config.json", auto_map={"AutoModelForCausalLM": "modeling.Own"})


def code_for_the_tokenizer(folder):
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization.Own", None]})


def unknown_architecture(folder):
    edit(folder / "config.json", model_type="mindreader", architectures=["MindReaderForCausalLM"])


def an_encoder(folder):
    edit(folder / "config.json", model_type="t5", architectures=["T5ForConditionalGeneration"])


def a_classifier(folder):
    edit(folder / "config.json", architectures=["GemmaForSequenceClassification"])


def without_config(folder):
    (folder / "config.json").unlink()


def without_tokenizer(folder):
    (folder / "tokenizer.json").unlink()


def cut_short(folder):
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (without_template, "has no chat template: undertone needs an instruction-tuned model"),
        (
            pickled_only,
            r"only pickled ones \(pytorch_model\.bin\): expected model\.safetensors, .* can run code when they are loaded",
        ),
        (without_weights, r"holds no weights as safetensors, none: expected model\.safetensors"),
        (code_for_the_model, r"asks to run code of its own \(auto_map in config\.json\), which undertone never does: take"),
        (code_for_the_tokenizer, r"asks to run code of its own \(auto_map in tokenizer_config\.json\)"),
        (unknown_architecture, "model_type 'mindreader', which this version of transformers does not know: update"),
        (an_encoder, "is a T5ForConditionalGeneration, expected a causal language model"),
        (a_classifier, r"is a GemmaForSequenceClassification, expected a causal language model \(GemmaForCausalLM\)"),
        (without_config, r"has no config\.json: expected a model in Hugging Face format"),
        (
            without_tokenizer,
            r"has no tokenizer: expected tokenizer\.json, or tokenizer\.model, or vocab\.json with merges\.txt",
        ),
        (cut_short, r"model\.safetensors is damaged \(.*\): delete it"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_model_that_must_not_be_used_is_refused_before_it_is_loaded(spoil, complaint, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(loading.AutoModelForCausalLM, "from_pretrained", lambda *args, **kwargs: pytest.fail("was loaded"))
    spoil(folder)
    with pytest.raises(ValueError, match=complaint):
        make(folder, tmp_path / "model.json")
    assert not (tmp_path / "model.json").exists()


def test_code_beside_a_model_is_not_run(folder, tmp_path):
    trap = tmp_path / "ran"
    for name in ("modeling", "tokenization", "configuration"):
        (folder / f"{name}.py").write_text(f"open({str(trap)!r}, 'w')\nclass Own: pass\n")
    edit(folder / "config.json", auto_map={"AutoConfig": "configuration.Own", "AutoModelForCausalLM": "modeling.Own"})
    with pytest.raises(ValueError, match="asks to run code"):
        make(folder, tmp_path / "model.json")
    # Nor where the record was made before.
    edit(folder / "config.json", auto_map=None)
    make(folder, tmp_path / "model.json")
    edit(folder / "config.json", auto_map={"AutoModelForCausalLM": "modeling.Own"})
    edit(tmp_path / "model.json", files={}, checksum=None)
    assert type(load(tmp_path / "model.json").model).__name__ == "GemmaForCausalLM"
    assert not trap.exists()


def test_parameters_are_counted_from_the_headers_alone(folder):
    expected = sum(tensor.numel() for tensor in load_file(folder / WEIGHTS).values())
    path = folder / WEIGHTS
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    path.write_bytes(content[:header] + bytes(len(content) - header))
    assert n_parameters(folder) == expected


ASK = "import sys, json; from pathlib import Path; from undertone.models.pretrained import make_pretrained as make; " + (
    "from undertone.study.config.models import Model; record = Path(sys.argv[1]); "
    "print(make(record, [], Model(**json.loads(sys.argv[2])), {}, record.with_name('unfinished')))"
)


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the Hub as serves one repository's files at one commit, and notes what was fetched."""

    folder: Path
    fetched: list[str]
    refusal: tuple[int, str] | None = None

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        if self.refusal:
            return self.answer(self.refusal[0], b"{}", {"X-Error-Code": self.refusal[1]})
        if self.path.startswith(f"/api/models/{NAME}/tree/"):
            entries = [entry(path) for path in sorted(self.folder.iterdir())]
            return self.answer(200, json.dumps(entries).encode(), {"Content-Type": "application/json"})
        path = self.folder / self.path.partition(f"/{NAME}/resolve/{COMMIT}/")[2]
        content = path.read_bytes()
        if self.command == "GET":
            self.fetched.append(path.name)
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        return self.answer(200, content, {"X-Repo-Commit": COMMIT, "ETag": etag, "X-Linked-Etag": etag})

    def answer(self, status, body, headers):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body if self.command == "GET" else b"")

    def log_message(self, *args):
        pass


def entry(path):
    """A file as the Hub lists it, all of them large ones."""
    digest, size = hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size
    large = {"oid": digest, "size": size, "pointerSize": 1}
    return {"type": "file", "path": path.name, "size": size, "oid": digest, "lfs": large}


@pytest.fixture
def served(folder, tmp_path):
    """A Hub on this machine, and a call that finds a model there in a process of its own."""
    handler = type("Served", (Hub,), {"folder": folder, "fetched": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint, home = f"http://127.0.0.1:{server.server_port}", str(tmp_path / "home")
        settings = {"HF_ENDPOINT": endpoint, "HF_HOME": home, "HF_HUB_OFFLINE": "0", "HF_TOKEN": ""}

        def find():
            told = json.dumps({"name": NAME, "revision": COMMIT})
            command = [sys.executable, "-c", ASK, str(tmp_path / "model.json"), told]
            return subprocess.run(command, env=os.environ | settings, capture_output=True, text=True)

        yield handler, find
        server.shutdown()


def test_a_model_is_downloaded_from_the_hub_texts_first(served, tmp_path):
    handler, find = served
    (handler.folder / "pytorch_model.bin").write_bytes(b"pickled")
    (handler.folder / "modeling.py").write_text("raise SystemExit")
    done = find()
    assert done.returncode == 0, done.stderr
    assert handler.fetched[-1] == WEIGHTS
    assert set(handler.fetched) == set(read_json(tmp_path / "model.json")["files"])
    assert not {"pytorch_model.bin", "modeling.py"} & set(handler.fetched)
    assert COMMIT in done.stdout
    fetched = len(handler.fetched)
    handler.refusal = (503, "")
    # What is there is not asked for again.
    assert find().returncode == 0
    assert len(handler.fetched) == fetched


@pytest.mark.parametrize(
    ("refusal", "complaint"),
    [
        ((403, "GatedRepo"), "is gated, found no token: accept its licence"),
        ((404, "RepoNotFound"), f"there is no folder {NAME}, and the Hub has no {NAME}"),
        ((404, "RevisionNotFound"), f"{NAME} has no revision {COMMIT}"),
    ],
)
def test_the_hubs_own_answers_become_sentences(served, refusal, complaint):
    handler, find = served
    handler.refusal = refusal
    done = find()
    assert done.returncode == 1
    assert complaint in done.stderr.splitlines()[-1]
    assert not handler.fetched
