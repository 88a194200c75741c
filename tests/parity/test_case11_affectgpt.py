"""AffectGPT as a whole against its own code: prompts, ids, fusion, losses, gradients, answers, checkpoint."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from emo.featstore.spec import EncoderSpec
from emo.train.llm.affectgpt.checkpoint import export_official, import_official
from emo.train.llm.affectgpt.family import AffectGptFamily
from emo.train.llm.affectgpt.model import AffectGpt, Widths, official_names
from emo.train.llm.affectgpt.prompt import (
    PLACES,
    SETTINGS,
    begin_id,
    build_prompt,
    encode_answer,
    end_id,
    instruction,
    response,
    slots,
    stop_ids,
    streams,
    words_of,
)
from emo.train.llm.build import build
from emo.train.llm.data import filled
from emo.train.llm.model import LoraArgs
from emo.train.llm.optim import Schedule, parameter_groups
from emo.train.llm.tokenizer import Tokenizer
from emo.train.metrics.words import split_words
from emo.train.recipe import load_recipe

GOLDEN_CASES = ["case11_affectgpt"]
BASE = "llama_model.base_model.model."


@pytest.fixture
def tokenizer(golden) -> Tokenizer:
    return Tokenizer.from_folder(golden.folder / "tokenizer")


@pytest.fixture
def folder(golden, tmp_path):
    """The language model as a folder of the hub."""
    made = tmp_path / "qwen"
    shutil.copytree(golden.folder / "tokenizer", made)
    config = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", **golden.info["config"]["llm"]}
    (made / "config.json").write_text(json.dumps(config))
    state = {
        name.removeprefix(BASE).replace(".base_layer.", "."): tensor
        for name, tensor in load_file(golden.weights).items()
        if name.startswith(BASE) and ".lora_" not in name
    }
    save_file(state, made / "model.safetensors", {"format": "pt"})
    return made


@pytest.fixture
def make(golden, folder):
    """Make the model as a user would: a folder, then the official checkpoint on top of it."""
    config = golden.info["config"]
    lora = LoraArgs(
        config["lora"]["r"], config["lora"]["alpha"], config["lora"]["dropout"], tuple(config["lora"]["targets"])
    )
    video, audio = config["clip"]["projection_dim"], config["hubert"]["hidden_size"]
    rows = {"audio": (config["audio_clips"], audio), "image": (1, video)}

    def one(setting: str, tokens: str = "tokens", checkpoint: bool = True) -> AffectGpt:
        specs = [
            EncoderSpec(name, "any", "face", "tokens", shape[1], shape[0], "tiny", "seed:0")
            for name in streams(setting)
            for shape in [rows.get(name, (config["n_frames"], video))]
        ]
        widths = Widths.from_specs(setting, specs, config[tokens])
        model = build(lambda llm, tok, name: AffectGpt(llm, tok, widths, lora, name), str(folder))
        if checkpoint:
            (path,) = [golden.folder / name for name in golden.info["checkpoint_files"] if "000000" not in name]
            import_official(path, model)
        return model.eval()

    return one


def features_of(golden, setting: str) -> list[Tensor]:
    """Features of the golden's batch, in the order that the setting wants them."""
    names = [each["name"] for each in golden.info["samples"]]
    given = {
        kind: torch.stack([torch.from_numpy(golden.io[f"{name}.{kind}_features"]) for name in names])
        for kind in ("face", "frame")
    }
    given["audio"] = torch.from_numpy(golden.io["batch.audio_features"])
    given["image"] = torch.from_numpy(golden.io["image.features"])
    return [given[name] for name in streams(setting)]


def batch_of(golden, model: AffectGpt, setting: str):
    """The golden's samples as one batch."""
    prompts, answers = [], []
    for each in golden.info["samples"]:
        text = instruction(setting, each["question"], golden.info["data"][each["name"]]["subtitle"])
        prompts.append(build_prompt("train_consistent", setting, text, model.tokenizer))
        answers.append(encode_answer(each["answer"], model.tokenizer, golden.info["config"]["max_length"]))
    return model.collate(prompts, answers, features_of(golden, setting))


