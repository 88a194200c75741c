"""VideoLLaMA2 as a whole against its own code: prompts, ids, connector, losses, gradients, answers, checkpoints."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from reference import released_names
from safetensors.torch import load_file, save_file
from towers import beats_of, part, siglip_of

from emo.featstore.errors import ModelError, WeightsMissing
from emo.featstore.spec import EncoderSpec
from emo.train.llm.build import build
from emo.train.llm.model import LoraArgs
from emo.train.llm.prompt import fill_slots, make_prompt
from emo.train.llm.tokenizer import Tokenizer
from emo.train.llm.videollama2.checkpoint import export_official, import_official, plain_name
from emo.train.llm.videollama2.connector import StcConnector, rows
from emo.train.llm.videollama2.family import VideoLlama2Family
from emo.train.llm.videollama2.model import Sizes, VideoLlama2
from emo.train.llm.videollama2.prompt import TAGS, build_prompt, encode_answer, end_id, expanded, instruction, response

GOLDEN_CASES = ["case10_videollama2_av"]
IDS = dict(zip(TAGS, (-200, -201, -202), strict=True))
SLOTS = {"video_audio": ("video", "audio"), "video": ("video",), "image": ("video",), "audio": ("audio",), "text": ()}


@pytest.fixture
def io(golden):
    return load_file(golden.folder / "io_whole.safetensors")


@pytest.fixture
def tokenizer(golden):
    return Tokenizer.from_folder(golden.folder / "tokenizer")


@pytest.fixture
def folder(golden, tmp_path):
    """The released layout: one folder with shards of everything, whose type transformers does not know."""
    made = tmp_path / "released"
    shutil.copytree(golden.folder / "tokenizer", made)
    config = {"architectures": ["Videollama2Qwen2ForCausalLM"], "model_type": "videollama2_qwen2"}
    (made / "config.json").write_text(json.dumps(config | golden.info["config"]["llm"]))
    state = load_file(golden.folder / "weights_whole.safetensors")
    shards = {f"model-0000{i}-of-00002.safetensors": dict(list(state.items())[i - 1 :: 2]) for i in (1, 2)}
    for name, tensors in shards.items():
        save_file(tensors, made / name, {"format": "pt"})
    table = {key: name for name, tensors in shards.items() for key in tensors}
    (made / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))
    return made


@pytest.fixture
def make(golden, folder, tmp_path):
    """Make the model as a user would: the released folder, and an adapter on top of it."""
    config = golden.info["config"]
    lora = LoraArgs(config["lora"]["r"], config["lora"]["alpha"], 0.0, tuple(config["lora"]["targets"]))
    patches, count = (config["siglip"]["image_size"] // config["siglip"]["patch_size"]) ** 2, config["num_frames"]

    def one(*kinds, adapter=True, penalty=1.0) -> VideoLlama2:
        video = EncoderSpec(
            "v", "any", "frame", "tokens", config["siglip"]["hidden_size"], count * patches, "tiny", "s"
        )
        heard = (config["fbank_frames"] // 16) * 8
        audio = EncoderSpec("a", "any", "audio", "tokens", config["mm_hidden_size_a"], heard, "tiny", "s")
        sizes = Sizes.from_specs(
            video if "video" in kinds else None,
            audio if "audio" in kinds else None,
            count,
            config["mm_projector_type"].replace("stc_connector_v35", "stc_v35"),
        )
        types = VideoLlama2Family.model_types
        model = build(
            lambda llm, tok, name: VideoLlama2(llm, tok, sizes, lora, name, penalty=penalty),
            str(folder),
            model_types=types,
        )
        report = import_official(folder, model)
        assert len(report.consumed) == len([name for name, _ in model.kept() if "lora_" not in name])
        if adapter:
            tuned = tmp_path / "tuned"
            tuned.mkdir(exist_ok=True)
            shutil.copyfile(golden.folder / "adapter_model.safetensors", tuned / "adapter_model.safetensors")
            rest = {f"base_model.model.model.mm_{k}": v for k, v in part(golden, "model.mm_").items()}
            torch.save(rest, tuned / "non_lora_trainables.bin")
            assert not import_official(tuned, model).missing
        return model

    return one


def close(ours, theirs, tolerance):
    torch.testing.assert_close(torch.as_tensor(ours), torch.as_tensor(theirs), atol=tolerance, rtol=0)


def ids_of(prompt, tag):
    """Ids of a prompt with the tag's own id in the place of its slots."""
    out = []
    for each in prompt.segments:
        if not isinstance(each, str):
            out += each
        elif out[-1:] != [IDS[tag]]:
            out.append(IDS[tag])
    return out


