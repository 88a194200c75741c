"""Weights: listed, pulled from a hub (a stub on loopback that answers as the real one), checked by their headers."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest

from emo.extract.encoders.eva import Eva
from emo.extract.encoders.minilm import MiniLM
from emo.extract.encoders.registry import encoder_names
from emo.extract.weights_page import check_weights, list_weights, pull, wanted, weights_check_page
from emo.featstore.errors import ModelError, UsageError, WeightsMissing
from emo.featstore.sources import hub as module
from emo.featstore.sources.headers import inspect
from emo.featstore.sources.hub import Source, cached, choose_files
from emo.featstore.workspace import Workspace, load_workspace
from emo.train.llm.emotion_llama.sources import WEIGHTS

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def safetensors(numbers: int = 4) -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [numbers], "data_offsets": [0, 4 * numbers]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(4 * numbers)


# ---- the stub -------------------------------------------------------------------------------------------------------


class Request(NamedTuple):
    method: str
    host: str
    path: str
    range: str
    token: str


@dataclass
class Hub:
    """A hub with one repository, `owner/model`, whose large files lie on another host, as the real ones do."""

    files: dict[str, bytes]
    port: int = 0
    gated: bool = False
    ranges: bool = True
    cut_at: int | None = None  # close the connection once, after so many bytes of a large file
    corrupt: bool = False
    status: int = 0  # answer everything with it
    listed: list[str] = field(default_factory=list)  # listed, though absent
    seen: list[Request] = field(default_factory=list)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def of(self, method: str, prefix: str = "/") -> list[Request]:
        return [request for request in self.seen if request.method == method and request.path.startswith(prefix)]


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            headers = self.headers
            path = self.path.split("?")[0]
            token = headers.get("Authorization", "")
            hub.seen.append(Request(self.command, headers["Host"], path, headers.get("Range", ""), token))
            if hub.status:
                self.answer(hub.status)
            elif path.startswith("/cdn/"):
                name = path.removeprefix("/cdn/")
                self.body(hub.files[name], {"ETag": '"tag"'})
            elif not path.removeprefix("/api/models").startswith("/owner/model"):
                self.answer(404, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
            elif path.startswith("/api/models/"):
                names = [*hub.files, *hub.listed]
                listing = {"id": "owner/model", "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
                self.body(json.dumps(listing).encode(), {"Content-Type": "application/json"})
            elif hub.gated and token != "Bearer hf_good":
                self.answer(403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to model is restricted"})
            else:
                self.file(path.split("/resolve/")[1].split("/", 1)[1])

        def file(self, name: str) -> None:
            if name not in hub.files:
                self.answer(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
                return
            content = hub.files[name]
            if not name.endswith((".safetensors", ".bin")):  # small files lie in git
                sha1 = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
                self.body(content, {"ETag": f'"{sha1}"', "X-Repo-Commit": COMMIT})
                return
            linked = {"X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Linked-Size": str(len(content))}
            cdn = f"http://localhost:{hub.port}/cdn/{name}"
            self.answer(302, {"Location": cdn, "X-Repo-Commit": COMMIT, **linked})

        def answer(self, status: int, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {**(headers or {}), "Content-Length": "0"}.items():
                self.send_header(name, value)
            self.end_headers()

        def body(self, content: bytes, headers: dict[str, str]) -> None:
            start = int(self.headers.get("Range", "bytes=0-")[6:-1]) if hub.ranges else 0
            self.send_response(206 if start else 200)
            for name, value in headers.items():
                self.send_header(name, value)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            sent = content[start:]
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            if self.command == "HEAD":
                return
            if hub.corrupt and self.path.startswith("/cdn/"):
                sent = sent[:-1] + bytes([sent[-1] ^ 1])
            if hub.cut_at is not None and self.path.startswith("/cdn/"):
                sent, hub.cut_at = sent[: hub.cut_at], None
                self.close_connection = True
            self.wfile.write(sent)

    return Handler


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(module, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(module, "RETRY_WAIT_S", 0.0)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_IMPLICIT_TOKEN", True)  # never a real account's
    stub = Hub(
        {
            "config.json": b'{"hidden_size": 4}',
            "preprocessor_config.json": b"{}",
            "model.safetensors": safetensors(25_000),
            "pytorch_model.bin": b"old",
            "fairseq-ckpt.pt": b"other",
            "README.md": b"hello",
        }
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(stub))
    server.daemon_threads = True
    stub.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield stub
    server.shutdown()
    server.server_close()
    thread.join()


def workspace(folder: Path, **weights: str) -> Workspace:
    lines = "\n".join(f'"{name.replace("__", "-")}" = "{value}"' for name, value in weights.items())
    (folder / "emo.toml").write_text(f"[weights]\n{lines}\n", encoding="utf-8")
    return load_workspace(folder)


def extracting(folder: Path, *encoders: str) -> Workspace:
    (folder / "emo.toml").write_text(f"[extract]\nencoders = {list(encoders)}\n", encoding="utf-8")
    return load_workspace(folder)


# ---- pull -----------------------------------------------------------------------------------------------------------


def test_pull_fetches_what_a_loader_needs(hub: Hub, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    folder = pull("owner/model", tmp_path / "m", endpoint=hub.endpoint, on_progress=lambda *report: seen.append(report))
    assert folder == tmp_path / "m"
    assert {path.name for path in folder.iterdir()} == {"config.json", "preprocessor_config.json", "model.safetensors"}
    assert (folder / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
    assert inspect(folder).status == "ok"
    reports = [report for report in seen if report[0] == "model.safetensors"]
    size = len(hub.files["model.safetensors"])
    assert reports[0][1:] == (0, size)
    assert reports[-1][1:] == (size, size)
    assert [done for _, done, _ in reports] == sorted(done for _, done, _ in reports)
    assert len(reports) > 50


def test_pulled_weights_are_found_by_id_in_the_cache(hub: Hub, tmp_path: Path) -> None:
    from huggingface_hub import snapshot_download

    folder = pull("owner/model", endpoint=hub.endpoint, cache=tmp_path / "cache")
    found = snapshot_download("owner/model", cache_dir=tmp_path / "cache", local_files_only=True)
    assert Path(found) == folder
    assert folder.name == COMMIT
    assert inspect(folder).status == "ok"
    assert len(hub.of("GET", "/cdn/")) == 1  # huggingface_hub found the content and did not fetch it again


def test_pulling_again_fetches_nothing(hub: Hub, tmp_path: Path) -> None:
    pull("owner/model", tmp_path, endpoint=hub.endpoint)
    fetched = len(hub.of("GET", "/cdn/"))
    pull("owner/model", tmp_path, endpoint=hub.endpoint)
    assert len(hub.of("GET", "/cdn/")) == fetched == 1


@pytest.mark.parametrize("place", ["folder", "cache"])
def test_a_broken_download_goes_on_in_the_next_call(hub: Hub, tmp_path: Path, place: str) -> None:
    where = {"dest": tmp_path / "m"} if place == "folder" else {"cache": tmp_path / "c"}
    hub.cut_at = 60_000
    with pytest.raises(ModelError, match=r"connection broke at model.safetensors, byte 60,000 of 100,0\d\d") as caught:
        pull("owner/model", endpoint=hub.endpoint, retries=0, **where)
    assert "goes on from there" in caught.value.hint
    folder = pull("owner/model", endpoint=hub.endpoint, retries=0, **where)
    assert (folder / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
    assert [request.range for request in hub.of("GET", "/cdn/")] == ["", "bytes=60000-"]
    assert not list(tmp_path.rglob("*.part"))


def test_a_broken_connection_is_taken_up_within_one_call(hub: Hub, tmp_path: Path) -> None:
    hub.cut_at = 60_000
    folder = pull("owner/model", tmp_path, endpoint=hub.endpoint)
    assert (folder / "model.safetensors").read_bytes() == hub.files["model.safetensors"]


def test_a_server_without_ranges_starts_over(hub: Hub, tmp_path: Path) -> None:
    hub.cut_at, hub.ranges = 60_000, False
    folder = pull("owner/model", tmp_path, endpoint=hub.endpoint)
    assert (folder / "model.safetensors").read_bytes() == hub.files["model.safetensors"]


def test_a_part_of_another_version_is_not_continued(hub: Hub, tmp_path: Path) -> None:
    hub.cut_at = 60_000
    with pytest.raises(ModelError, match="connection broke"):
        pull("owner/model", tmp_path, endpoint=hub.endpoint, retries=0)
    hub.files["model.safetensors"] = safetensors(25_000)[:-4] + b"abcd"
    folder = pull("owner/model", tmp_path, endpoint=hub.endpoint)
    assert (folder / "model.safetensors").read_bytes() == hub.files["model.safetensors"]


def test_wrong_bytes_are_refused_and_thrown_away(hub: Hub, tmp_path: Path) -> None:
    hub.corrupt = True
    with pytest.raises(ModelError, match="came damaged"):
        pull("owner/model", tmp_path, endpoint=hub.endpoint)
    assert not (tmp_path / "model.safetensors").exists()
    hub.corrupt = False
    assert inspect(pull("owner/model", tmp_path, endpoint=hub.endpoint)).status == "ok"


def test_gated_weights_say_licence_and_login(hub: Hub, tmp_path: Path) -> None:
    hub.gated = True
    with pytest.raises(WeightsMissing, match=r"owner/model is gated.*https://huggingface.co/owner/model, .*auth login"):
        pull("owner/model", tmp_path, endpoint=hub.endpoint, token="hf_bad")
    folder = pull("owner/model", tmp_path, endpoint=hub.endpoint, token="hf_good")
    assert inspect(folder).status == "ok"


def test_the_token_stays_on_the_hub(hub: Hub, tmp_path: Path) -> None:
    pull("owner/model", tmp_path, endpoint=hub.endpoint, token="hf_good")
    assert hub.of("GET", "/owner/")[0].token == "Bearer hf_good"
    assert {request.token for request in hub.of("GET", "/cdn/")} == {""}


def test_unknown_repository_is_a_sentence(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match=r"no model owner/modle, or it is private") as caught:
        pull("owner/modle", tmp_path, endpoint=hub.endpoint)
    assert caught.value.exit_code == 5
    assert isinstance(caught.value, FileNotFoundError)


def test_a_listed_file_that_is_missing_is_a_sentence(hub: Hub, tmp_path: Path) -> None:
    hub.listed = ["model-2.safetensors"]
    with pytest.raises(WeightsMissing, match=r"lists a file that it does not have.*model-2"):
        pull("owner/model", tmp_path, endpoint=hub.endpoint)


def test_a_repository_without_weights_is_a_sentence(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"README.md": b"", "fairseq-ckpt.pt": b"x"}
    with pytest.raises(WeightsMissing, match="holds no weights"):
        pull("owner/model", tmp_path, endpoint=hub.endpoint)


def test_names_that_leave_the_folder_are_not_fetched(hub: Hub, tmp_path: Path) -> None:
    hub.files["../evil.json"] = b"{}"
    pull("owner/model", tmp_path / "m", endpoint=hub.endpoint)
    assert not (tmp_path / "evil.json").exists()


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_hub_in_trouble_is_a_sentence(hub: Hub, tmp_path: Path, status: int) -> None:
    hub.status = status
    with pytest.raises(ModelError, match=f"{status}.*Try again later"):
        pull("owner/model", tmp_path, endpoint=hub.endpoint)


def test_a_hub_that_cannot_be_reached_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"owner/model cannot be reached.*HF_ENDPOINT"):
        pull("owner/model", tmp_path, endpoint="http://127.0.0.1:1")


def test_too_little_space_is_said_before_anything_is_fetched(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ModelError, match=r"has 1.0 kB free, and 100.1 kB are to come"):
        pull("owner/model", tmp_path, endpoint=hub.endpoint)
    assert hub.of("GET", "/cdn/") == []


def test_a_plain_address_is_pulled_and_continued(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.files["eva.pth"] = safetensors(25_000)
    monkeypatch.setattr(Eva, "source", Source(url=f"{hub.endpoint}/cdn/eva.pth", file="eva.pth"))
    place = workspace(tmp_path, eva_g_448="checkpoints/eva.pth")
    hub.cut_at = 60_000
    with pytest.raises(ModelError, match="connection broke"):
        pull("eva_g_448", workspace=place, retries=0)
    path = pull("eva_g_448", workspace=place, retries=0)
    assert path == tmp_path.resolve() / "checkpoints" / "eva.pth"
    assert path.read_bytes() == hub.files["eva.pth"]
    assert hub.of("GET", "/cdn/eva")[-1].range == "bytes=60000-"
    with pytest.raises(UsageError, match="needs a place"):
        pull("eva_g_448")


def test_an_address_that_gives_a_web_page_is_a_sentence(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.files["eva.pth"] = b"<!DOCTYPE html><html>confirm"
    monkeypatch.setattr(Eva, "source", Source(url=f"{hub.endpoint}/cdn/eva.pth", file="e.pth"))
    with pytest.raises(ModelError, match="is a web page"):
        pull("eva_g_448", tmp_path)


def test_what_a_name_means_comes_from_the_workspace(hub: Hub, tmp_path: Path) -> None:
    place = workspace(tmp_path, HL__UTT="owner/model")
    folder = pull("HL-UTT", workspace=place, endpoint=hub.endpoint, cache=tmp_path / "cache")
    assert "models--owner--model" in folder.parts
    local = workspace(tmp_path, HL__UTT="checkpoints/hubert")
    with pytest.raises(WeightsMissing, match="TencentGameMate"):  # the published id; the stub does not have it
        pull("HL-UTT", workspace=local, endpoint=hub.endpoint)
    single = workspace(tmp_path, HL__UTT="checkpoints/hubert.bin")
    with pytest.raises(UsageError, match="is a folder of files"):
        pull("HL-UTT", workspace=single, endpoint=hub.endpoint)


@pytest.mark.parametrize("name", ["mae_340_UTT", "maeV_399_UTT", "minigpt_v2"])
def test_weights_that_only_their_authors_have_say_where(name: str) -> None:
    with pytest.raises(WeightsMissing, match=r"cannot be pulled\. Get .* by hand"):
        pull(name, others=WEIGHTS)


def test_a_name_that_means_nothing_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no weights called 'nonsense'; known are HL-UTT"):
        pull("nonsense")
    with pytest.raises(WeightsMissing, match="nothing says where to pull it from"):
        pull("mine", workspace=workspace(tmp_path, mine="checkpoints/x.pth"))


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["config.json", "model.safetensors", "pytorch_model.bin"], ["config.json", "model.safetensors"]),
        (
            ["pytorch_model.bin.index.json", "pytorch_model-1.bin", "tokenizer.model", "original/x.pth", "a.pt"],
            ["pytorch_model.bin.index.json", "tokenizer.model", "pytorch_model-1.bin"],
        ),
        (
            ["model.safetensors.index.json", "pytorch_model.bin.index.json", "model-1.safetensors"],
            ["model.safetensors.index.json", "model-1.safetensors"],
        ),
        (["weights.pth", ".gitattributes"], ["weights.pth"]),
        (["config.json", "tf_model.h5"], []),
    ],
)
def test_one_family_of_tensors_is_enough(names: list[str], chosen: list[str]) -> None:
    assert choose_files(names) == chosen


# ---- list and check -------------------------------------------------------------------------------------------------


def test_list_says_what_is_present_missing_and_not_configured(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(b"12345")
    place = workspace(tmp_path, mae_340_UTT="a.pth", eva_g_448="no.pth", other="b.pth")
    rows = {row.name: row for row in list_weights(place, WEIGHTS)}
    assert {*encoder_names(), *WEIGHTS} <= set(rows)
    assert (rows["mae_340_UTT"].status, rows["mae_340_UTT"].size_bytes) == ("present", 5)
    assert (rows["eva_g_448"].status, rows["eva_g_448"].how) == ("missing", "Run `emo weights pull eva_g_448`.")
    assert rows["maeV_399_UTT"].status == "not configured"
    assert "Google Drive" in rows["maeV_399_UTT"].how
    assert rows["other"].how.startswith("Correct its path")


def test_list_finds_an_id_in_the_cache(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    place = workspace(tmp_path, HL__UTT="owner/model")
    assert {row.name: row.status for row in list_weights(place)}["HL-UTT"] == "missing"
    folder = pull("HL-UTT", workspace=place, endpoint=hub.endpoint)
    row = {row.name: row for row in list_weights(place)}["HL-UTT"]
    assert (row.status, row.path) == ("present", folder)
    assert dict(check_weights(place))["HL-UTT"].status == "ok"


def test_a_half_fetched_id_is_missing_for_everybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its config.json is in the cache, and one of two shards."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "cache/models--owner--model/snapshots" / COMMIT
    folder.mkdir(parents=True)
    (tmp_path / "cache/models--owner--model/refs").mkdir()
    (tmp_path / "cache/models--owner--model/refs/main").write_text(COMMIT)
    (folder / "config.json").write_text("{}")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model-1.safetensors").write_bytes(safetensors())
    place = workspace(tmp_path, HL__UTT="owner/model")
    assert cached("owner/model") is None
    assert {row.name: row.status for row in list_weights(place)}["HL-UTT"] == "missing"
    (folder / "model-2.safetensors").write_bytes(safetensors())
    assert cached("owner/model") == folder
    assert {row.name: row.status for row in list_weights(place)}["HL-UTT"] == "present"


def test_a_pinned_version_and_a_pinned_file_are_what_is_fetched(hub: Hub, tmp_path: Path) -> None:
    module.fetch(Source(hub="owner/model", revision="v2"), tmp_path / "m", endpoint=hub.endpoint)
    assert [request.path for request in hub.of("GET", "/api/")] == ["/api/models/owner/model/revision/v2"]
    hub.files["eva.pth"] = safetensors(25_000)
    url = f"{hub.endpoint}/cdn/eva.pth"
    with pytest.raises(ModelError, match="came damaged"):
        module.fetch(Source(url=url, file="eva.pth", sha256="0" * 64), tmp_path)
    right = hashlib.sha256(hub.files["eva.pth"]).hexdigest()
    assert module.fetch(Source(url=url, file="eva.pth", sha256=right), tmp_path).read_bytes() == hub.files["eva.pth"]


def test_check_covers_configured_and_wanted_weights(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(safetensors())
    (tmp_path / "b.safetensors").write_bytes(safetensors()[:-1])
    checks = dict(check_weights(workspace(tmp_path, mae_340_UTT="a.safetensors", llama="b.safetensors"), WEIGHTS))
    assert checks["mae_340_UTT"].status == "ok"
    assert checks["llama"].status == "damaged"
    assert checks["HL-UTT"].status == "not configured"
    assert "minigpt_v2" not in checks  # neither configured nor wanted


def test_an_installed_package_counts_as_present(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(safetensors())
    monkeypatch.setattr(MiniLM, "installed", lambda: str(tmp_path))
    name = "all-MiniLM-L6-v2-UTT"
    assert MiniLM.source.hub == "sentence-transformers/all-MiniLM-L6-v2"
    row = {row.name: row for row in list_weights(workspace(tmp_path))}[name]
    assert (row.status, row.path, row.how) == ("present", tmp_path, "")
    assert name not in dict(check_weights(workspace(tmp_path)))  # not wanted
    place = extracting(tmp_path, "minilm")
    assert {each: look.status for each, look in check_weights(place)} == {name: "ok"}
    configured = workspace(tmp_path, **{name: "no/where"})  # which then counts
    assert {row.name: row.status for row in list_weights(configured)}[name] == "missing"
    monkeypatch.setattr(MiniLM, "installed", lambda: None)
    assert {each: look.status for each, look in check_weights(place)} == {name: "not configured"}
    assert dict(check_weights(place))[name].do == f"Run `emo weights pull {name}`."


def test_what_is_computed_without_a_network_needs_no_weights(tmp_path: Path) -> None:
    place = extracting(tmp_path, "egemaps")
    row = {row.name: row for row in list_weights(place)}["eGeMAPS_UTT"]
    assert (row.status, row.how) == ("not needed", "")
    assert {name: look.status for name, look in check_weights(place)} == {"eGeMAPS_UTT": "ok"}
    assert weights_check_page(place).exit_code == 0


def test_an_alias_means_the_same_weights(tmp_path: Path) -> None:
    assert wanted(extracting(tmp_path, "hubert", "HL-UTT", "mae_340_FRA", "of a third party")) == [
        "HL-UTT",
        "mae_340_UTT",
        "of a third party",
    ]


# ---- headers --------------------------------------------------------------------------------------------------------


def torch_zip(path: Path, tensors: int = 2) -> bytes:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        for index in range(tensors):
            archive.writestr(f"archive/data/{index}", bytes(400))
    return path.read_bytes()


def test_safetensors_are_judged_by_their_header(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    whole = safetensors(1000)
    path.write_bytes(whole)
    assert inspect(path).status == "ok"
    assert "1 tensors" in inspect(path).what
    path.write_bytes(whole[:-1])
    assert inspect(path).what == f"m.safetensors is truncated: {len(whole) - 1:,} of {len(whole):,} bytes."
    path.write_bytes(whole + b"x")
    assert "1 bytes after its last tensor" in inspect(path).what
    for length in (1, 7, 8, 20, len(whole) - 4001):
        path.write_bytes(whole[:length])
        assert inspect(path).status == "damaged", length


def test_torch_files_are_judged_by_their_directory(tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    whole = torch_zip(path)
    assert inspect(path).status == "ok"
    assert "2 stored tensors" in inspect(path).what
    for length in (4, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:length])
        assert inspect(path).status == "damaged", length
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "x")
    assert "not one of torch" in inspect(path).what


def test_a_real_torch_file_is_recognised(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"model": {"w": torch.zeros(3), "b": torch.ones(2)}}, tmp_path / "new.pth")
    assert "2 stored tensors" in inspect(tmp_path / "new.pth").what
    torch.save({"w": torch.zeros(3)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert inspect(tmp_path / "old.pth").status == "unchecked"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\n<!DOCTYPE html><html>Google Drive", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "Git LFS pointer"),
        (b"hello, world", "neither safetensors nor a torch file"),
    ],
)
def test_what_is_no_weights_file_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "m.pth").write_bytes(content)
    look = inspect(tmp_path / "m.pth")
    assert look.status == "damaged"
    assert said in look.what
    assert look.do


def test_folders_are_judged_whole(tmp_path: Path) -> None:
    assert "no config.json" in inspect(tmp_path).what
    (tmp_path / "config.json").write_text("{}")
    assert inspect(tmp_path).status == "incomplete"
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "model-1.safetensors").write_bytes(safetensors())
    assert "lacks 1 of 2 shards: model-2.safetensors" in inspect(tmp_path).what
    (tmp_path / "model-2.safetensors").write_bytes(safetensors()[:-1])
    assert inspect(tmp_path).status == "damaged"
    (tmp_path / "model-2.safetensors").write_bytes(safetensors())
    assert (inspect(tmp_path).status, inspect(tmp_path).what[:8]) == ("ok", "2 shards")
    (tmp_path / "config.json").write_text("{")
    assert inspect(tmp_path).status == "damaged"


def test_absent_weights_are_missing(tmp_path: Path) -> None:
    assert inspect(tmp_path / "no.pth").status == "missing"