def close(ours, theirs, tolerance):
    torch.testing.assert_close(torch.as_tensor(ours), torch.as_tensor(theirs), atol=tolerance, rtol=0)


def test_prompts_of_all_settings(golden):
    given = golden.info["prompt_inputs"]
    assert set(golden.info["prompts"]) == set(SETTINGS)
    for setting, told in golden.info["prompts"].items():
        assert instruction(setting, given["user_message"], given["subtitle"]) == told["text"]
        assert sorted(streams(setting)) == sorted(told["needed_data"]), setting


def test_answers_as_they_are_trained_on(golden):
    family, given, asked = AffectGptFamily(), golden.info["question_inputs"], golden.info["questions"]
    assert family.clean_answer(given["description"], "description") == asked["description"]["answer"]
    assert family.clean_answer(given["onehot"], "emotion") == asked["onehot_wo_candidates"]["answer"]
    assert family.clean_answer(f"[{given['ovlabel']}]", "ovlabel") == asked["ovlabel"]["answer"]
    assert family.clean_answer(str(given["valence"]), "valence") == asked["valence"]["answer"]
    assert family.clean_answer(given["sentiment"], "sentiment") == asked["sentiment"]["answer"]
    for said, kind in ((given["preference"]["p"], "preference"), ("a1", "preference_a1"), ("a2", "preference_a2")):
        assert family.clean_answer(said, "preference") == asked[kind]["answer"]
        assert words_of(asked[kind]["answer"]) == said
    for text, words in golden.info["string_to_list"]:
        assert split_words(text) == words
    for each in golden.info["samples"]:
        openset = golden.info["data"][each["name"]]["openset"]
        assert family.clean_answer(openset, "ovlabel").count(each["ovlabel"]) == 1


def test_questions_are_worded_as_in_its_code(golden):
    prompts, asked = load_recipe("affectgpt").prompts, golden.info["questions"]
    same = {"emotion": "onehot_wo_candidates", **{each: each for each in prompts if each != "emotion"}}
    pair = golden.info["question_inputs"]["preference"]
    for task, kind in same.items():
        assert filled(prompts[task][0], (pair["a1"], pair["a2"])) == asked[kind]["question"], task


def test_ids_of_prompts_and_answers(golden, tokenizer):
    facts = golden.info["tokenizer"]
    assert (begin_id(tokenizer), end_id(tokenizer), tokenizer.vocab_size) == (
        facts["bos"],
        facts["eos"],
        facts["image"],
    )
    assert [list(each) for each in stop_ids(tokenizer)] == golden.info["stop_ids"]
    places = {facts[name]: name for name in ("image", "audio", "frame", "face", "multi")}
    for each in golden.info["samples"]:
        prompt = build_prompt("official_eval", "multiface_audio_face_text", each["prompt"], tokenizer)
        ids = [id for part in prompt.segments for id in ([part] if isinstance(part, str) else part)]
        assert ids == [places.get(id, id) for id in each["prompt_ids"]]
        assert encode_answer(each["answer"], tokenizer, 1024)[:-1] == each["target_ids"]


def test_ids_in_the_genuine_vocabulary(golden, shared, tmp_path):
    """Qwen2.5's vocabulary is Qwen2's with more added tokens, which are put there as its own files have them."""
    told = golden.info["real_qwen25_ids"]
    made = tmp_path / "qwen"
    shutil.copytree(shared / "data" / "qwen2_tokenizer", made)
    table = json.loads((made / "tokenizer_config.json").read_text())
    usual = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": False}
    added = {id: {"content": text, **usual} for id, text in told["added_tokens"].items()}
    table["added_tokens_decoder"] = added | table["added_tokens_decoder"]
    (made / "tokenizer_config.json").write_text(json.dumps(table))
    tokenizer = Tokenizer.from_folder(made)
    assert (begin_id(tokenizer), end_id(tokenizer), tokenizer.vocab_size + 5) == (
        told["bos"],
        told["eos"],
        told["length"],
    )
    names = {id: PLACES[place] for place, id in told["placeholders"].items()}
    seen = 0
    for each in told["texts"]:
        places = {slot for place, slot in PLACES.items() if place in each["text"]}
        setting = next(setting for setting in SETTINGS if set(slots(setting)) == places)
        prompt = build_prompt("official_eval", setting, each["text"], tokenizer)
        ids = [id for part in prompt.segments for id in ([part] if isinstance(part, str) else part)]
        assert ids == [names.get(id, id) for id in each["ids"]]
        seen += len(prompt.slots)
    assert seen