def whole(text, tokenizer, tag, kind):
    """A conversation of several turns as one prompt."""
    segments = fill_slots(text, {tag: "tag"} if tag else {}, tokenizer)
    return make_prompt("train_consistent", expanded(segments, SLOTS[kind]))


def test_ids_and_labels(golden, tokenizer):
    """Every conversation of one turn, by the family's own prompt and answer; the others turn by turn."""
    single = 0
    for each in golden.info["samples"]:
        tag = each["modal_token"] or ""
        prompt = whole(each["text"], tokenizer, tag, each["kind"])
        assert ids_of(prompt, tag) == each["input_ids"]
        if len(each["messages"]) != 2:
            continue
        asked = next(turn["value"] for turn in each["conversation"] if turn["from"] == "human")
        text = instruction(asked, "", tag)
        assert text == each["messages"][0]["content"]
        prompt = build_prompt("train_consistent", text, tokenizer, SLOTS[each["kind"]])
        answer = encode_answer(each["messages"][1]["content"], tokenizer, 2048)
        before = ids_of(prompt, tag)
        assert before + answer == each["input_ids"]
        assert [-100] * len(before) + answer == each["labels"]
        assert prompt == replace(build_prompt("chat", text, tokenizer, SLOTS[each["kind"]]), layout="train_consistent")
        single += 1
    assert single >= 3


def test_ids_in_the_genuine_vocabulary(golden, shared):
    tokenizer = Tokenizer.from_folder(shared / "data" / "qwen2_tokenizer")
    for each in golden.info["real_qwen2_ids"]:
        tag = each["modal_token"] or ""
        prompt = whole(each["text"], tokenizer, tag, "video" if tag else "text")
        assert ids_of(prompt, tag) == each["input_ids"]
    assert end_id(tokenizer) == 151645


@pytest.mark.parametrize("version", ["stc_v35", "stc_v1"])
def test_connector(golden, io, version):
    facts, tolerance = golden.info["stc"][version], golden.info["tolerance"]
    weights = load_file(golden.folder / "weights_stc.safetensors")
    model = StcConnector(facts["mm_hidden"], facts["hidden"], version)
    model.load_state_dict({k.removeprefix(f"{version}."): v for k, v in weights.items() if k.startswith(f"{version}.")})
    x = io[f"{version}.x"].requires_grad_()
    for again in (False, True):
        model.recompute = again
        model.zero_grad()
        x.grad = None
        y = model(x)
        close(y, io[f"{version}.y"], tolerance["stc"])
        assert y.shape[1] == rows(facts["t"], facts["hw"] ** 2, version)
        (y * io[f"{version}.cot"]).sum().backward()
        grads = dict(model.named_parameters())
        compared = {key.removeprefix(f"{version}.grad."): key for key in io if key.startswith(f"{version}.grad.")}
        pairs = [(grads[name].grad, io[key]) for name, key in compared.items()]
        for ours, theirs in [(x.grad, io[f"{version}.grad_x"]), *pairs]:
            assert float((ours - theirs).abs().max() / theirs.abs().max()) <= tolerance["stc_grads_rel"]
        assert len(pairs) > 5
    x.requires_grad_(False)


def test_the_true_connector_has_the_published_size():
    with torch.device("meta"):
        model = StcConnector(1152, 3584)
    assert len(model.state_dict()) == 113
    assert round(sum(each.numel() for each in model.parameters()) / 1e6, 1) == 376.9
    assert rows(16, 729) == 1352


