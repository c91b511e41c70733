"""The page in a real browser: it renders at desktop and phone width, and its controls work. Skips without Chromium."""

import html as entities
import json
import re
import shutil
import subprocess

import pytest

from rlhf_recipes.report import pages

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
QUIET = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
QUIET += ["--disable-sync", "--no-first-run", "--hide-scrollbars"]

# Works the page as a reader would and leaves what happened in the title.
READER = """<script>
const reader = {};
reader.shown = all(".answer").filter(a => !a.hidden).length;
const outcome = document.querySelector(".outcome");
if (outcome) {
  outcome.value = "loses to"; outcome.dispatchEvent(new Event("input"));
  reader.losses = all(".answer").filter(a => !a.hidden).every(a => a.dataset.outcome === "loses to");
}
const quantity_ = document.getElementById("quantity");
if (quantity_) {
  quantity_.value = "value"; quantity_.dispatchEvent(new Event("input"));
  const span = document.querySelector(".tokens span");
  reader.token = Number(span.dataset.value).toFixed(2) === span.querySelector("small").textContent;
}
const chart = document.querySelector("svg.chart"), box = chart.getBoundingClientRect();
chart.dispatchEvent(new PointerEvent("pointermove", {clientX: box.left + box.width * 0.6, clientY: box.top + 9}));
reader.readout = chart.parentElement.querySelector("output").textContent;
const heading = [...document.querySelectorAll("table.sortable th")].find(h => h.textContent.startsWith("KL"));
if (heading) {
  heading.querySelector("button").click(); heading.querySelector("button").click();
  reader.order = all("table.sortable tbody tr").map(r => r.cells[0].textContent);
}
document.getElementById("theme").click();
reader.theme = document.documentElement.dataset.theme;
reader.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
document.title = JSON.stringify(reader);
</script></body>"""


def chromium(tmp_path, *args):
    command = [CHROMIUM, *QUIET, f"--user-data-dir={tmp_path / 'profile'}", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def worked(page, tmp_path):
    page.write_text(page.read_text().replace("</body>", READER))
    done = chromium(tmp_path, "--enable-logging=stderr", "--dump-dom", "--window-size=1280,900", page.as_uri())
    assert "Uncaught" not in done.stderr and "Refused" not in done.stderr
    return json.loads(entities.unescape(re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)[1]))


def test_controls_of_a_report(run_dir, report, tmp_path):
    reader = worked(pages.write_html(report(run_dir), tmp_path / "r.html"), tmp_path)
    assert reader["shown"] == 10
    assert reader["losses"] and reader["token"]
    assert re.fullmatch(r"at [\d.]+: train [\d.]+ · held-out [\d.]+", reader["readout"])
    assert reader["theme"] == "light"
    assert reader["overflow"] == 0


def test_controls_of_a_comparison(sweep, report, tmp_path):
    reader = worked(pages.write_html(report(*sweep), tmp_path / "r.html"), tmp_path)
    assert reader["order"] == ["kl.sweep/2", "kl.sweep/1", "kl.sweep/0"]  # KL 8, 4, 2
    assert reader["overflow"] == 0


# Chromium's windows have a least width, a frame has none: the page in the frame tells its own overflow.
TELLS = """<script>
const page = document.documentElement, edge = page.clientWidth + 1, scrolls = e => e.closest(".scroll, nav, pre, svg");
const out = [...document.querySelectorAll("body *")].filter(e => !scrolls(e) && e.getBoundingClientRect().right > edge);
parent.postMessage(JSON.stringify({width: page.clientWidth, overflow: page.scrollWidth - page.clientWidth,
  out: out.map(e => e.outerHTML.slice(0, 60))}), "*");
</script></body>"""
FRAME = """<!doctype html><title>waiting</title><script>onmessage = e => document.title = e.data</script>
<body style="margin:0"><iframe src="{}" style="border:0;width:390px;height:900px"></iframe>"""


def test_nothing_sticks_out_on_a_phone(run_dir, sweep, report, tmp_path):
    shutil.copytree(sweep[0].parent, named := tmp_path / "a_run_of_a_longer_name.sweep")  # its name is in the filters
    for name, runs in (("one", [run_dir]), ("several", sorted(named.iterdir()))):
        page = pages.write_html(report(*runs), tmp_path / f"{name}.html")
        page.write_text(page.read_text().replace("</body>", TELLS))
        (tmp_path / "frame.html").write_text(FRAME.format(page.as_uri()))
        done = chromium(tmp_path, "--dump-dom", "--virtual-time-budget=2000", (tmp_path / "frame.html").as_uri())
        frame = json.loads(entities.unescape(re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)[1]))
        assert frame == {"width": 390, "overflow": 0, "out": []}, name


def test_printed_it_is_several_pages_of_text(run_dir, report, tmp_path):
    printed = tmp_path / "report.pdf"
    chromium(tmp_path, f"--print-to-pdf={printed}", pages.write_html(report(run_dir), tmp_path / "r.html").as_uri())
    content = printed.read_bytes()
    count = len(re.findall(rb"/Type\s*/Page\b", content))
    assert content.startswith(b"%PDF") and 3 <= count <= 40
    assert b"/Font" in content and b"/ToUnicode" in content  # words that can be searched and copied, not a picture


@pytest.mark.parametrize("width", [390, 1280])
def test_screenshot_is_not_empty_and_nothing_sticks_out(run_dir, report, tmp_path, width):
    image = pytest.importorskip("PIL.Image", reason="no Pillow here to read the screenshot: pip install pillow")
    page = pages.write_html(report(run_dir), tmp_path / "r.html")
    # Chromium's windows have a least width, a frame has none.
    style = f"border:0;width:{width}px;height:900px"
    frame = f"<body style='margin:0'><iframe src='{page.as_uri()}' style='{style}'></iframe>"
    (tmp_path / "frame.html").write_text(frame)
    picture = tmp_path / "shot.png"
    chromium(
        tmp_path, f"--screenshot={picture}", f"--window-size={max(width, 600)},900", (tmp_path / "frame.html").as_uri()
    )
    shades = image.open(picture).convert("L").crop((0, 0, width, 900))
    share_of_ink = sum(shades.histogram()[:128]) / (width * 900)
    assert 0.005 < share_of_ink < 0.5