@pytest.mark.parametrize("tokens", ["tokens", "extra_tokens"])
def test_the_batch_as_a_whole(golden, make, tokens):
    """Ids, labels, fusion, embeddings, logits and loss, with one row per place and with several."""
    setting, part, tolerance = (
        "multiface_audio_face_text",
        {"tokens": "main", "extra_tokens": "multi_tokens"}[tokens],
        golden.info["tolerance"],
    )
    model = make(setting, tokens)
    batch = batch_of(golden, model, setting)
    mask = torch.from_numpy(golden.io[f"{part}.attention_mask"])
    labels = torch.from_numpy(golden.io[f"{part}.labels"])
    assert torch.equal(batch.labels, labels)
    rows = torch.from_numpy(golden.io[f"{part}.input_ids"])
    text = torch.ones_like(rows, dtype=torch.bool)
    text.view(-1)[batch.slots] = False
    assert torch.equal(batch.ids[text & mask], rows[text & mask])
    with torch.no_grad():
        given = dict(zip(streams(setting), batch.features, strict=True))
        close(model.merged(given), golden.io[f"{part}.multi_hidden"], tolerance["tokens"])
        made = model.condition(batch.features)
        for slot in ("multi", "audio", "face"):
            close(made[:, list(model.slot(slot))], golden.io[f"{part}.{slot}_token"], tolerance["tokens"])
        embeds = model.embed(batch)
        close(embeds[mask], golden.io[f"{part}.inputs_embeds"][mask.numpy()], tolerance["inputs_embeds"])
        hidden = model.llm.model(inputs_embeds=embeds, use_cache=False).last_hidden_state
        close(model.llm.lm_head(hidden)[mask], golden.io[f"{part}.logits"][mask.numpy()], tolerance["logits"])
        total, count = model.loss(batch)
    close(total / count, golden.io[f"{part}.loss"][0], tolerance["loss"])


def test_gradients_of_all_that_is_trained(golden, make):
    model = make("multiface_audio_face_text")
    total, count = model.loss(batch_of(golden, model, "multiface_audio_face_text"))
    (total / count).backward()
    trained = dict(official_names(model.trainable()))
    assert sorted(trained) == sorted(set(golden.info["trainable"]) - set(golden.info["trainable_without_grad"]))
    for name, parameter in trained.items():
        theirs = torch.from_numpy(golden.io[f"main.grad.{name}"])
        apart = (parameter.grad - theirs).abs().max() / theirs.abs().max().clamp(min=1e-6)
        assert apart <= golden.info["tolerance"]["grads_rel"], name


def test_the_loss_of_every_setting(golden, make):
    for setting in SETTINGS:
        model = make(setting)
        batch = batch_of(golden, model, setting)
        assert torch.equal(batch.labels, torch.from_numpy(golden.io[f"set.{setting}.labels"])), setting
        with torch.no_grad():
            total, count = model.loss(batch)
        close(total / count, golden.io[f"set.{setting}.loss"][0], golden.info["tolerance"]["loss"])