def batch_of(golden, io, model, tag):
    """All samples of a batch of the reference, right-padded; its labels are the reference's."""
    count = io[f"{tag}.attention_mask"].shape[0]
    samples = golden.info["samples"]
    if tag == "same":
        samples = [samples[each["like_sample"]] for each in golden.info["same_samples"]]
    video, audio = torch.zeros(count, *model.sizes.video), torch.zeros(count, *model.sizes.audio)
    seen = [i for i, each in enumerate(samples) if each["kind"] != "audio"]  # a text's empty picture is seen too
    heard = [i for i, each in enumerate(samples) if "audio" in each["kind"]]
    video[seen] = io[f"{tag}.vision_features"].unflatten(0, (len(seen), -1)).flatten(1, 2)
    audio[heard] = io[f"{tag}.audio_features"]
    prompts = [whole(each["text"], model.tokenizer, each["modal_token"] or "", each["kind"]) for each in samples]
    width = io[f"{tag}.attention_mask"].shape[1]  # the reference splices behind the padding of the texts
    batch = model.collate(prompts, None, (video, audio), width=width)
    labels = io[f"{tag}.labels"]
    where = torch.nonzero((labels != -100).flatten()).flatten()
    return replace(batch, predictors=where - 1, targets=labels.flatten()[where])


@pytest.mark.parametrize("tag", ["mix", "same"])
def test_the_batch_as_a_whole(golden, io, make, tag):
    model, tolerance = make("video", "audio"), golden.info["tolerance"]
    batch = batch_of(golden, io, model, tag)
    mask = io[f"{tag}.attention_mask"]
    assert torch.equal(batch.mask, mask)
    with torch.no_grad():
        given = model.condition(batch.features)
        seen = io[f"{tag}.video_tokens"]
        video = [i for i in range(len(mask)) if batch.features[0][i].any()]
        close(given[video][:, list(model.slot("video"))], seen, tolerance["inputs_embeds"])
        embeds = model.embed(batch)
        close(embeds[mask], io[f"{tag}.inputs_embeds"][mask], tolerance["inputs_embeds"])
        out = model.llm.model(inputs_embeds=embeds, use_cache=False, output_hidden_states=True)
        depth = golden.info["config"]["llm"]["num_hidden_layers"]
        for i in range(depth):
            close(out.hidden_states[i][mask], io[f"{tag}.hidden_{i}"][mask], tolerance["hidden_states"])
        close(out.last_hidden_state[mask], io[f"{tag}.hidden_{depth}"][mask], tolerance["hidden_states"])
        close(model.llm.lm_head(out.last_hidden_state)[mask], io[f"{tag}.logits"][mask], tolerance["logits"])
        total, number = model.loss(batch)
    close(total / number, io[f"{tag}.loss"][0], tolerance["loss"])


def test_a_sample_by_the_familys_own_way(golden, io, make, tokenizer):
    """Prompt and answer as training makes them, and the loss of the sample in a batch of its own."""
    model = make("video", "audio")
    number = next(i for i, each in enumerate(golden.info["samples"]) if each["kind"] == "video_audio")
    each = golden.info["samples"][number]
    prompt = build_prompt("train_consistent", each["messages"][0]["content"], tokenizer, ("video", "audio"))
    answer = encode_answer(each["messages"][1]["content"], tokenizer, 2048)
    features = [part[number : number + 1] for part in batch_of(golden, io, model, "mix").features]
    batch = model.collate([prompt], [answer], features)
    with torch.no_grad():
        total, count = model.loss(batch)
    assert count == len(answer)
    close(total / count, io[f"alone.{number}.loss"][0], golden.info["tolerance"]["loss"])


def test_gradients_of_all_that_is_trained(golden, io, make):
    model = make("video", "audio")
    total, count = model.loss(batch_of(golden, io, model, "mix"))
    (total / count).backward()
    trained = released_names(dict(model.trainable()))
    assert sorted(trained) == sorted(name.replace(".default.", ".") for name in golden.info["trainable"])
    for name, parameter in trained.items():
        theirs = io[f"mix.grad.{name}"]
        apart = (parameter.grad - theirs).abs().max() / theirs.abs().max().clamp(min=1e-8)
        assert apart <= golden.info["tolerance"]["grads_rel"], name


