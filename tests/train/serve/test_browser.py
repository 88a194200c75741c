"""The page in a real browser: headless Chromium, driven by Selenium; skipped with a reason where there is none."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from serving import SPEC, served_at

from emo.extract.demo import generate_clip
from emo.featstore.clip import FileId
from emo.featstore.document import write_parts
from emo.featstore.errors import MediaError
from emo.featstore.page import Table
from emo.featstore.storage.store import Store
from emo.featstore.workspace import Workspace

pytest.importorskip("selenium", reason="selenium is not installed")

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="no chromium and chromedriver here: Debian has chromium, chromium-driver"
)
VIEWS = ("ask", "clips", "matrix", "map", "compare", "annotate", "jobs")
PATIENCE_S = 120


@contextmanager
def chromium(*flags: str) -> Iterator[Any]:
    """Start a browser; it ends with the block."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--lang=en", *flags):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        yield made
    finally:
        made.quit()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as made:
        yield made


class Seen:
    """A browser at one address, and what it has said since it was last asked."""

    def __init__(self, browser: Any, address: str) -> None:
        self.browser, self.address = browser, address

    def open(self, path: str, width: int = 1280, height: int = 720) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.browser.get(self.address + path)

    def keep(self, **values: str) -> None:
        """Set what the page remembers in the browser."""
        self.browser.get(self.address)
        for name, value in values.items():
            self.browser.execute_script(f"localStorage.setItem('emo-{name}', arguments[0])", value)

    def wait(self, css: str) -> Any:
        """Wait for an element and return it."""
        found = (By.CSS_SELECTOR, css)
        WebDriverWait(self.browser, PATIENCE_S).until(lambda browser: browser.find_elements(*found), css)
        return self.browser.find_element(*found)

    def all(self, css: str) -> list[Any]:
        return list(self.browser.find_elements(By.CSS_SELECTOR, css))

    def texts(self, css: str) -> list[str]:
        """Return the texts of all elements at one moment."""
        script = "return [...document.querySelectorAll(arguments[0])].map((each) => each.textContent)"
        return list(self.browser.execute_script(script, css))

    def until(self, true: Any) -> None:
        WebDriverWait(self.browser, PATIENCE_S).until(lambda _: true())

    def press(self, keys: str) -> None:
        self.browser.find_element(By.TAG_NAME, "body").send_keys(keys)

    def complaints(self) -> list[str]:
        return [each["message"] for each in self.browser.get_log("browser") if each["level"] in ("SEVERE", "WARNING")]

    def hosts(self) -> set[str]:
        """Return the hosts of all requests since the last call."""
        found = set()
        for each in self.browser.get_log("performance"):
            message = json.loads(each["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                url = message["params"]["request"]["url"]
                if url.startswith(("http", "ws")):
                    found.add(url.split("/")[2])
        return found


def watched(browser: Any, address: str, expected: Callable[[str], bool] = lambda complaint: False) -> Iterator[Seen]:
    """The page in English; afterwards it has asked no other host, and complained of nothing but what is expected."""
    made = Seen(browser, address)
    made.keep(language="en", theme="light", annotator="")
    yield made
    assert [each for each in made.complaints() if not expected(each)] == []
    assert made.hosts() <= {address.split("/")[2]}


@pytest.fixture
def seen(browser: Any, address: str) -> Iterator[Seen]:
    yield from watched(browser, address)


def real_or_drawn(tmp_path: Path) -> Path:
    """Return a real clip where there are some, else a drawn one."""
    real = Path(__file__).resolve().parents[4] / "shared" / "data" / "mer2023" / "clips" / "sample_00000669.mp4"
    if real.is_file():
        return real
    generate_clip(tmp_path / "drawn.mp4", "surprise", seed=5)
    return tmp_path / "drawn.mp4"


def test_a_file_is_sent_and_answered_and_its_parts_can_be_switched(seen: Seen, tmp_path: Path) -> None:
    clip = real_or_drawn(tmp_path)
    seen.open("?view=ask")
    seen.wait("#file").send_keys(str(clip))
    seen.wait(".stages li")
    seen.wait(".timeline")
    assert all(seen.texts(".answer"))
    shares = [float(each.split()[0]) for each in seen.texts(".bars .share")]
    assert len(shares) == 6
    assert sum(shares) == pytest.approx(100, abs=1)
    seen.wait(".timeline")
    longest = "return Number(document.querySelector('.timeline').getAttribute('aria-valuemax'))"
    assert seen.browser.execute_script(longest) > 0.5
    inked = (
        "const canvas = document.querySelector('.timeline canvas');"
        "const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);"
        "return data.some(Boolean)"
    )
    seen.until(lambda: seen.browser.execute_script(inked))
    seen.wait(".timeline + p")
    if any(each.startswith("peak frame") for each in seen.texts("button")):
        seen.press("p")
        now = "return Number(document.querySelector('.timeline').getAttribute('aria-valuenow'))"
        seen.until(lambda: seen.browser.execute_script(now) > 0)
    before = seen.texts(".bars .share")
    seen.wait("[data-part=audio]").click()
    seen.until(lambda: any("→" in each for each in seen.texts(".bars .share")))
    assert seen.wait("[data-part=audio]").get_attribute("aria-checked") == "false"
    assert seen.texts(".bars .share") != before
    assert f"clip={clip.stem}%40" in seen.browser.current_url
    seen.browser.refresh()  # the link holds; the file is gone, and the page says so
    seen.wait(".answer")
    seen.until(lambda: any("not kept" in each for each in seen.texts(".player")))
    seen.complaints()


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no ffmpeg here: it makes the pictures of the camera")
def test_what_the_webcam_sees_is_recorded_and_answered(address: str, tmp_path: Path) -> None:
    """A browser whose camera shows a clip, over and over; MediaRecorder writes files without a length."""
    seen_by_it = tmp_path / "camera.mjpeg"
    picture = ["-vf", "scale=640:480", "-r", "30", "-q:v", "3", "-f", "mjpeg"]
    made = subprocess.run(["ffmpeg", "-v", "error", "-i", real_or_drawn(tmp_path), "-an", *picture, seen_by_it])
    assert made.returncode == 0
    device = ("--use-fake-device-for-media-stream", f"--use-file-for-fake-video-capture={seen_by_it}")
    with chromium("--use-fake-ui-for-media-stream", *device) as browser:
        page = Seen(browser, address)
        page.keep(language="en", theme="light", annotator="")
        page.open("?view=ask")
        page.until(lambda: "Use the webcam" in page.texts("button"))
        next(each for each in page.all("button") if each.text == "Use the webcam").click()
        page.until(lambda: "Record" in page.texts("button"))
        next(each for each in page.all("button") if each.text == "Record").click()
        time.sleep(2.5)
        next(each for each in page.all("button") if each.text == "Stop and ask").click()
        page.wait(".answer")
        page.until(lambda: all(page.texts(".answer")))
        assert len(page.texts(".bars .share")) == 6
        assert "clip=webcam%40" in browser.current_url
        assert page.complaints() == []


def test_a_cell_of_the_matrix_opens_its_clips_and_filters_hold(seen: Seen) -> None:
    seen.open("?view=matrix")
    seen.wait(".matrix td a")
    cell = next(each for each in seen.all(".matrix td a") if each.text != "0")
    n = int(cell.text)
    cell.click()
    seen.until(lambda: len(seen.all(".clips tbody tr")) == n)
    assert "label=" in seen.browser.current_url
    assert "prediction=" in seen.browser.current_url
    seen.browser.back()
    seen.wait(".matrix")
    seen.open("?view=clips")
    seen.wait("input[type=search]").send_keys("demo_0003", Keys.ENTER)
    seen.until(lambda: len(seen.all(".clips tbody tr")) == 1)


def test_labels_by_key_are_there_after_a_reload(seen: Seen) -> None:
    seen.keep(annotator="carla")
    seen.open("?view=annotate&clip=demo_0004")
    seen.wait(".keys button")
    seen.press("3")
    label = seen.wait(".keys [aria-pressed=true]").get_attribute("data-label")
    assert seen.wait(".keys [aria-pressed=true] kbd").text == "3"
    seen.browser.refresh()
    assert seen.wait(".keys [aria-pressed=true]").get_attribute("data-label") == label
    seen.press("0")
    seen.until(lambda: not seen.all(".keys [aria-pressed=true]"))
    seen.press("j")
    seen.until(lambda: "clip=demo_0004" not in seen.browser.current_url)


def test_fields_of_an_annotation_are_edited_and_are_there_after_a_reload(seen: Seen) -> None:
    fields = {
        **{"AU_list": "AU04, AU15", "visual_prior_list": "Frowns furrowed, Lip corners down", "peak_index": "7"},
        **{"audio_prior_list": "a low voice", "peak_AU_list": "AU04", "pseu_emotion": "angry", "text": "No!"},
        "smp_reason_caption": "A frown, and a low voice.",
    }

    def shown() -> dict[str, str]:
        seen.open("?view=annotate&clip=demo_0006")
        seen.wait("details.card summary").click()
        seen.wait(".fields textarea")
        return {each.get_attribute("name"): each.get_attribute("value") for each in seen.all(".fields textarea")}

    seen.keep(annotator="cat")
    assert shown() == dict.fromkeys(fields, "")
    for area in seen.all(".fields textarea"):
        area.send_keys(fields[area.get_attribute("name")])
    seen.wait(".fields button.main").click()
    seen.wait(".fields .good")
    assert shown() == fields


def test_what_the_server_says_often_is_said_in_chinese(seen: Seen, demo_copy: Workspace, head: str) -> None:
    other = next(each.name for each in (demo_copy.root / "runs").iterdir() if each.name != head)
    seen.keep(language="zh")
    for path, css in (("map", "#view p[lang]"), (f"compare&differs={other}", "#view p.warning"), ("jobs", "td .good")):
        seen.open(f"?view={path}")
        said = seen.wait(css)
        assert re.search("[\u4e00-\u9fff]", said.text), said.text
    seen.keep(language="en")
    seen.open("?view=map")
    assert seen.wait("#view p[lang]").text.startswith("Two principal components")


LONG = [f"session_{i:08d}_of_interview_{i:08d}" for i in range(660, 670)]


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a workspace of clips with long names is served, of which each lacks its feature; there is no run."""
    folder = tmp_path_factory.mktemp("failing")
    (folder / "emo.toml").write_text('[store]\npath = "s.emo"\n[data.few]\nroot = "data"\nkind = "folder"\n')
    (folder / "data").mkdir()
    (folder / "data" / "labels.csv").write_text("".join(["name,emotion\n", *(f"{name},sad\n" for name in LONG)]))
    with Store.create(folder / "s.emo").writer() as writer:
        for i, name in enumerate(LONG):
            kind = ("no-face", "unreadable", "of-a-plugin")[i % 3]
            writer.clip(name, FileId(f"{i:032x}", 1, 1))
            writer.fail(SPEC, name, MediaError(kind, "It says why."))
    with served_at(folder) as address:
        yield address


@pytest.fixture
def lacking(browser: Any, failing: str) -> Iterator[Seen]:
    yield from watched(browser, failing, lambda complaint: "status of 40" in complaint)


def test_failures_and_errors_are_told_in_chinese(lacking: Seen) -> None:
    seen = lacking
    seen.keep(language="zh")
    seen.open("?view=clips")
    seen.wait(".clips tbody tr")
    cells = " ".join(seen.texts(".clips td"))
    options = " ".join(seen.texts(".filters option"))
    for shown in (cells, options):
        assert "没有人脸 no-face" in shown
        assert "无法读取 unreadable" in shown
        assert "of-a-plugin" in shown  # a kind that the page does not know stays as it is
    seen.open(f"?view=ask&clip={LONG[0]}")
    seen.until(lambda: any("文件不在这里。" in each for each in seen.texts("[lang=zh]")))
    assert not [each for each in seen.texts("#view [lang=en]") if each.startswith(("There ", "No feature "))]
    seen.open("?view=ask&clip=nobody")
    assert seen.wait(".error").text.splitlines() == ["这个工作区里没有片段 nobody。", "GET /api/clips 会列出所有片段。"]
    seen.open("?view=map")
    assert seen.wait(".error").text.splitlines() == [
        "特征库里没有任何整段特征覆盖至少三个片段。",
        "请先运行 emo extract。",
    ]
    why = "import('/static/js/i18n.js').then(({ why }) => arguments[1](why(arguments[0])))"
    told = seen.browser.execute_async_script(why, "no-face: No face was found.")
    assert told == {"kind": "没有人脸 no-face：", "lang": "en", "words": "No face was found."}
    assert seen.browser.execute_async_script(why, "it was not extracted")["words"] == "还没有提取"
    seen.keep(language="en")
    seen.open("?view=ask&clip=nobody")
    assert seen.wait(".error").text.splitlines()[0] == "'nobody' is no clip of this workspace."


@pytest.mark.parametrize("width", [390, 1280])
def test_a_name_is_broken_between_its_parts(lacking: Seen, width: int) -> None:
    """No word and no number in a name goes over two lines, in a list, a grid or a choice of clips."""
    broken = (
        "return [...document.querySelectorAll(arguments[0])].flatMap((each) => [...each.childNodes])"
        ".filter((each) => { const range = document.createRange(); range.selectNodeContents(each);"
        "return each.nodeType === 3 && range.getClientRects().length > 1; }).map((each) => each.data)"
    )
    seen = lacking
    for view, css in (("clips", ".clips td a"), ("clips&look=grid", ".tile strong"), ("ask", ".near strong")):
        seen.open(f"?view={view}", width=width)
        seen.wait(css)
        assert seen.texts(css)[0] == LONG[0]
        assert seen.browser.execute_script(broken, css) == [], view
        assert seen.browser.execute_script("return document.documentElement.scrollWidth") <= width, view


def test_the_last_tick_of_the_reliability_curve_is_whole(seen: Seen) -> None:
    seen.open("?view=matrix")
    seen.wait("canvas")
    inked = (
        "const canvas = document.querySelector('canvas'), width = arguments[0] ? 3 : canvas.width;"
        "const { data } = canvas.getContext('2d').getImageData(canvas.width - width, 0, width, canvas.height);"
        "return data.some(Boolean)"
    )
    seen.until(lambda: seen.browser.execute_script(inked, False))
    assert not seen.browser.execute_script(inked, True)  # its right edge is free
    seen.complaints()  # that a canvas is read


def test_a_name_without_parts_stays_on_the_page(seen: Seen) -> None:
    for width in (1280, 768, 390):
        seen.open("?clip=demo_0001", width=width)
        seen.wait(".answer")
        seen.browser.execute_script("document.querySelector('.card h1').textContent = 'x'.repeat(150)")
        assert seen.browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_whoever_uses_keys_alone_sees_and_keeps_the_place(seen: Seen) -> None:
    seen.open("")
    field = seen.wait("#file")
    seen.browser.execute_script("arguments[0].focus({ focusVisible: true })", field)
    style = "return getComputedStyle(document.querySelector('label[for=file]')).outlineStyle"
    assert seen.browser.execute_script(style) == "solid"
    seen.open("?view=clips")
    box = seen.wait("select[data-keep=split]")
    seen.browser.execute_script("arguments[0].focus()", box)
    box.send_keys(Keys.ARROW_DOWN)
    seen.until(lambda: "split=" in seen.browser.current_url)
    held = "return document.activeElement.dataset.keep"
    seen.until(lambda: seen.browser.execute_script(held) == "split")


def test_runs_that_come_and_go_are_seen_at_the_next_view(seen: Seen, demo_copy: Workspace, head: str) -> None:
    runs = demo_copy.root / "runs"

    def names() -> list[str]:
        return seen.texts("#run option")

    seen.open(f"?view=clips&run={head}")
    seen.wait("#run option")
    shutil.copytree(runs / head, runs / "copied")
    try:
        seen.wait("nav a[href*=matrix]").click()
        seen.until(lambda: "copied" in names())
        seen.open("?view=clips&run=copied")
        seen.wait("tbody tr")
        seen.browser.execute_script("history.replaceState(null, '', '/?view=clips')")
    finally:
        shutil.rmtree(runs / "copied")
    seen.wait("[data-keep=grid]").click()  # the run is gone, and no link names it
    seen.wait(".tile")
    assert "copied" not in names()
    seen.complaints()  # that a run was asked for that is gone


def test_tables_of_a_report_fit_a_phone(seen: Seen, tmp_path: Path) -> None:
    words = ("angry", "happy", "neutral", "sad", "surprise", "worried")
    rows = [(word, *[f"{10 * i:.1f}" for i in range(6)]) for word in words]
    table = Table("Confusion in per cent", ("truth \\ answer", *words), rows, words)
    write_parts(tmp_path / "report", {}, "A list", "F1", [], [table])
    seen.browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    )
    seen.browser.get((tmp_path / "report" / "report.html").as_uri())
    box = "const box = document.querySelector('.scroll'); return box.scrollWidth - box.clientWidth"
    assert seen.browser.execute_script(box) == 0


def test_chinese_and_a_phone(seen: Seen) -> None:
    seen.keep(language="zh")
    for view in VIEWS:
        path = f"?view={view}" + ("&clip=demo_0001" if view == "ask" else "")
        seen.open(path, width=390, height=844)
        seen.wait("#view .card h1")
        seen.wait(f"nav a[aria-current=page][href*={view}]")
        assert re.search("[\u4e00-\u9fff]", seen.wait("nav").text)
        assert seen.browser.execute_script("return document.documentElement.scrollWidth") <= 390, view
    seen.keep(language="en")


def test_nothing_serious_stands_between_the_page_and_anybody(seen: Seen) -> None:
    axe = pytest.importorskip("axe_core_python", reason="axe-core-python is not installed")
    script = (Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    for theme in ("light", "dark"):
        seen.keep(theme=theme)
        for view in VIEWS:
            seen.open(f"?view={view}" + ("&clip=demo_0001" if view == "ask" else ""))
            seen.wait(".answer" if view == "ask" else "#view .card h1")
            time.sleep(0.2)
            seen.browser.execute_script(script)
            found = seen.browser.execute_async_script("axe.run().then(arguments[0])")
            assert len(found["passes"]) > 10
            serious = [
                (each["id"], [node["html"][:120] for node in each["nodes"]][:3])
                for each in found["violations"]
                if each["impact"] in ("serious", "critical")
            ]
            assert serious == [], (theme, view)