def test_answers_are_generated(golden, make):
    """Greedy ids, the stop, the cut on the left, and the embeddings that the language model reads."""
    models = {}
    for number, each in enumerate(golden.info["generate"]):
        setting = each["face_or_frame"]
        model = models.setdefault(setting, make(setting))
        name = golden.info["samples"][each["sample"]]["name"]
        given = {
            "face": golden.io[f"{name}.face_features"],
            "frame": golden.io[f"{name}.frame_features"],
            "audio": golden.io[f"{name}.audio_features"],
            "image": golden.io["image.features"][each["sample"]],
        }
        features = [torch.from_numpy(given[kind])[None] for kind in streams(setting)]
        new = each["generate_kwargs"]["max_new_tokens"]
        prompt = build_prompt("official_eval", setting, each["prompt"], model.tokenizer, new)
        batch = model.collate([prompt], None, features, None)
        with torch.no_grad():
            close(
                model.embed(batch)[0],
                golden.io[f"gen.{number}.inputs_embeds"],
                golden.info["tolerance"]["inputs_embeds"],
            )
        (ids,) = model.generate([prompt], features, new)
        assert ids == each["output_ids"]
        assert response(ids, model.tokenizer) == each["response"]
        if stop := each.get("stop"):
            head, (factor, row) = model.llm.lm_head.weight, stop["is_factor_times_row"]
            before = head.detach().clone()
            with torch.no_grad():
                head[stop["row_of_stop_id"]] = factor * head[row]
            (ids,) = model.generate([prompt], features, new)
            assert ids == stop["output_ids"]
            assert response(ids, model.tokenizer) == stop["response"]
            with torch.no_grad():
                head.copy_(before)
        if cut := each.get("left_cut"):
            whole = build_prompt("official_eval", setting, each["prompt"], model.tokenizer)
            first, *rest = whole.segments
            rows = sum(1 if isinstance(part, str) else len(part) for part in whole.segments)
            shorter = type(whole)(whole.layout, (first[rows - cut["prompt_len"] :], *rest))
            assert rows + new - cut["max_length"] == rows - cut["prompt_len"]  # the rule of `build_prompt`
            (ids,) = model.generate([shorter], features, new)
            assert ids == cut["output_ids"]


def test_post_processing(golden, tokenizer):
    for each in golden.info["post_processing"]:
        assert response(each["ids"], tokenizer) == each["response"]


def test_the_official_checkpoint_goes_in_and_out(golden, make, tmp_path):
    (path,) = [golden.folder / name for name in golden.info["checkpoint_files"] if "000000" not in name]
    model, again = (make("multiface_audio_face_text", checkpoint=False) for _ in range(2))
    report = import_official(path, model)
    assert not report.missing
    assert len(report.consumed) == len(golden.info["checkpoint_model_keys"])
    export_official(model, tmp_path / "out.pth")
    written = torch.load(tmp_path / "out.pth", weights_only=True)
    assert sorted(written) == sorted(golden.info["checkpoint_top_keys"])
    theirs = torch.load(path, weights_only=True)["model"]
    assert {name: tuple(each.shape) for name, each in written["model"].items()} == {
        name: tuple(each.shape) for name, each in theirs.items()
    }
    assert all(torch.equal(written["model"][name], each) for name, each in theirs.items())
    import_official(tmp_path / "out.pth", again)
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(model.kept(), again.kept(), strict=True))


def test_optimizer_groups_and_learning_rate(golden, make):
    model = make("multiface_audio_face_text")
    theirs = {group["weight_decay"]: set(group["params"]) for group in golden.info["optimizer_groups"]}
    untrained = set(golden.info["trainable_without_grad"])
    for group in parameter_groups(official_names(model.trainable()), 0.05):
        assert {name for name, _ in group["params"]} == theirs[group["weight_decay"]] - untrained
    for case in golden.info["lr"]:
        given = case["args"]
        schedule = Schedule(
            given["init_lr"],
            given["min_lr"],
            given["warmup_start_lr"],
            given["warmup_steps"],
            given["iters_per_epoch"],
            given["max_epoch"],
        )
        for epoch, step, lr in case["table"]:
            ours = schedule.lr(epoch * given["iters_per_epoch"] + step)
            assert abs(ours - lr) <= golden.info["tolerance"]["lr"], (given, epoch, step)