def test_answers_are_generated(golden, io, make, tmp_path):
    """Greedy ids with and without a penalty on repetition, the stop, and the text, from the media on."""
    siglip, beats = siglip_of(golden, tmp_path / "siglip"), beats_of(golden, tmp_path / "beats.pt")
    for number, each in enumerate(golden.info["generate"]):
        slots = SLOTS[each["kind"]]
        features = []
        if "video" in slots:
            with siglip.computing() as network:
                features.append(siglip.vectors(network, io[f"gen.{number}.video"]).flatten(0, 1)[None])
        if "audio" in slots:
            with beats.computing() as network:
                features.append(network(io[f"gen.{number}.fbank"]))
        tag = {"video": "<video>", "audio": "<audio>"}.get(each["modal"], "")
        for run in each["runs"]:
            model = make(*slots, penalty=run["repetition_penalty"])
            if isinstance(each["instruct"], str):
                prompt = build_prompt("official_eval", instruction(each["instruct"], "", tag), model.tokenizer, slots)
                assert ids_of(prompt, tag) == each["input_ids"]
            else:
                prompt = whole(each["prompt"], model.tokenizer, tag, each["kind"])
            (ids,) = model.generate([prompt], features, each["max_new_tokens"])
            assert ids == run["output_ids"]
            assert response(ids, model.tokenizer) == run["answer"]
        stop, head = each["stop"], model.llm.lm_head.weight
        model.penalty = 1.0
        with torch.no_grad():
            head[end_id(model.tokenizer)] = stop["factor"] * head[stop["row"]]
        (ids,) = model.generate([prompt], features, each["max_new_tokens"])
        assert ids == stop["output_ids"]
        assert response(ids, model.tokenizer) == stop["answer"]


def test_checkpoints_go_in_and_out(golden, make, folder, tmp_path):
    model, fresh = make("video", "audio"), make("video", "audio", adapter=False)
    for out in (tmp_path / "lora", tmp_path / "out.pth"):
        export_official(model, out)
        report = import_official(out, fresh)
        assert not report.missing
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(model.kept(), fresh.kept(), strict=True))
    theirs = load_file(golden.folder / "adapter_model.safetensors")
    assert all(
        torch.equal(each, theirs[k]) for k, each in load_file(tmp_path / "lora" / "adapter_model.safetensors").items()
    )
    assert json.loads((tmp_path / "lora" / "config.json").read_text())["mm_projector_type"] == "stc_connector_v35"
    released = set(released_names(dict(model.kept())))
    assert {name for name in golden.info["state_dict_keys"] if "mm_projector" in name} <= released
    report = import_official(folder, fresh)
    assert all("lora_" in name for name in report.missing)
    assert {plain_name(name).split(".")[1] for name in report.ignored} >= {"layers", "audio_tower", "vision_tower"}


def test_files_of_one_part(golden, make, tmp_path):
    """`mm_projector_a.bin` alone: with the caller's word, as the rest stays fresh; `audio_tower.bin` is no part."""
    model = make("video", "audio", adapter=False)
    torch.save(
        {f"model.mm_{k}": v + 1 for k, v in part(golden, "model.mm_").items() if k.startswith("projector_a")},
        tmp_path / "mm_projector_a.bin",
    )
    with pytest.raises(ModelError, match="expected tensors missing"):
        import_official(tmp_path / "mm_projector_a.bin", model)
    report = import_official(tmp_path / "mm_projector_a.bin", model, allow_new=True)
    assert set(report.consumed) == {f"mm_projector_a.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")}
    torch.save({f"model.audio_tower.{k}": v for k, v in part(golden, "model.audio_tower.").items()}, tmp_path / "a.bin")
    with pytest.raises(ModelError, match="nothing of VideoLLaMA2"):
        import_official(tmp_path / "a.bin", model, allow_new=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsMissing, match="holds no checkpoint"):
        import_official(tmp_path / "empty", model)
