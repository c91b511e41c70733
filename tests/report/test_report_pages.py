"""The HTML page, its Markdown and the terminal's tables: complete, self-contained, safe, and content with little."""

import io
import json
import re
import shutil
from html.parser import HTMLParser

import made_run
import pytest
from rich.console import Console

from rlhf_recipes.errors import UserError
from rlhf_recipes.report import answers as side_by_side
from rlhf_recipes.report import html, markdown, tables
from rlhf_recipes.report.run import read

SECTIONS = (
    "Flow",
    "Tables",
    "Curves",
    "Can the score be trusted?",
    "Answers",
    "Token by token",
    "Settings",
    "Make it again",
)
VOID = {"meta", "input", "br", "circle", "path", "rect"}


class Balance(HTMLParser):
    """Fails on a tag that closes another than the last opened; collects ids and outside references."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.outside = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        for key, value in attrs:
            if key == "id":
                self.ids.append(value)
            if key in ("src", "href", "srcset", "action", "poster") and not value.startswith("#"):
                self.outside.append(value)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parse(page):
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    return parser


def test_page_has_every_section_and_needs_nothing_from_outside(run_dir, tmp_path):
    page = html.write([run_dir], tmp_path / "out" / "report.html").read_text()
    assert re.findall(r"<h2[^>]*>([^<]+)</h2>", page) == list(SECTIONS)
    parsed = parse(page)
    assert parsed.outside == []
    assert len(parsed.ids) == len(set(parsed.ids))
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest", page)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["report.html"]


def test_what_models_write_cannot_become_markup(tmp_path):
    path = made_run.make(tmp_path / "made", steps=5, prompts=2)
    evil = '</script><script>alert(1)</script><img src=x onerror="alert(2)">'
    samples = path / "evaluate" / "samples.jsonl"
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    samples.write_text(
        "".join(json.dumps(row | {"prompt": evil, "completion": evil, "model": evil}) + "\n" for row in rows)
    )
    (path / "ppo" / "tokens.jsonl").write_text(json.dumps({"step": evil, "prompt": evil, "tokens": [{"token": evil}]}))
    page = html.write([path], tmp_path / "r.html").read_text()
    assert "alert(1)</script>" not in page
    assert "<img" not in page
    parse(page)


def test_what_differs_from_the_defaults_is_marked(run_dir, tmp_path):
    defaults = {"ppo": {"trainer": {"kl_coef": 0.02}}}
    page = html.write([run_dir], tmp_path / "r.html", defaults=defaults).read_text()
    assert re.search(r"trainer\.kl_coef</td><td[^>]*>0\.02</td><td[^>]*>0\.05</td>", page)
    assert "trainer.kl_coef=0.05" in page


@pytest.mark.parametrize("kept", [["sft"], ["reward"], ["ppo"], ["evaluate"], ["sft", "ppo"]])
def test_any_part_of_a_run_is_enough(run_dir, tmp_path, kept):
    for name in kept:
        shutil.copytree(run_dir / name, tmp_path / "part" / name)
    parse(html.write([tmp_path / "part"], tmp_path / "r.html").read_text())
    assert "# Run part" in markdown.write([tmp_path / "part"], tmp_path / "r.md").read_text()
    tables.show(tmp_path / "part", Console(width=80, file=(tmp_path / "screen").open("w")))


def test_an_unfinished_stage_is_said_to_be_so(tmp_path):
    (tmp_path / "made" / "sft").mkdir(parents=True)
    (tmp_path / "made" / "sft" / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.5}\n')
    assert "not finished" in html.write([tmp_path / "made"], tmp_path / "r.html").read_text()


def test_several_runs_are_compared(sweep, tmp_path):
    page = html.write(sweep, tmp_path / "r.html").read_text()
    parse(page)
    assert '<table class="sortable">' in page
    assert all(f"kl.sweep/{i}" in page for i in range(3))
    assert "ppo: kl.target" in page
    assert "Gold where each run ended" in page
    text = markdown.write(sweep, tmp_path / "r.md").read_text()
    assert "3 runs compared" in text
    assert (tmp_path / "r_files" / "gold_ends.svg").is_file()


def answered(*figures):
    rows = [{"completion": "c"} | of for of in figures]
    return [{"prompt": "p", "by": dict(zip(("sft", "ppo"), rows, strict=True))}]


@pytest.mark.parametrize(
    ("judge", "tie", "figures", "outcome", "said"),
    [
        ("gold", 0.0, ({"gold": 0.5, "score": 1.0}, {"gold": 0.4, "score": 2.0}), "loses to", "by gold"),
        ("gold", 0.2, ({"gold": 0.5, "score": 1.0}, {"gold": 0.4, "score": 2.0}), "ties with", "by gold"),
        ("score", 0.2, ({"gold": 0.5, "score": 1.0}, {"gold": 0.4, "score": 2.0}), "beats", "by score"),
        ("kind", 0.5, ({"score": 2.0, "reward/kind": 0}, {"score": 1.0, "reward/kind": 1}), "beats", "by kind"),
        ("judge", 0.2, ({"gold": 0.5, "score": 1.0}, {"gold": 0.4, "score": 2.0}), "loses to", "by gold"),
        (None, 0.0, ({"gold": 0.5, "score": 1.0}, {"score": 2.0}), "beats", "by score"),
    ],
)
def test_answers_are_filtered_by_what_decided_the_pairs(judge, tie, figures, outcome, said):
    page = side_by_side.html(answered(*figures), judge, tie)
    assert f'data-outcome="{outcome}"' in page
    assert f">ppo loses to sft {said}</option>" in page and f">largest gain {said} first</option>" in page


def test_runs_are_filtered_by_what_decided_their_pairs(sweep, run_dir, tmp_path):
    assert "kl.sweep/0 by gold</option>" in html.write(sweep, tmp_path / "r.html").read_text()
    other = tmp_path / "other"
    shutil.copytree(run_dir, other)
    summary = other / "evaluate" / "summary.json"
    summary.write_text(summary.read_text().replace('"judge": "gold"', '"judge": "score"'))
    (other / "evaluate" / "config.yaml").write_text("evaluate: {tie: 0.3}")
    assert read(other).judged == ("score", 0.3)
    assert "ppo beats sft by score</option>" in html.write([other], tmp_path / "r.html").read_text()
    assert "by gold</option>" in html.write([run_dir, other], tmp_path / "r.html").read_text()  # all rows have it


def test_the_terminal_compares_runs_in_one_table(sweep):
    console = Console(record=True, width=160, file=io.StringIO())
    tables.compare(sweep, console)
    said = console.export_text()
    assert all(f"kl.sweep/{i}" in said for i in range(3))
    assert "ppo: kl.target" in said


def test_markdown_has_the_same_tables_and_its_pictures_lie_beside_it(run_dir, tmp_path):
    text = markdown.write([run_dir], tmp_path / "report.md").read_text()
    page = html.write([run_dir], tmp_path / "report.html").read_text()
    titles = re.findall(r"^\*\*([^*]+)\*\*$", text, re.MULTILINE)
    assert {"PPO by step", "Reward model on held-out pairs", "Who beats whom"} <= set(titles)
    assert all(f"<h3>{title}</h3>" in page for title in titles if " by " in title)
    pictures = re.findall(r"\]\((report_files/[^)]+)\)", text)
    assert len(pictures) > 12
    assert all((tmp_path / picture).is_file() for picture in pictures)


def sections(run_dirs, tmp_path, **more):
    page = html.write(run_dirs, tmp_path / "r.html", **more).read_text()
    text = markdown.write(run_dirs, tmp_path / "r.md", **more).read_text()
    found = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert found == re.findall(r"<h2[^>]*>([^<]+)</h2>", page)
    return found, text


@pytest.mark.parametrize("defaults", [None, {"ppo": {"trainer": {"kl_coef": 0.02}}}])
def test_markdown_has_the_sections_of_the_page(run_dir, sweep, tmp_path, defaults):
    found, text = sections([run_dir], tmp_path, defaults=defaults)
    assert found == list(SECTIONS)
    assert "12 of 24 prompts, evenly spaced" in text
    assert "2 of 2 answers" in text and "| token | advantage | reward | value | kl |" in text
    assert re.search(r"- \*\*ppo\*\* \(score \S+ · gold \S+ · kl \S+ · \d+ tokens", text)
    found, text = sections(sweep, tmp_path, defaults=defaults)
    assert found == ["Runs", "Curves", "Can the score be trusted?", "Answers", "Settings", "Make it again"]
    for i in range(3):
        of_run = text.partition(f"### kl.sweep/{i}\n")[2].partition("### ")[0]
        assert f"run.name={i}" in of_run and "**Stages**" in of_run and "**Versions**" in of_run


@pytest.mark.parametrize("kept", ["sft", "reward", "ppo", "evaluate"])
def test_markdown_of_part_of_a_run_has_the_sections_of_its_page(run_dir, tmp_path, kept):
    shutil.copytree(run_dir / kept, tmp_path / "part" / kept)
    assert sections([tmp_path / "part"], tmp_path)[0][0] == "Flow"


def test_a_pipe_in_an_answer_does_not_break_a_markdown_table():
    assert markdown._cell("a | b\n<c> *d*") == "a \\| b &lt;c> \\*d\\*"


def test_messages_are_shown_as_a_dialogue(tmp_path):
    path = made_run.make(tmp_path / "made", steps=5, prompts=2, messages=True)
    assert "system: Be brief.\nuser: Write" in html.write([path], tmp_path / "r.html").read_text()


def test_no_run_given_is_refused(tmp_path):
    with pytest.raises(UserError, match="at least one run"):
        html.write([], tmp_path / "r.html")


@pytest.mark.parametrize("width", [40, 60, 100, 200])
def test_terminal_tables_fit_their_width_without_colour(run_dir, tmp_path, width):
    screen = tmp_path / "screen"
    with screen.open("w") as file:
        tables.show(run_dir, Console(width=width, file=file))
    lines = screen.read_text().splitlines()
    assert max(map(len, lines)) <= width
    assert "\x1b" not in screen.read_text()
    text = " ".join(" ".join(lines).split())
    wanted = [
        "Supervised fine-tuning by epoch",
        "Reward model on held-out pairs",
        "PPO by step",
        "Prompt:",
        "Where it lies",
    ]
    assert all(part in text for part in wanted)


def test_terminal_answers_stand_side_by_side_only_where_there_is_room(run_dir, tmp_path):
    def header(width):
        with (tmp_path / "screen").open("w") as file:
            tables.show(run_dir, Console(width=width, file=file))
        return any(line.split() == ["base", "sft", "ppo"] for line in (tmp_path / "screen").read_text().splitlines())

    assert header(120)
    assert not header(60)


def test_betas_chart_stands_under_the_kls_and_the_losses_are_drawn(run_dir, tmp_path):
    page = html.write([run_dir], tmp_path / "r.html").read_text()
    titles = [re.search(r"<figcaption>(.*?)<small>", cell)[1] for cell in page.split('<div class="charts">')[1:]]
    assert titles[0] == "Loss"
    ppo = page[page.index("<h3>PPO</h3>") :].partition("</section>")[0]
    cells = re.findall(r"<div(?: class=tall)?>(<figure.*?)</div>(?=<div(?: class=tall)?><figure|</div>)", ppo)
    shown = [re.findall(r"<figcaption>(.*?)<small>", cell) for cell in cells]
    assert shown[:3] == [["Score"], ["Gold score"], ["KL to the reference", "Beta"]]
    assert ["Policy loss"] in shown and ["Value loss"] in shown


def test_estimate_and_measured_peak_stand_side_by_side(run_dir, tmp_path):
    page = markdown.write([run_dir], tmp_path / "r.md").read_text()
    (head,) = [line for line in page.splitlines() if "estimated peak, MB" in line]
    cells = [cell.strip() for cell in head.split("|")]
    (row,) = [line for line in page.splitlines() if line.startswith("| ppo |") and "1,502" in line]
    found = [cell.strip() for cell in row.split("|")]
    assert found[cells.index("peak memory, MB")] == "1,432" and found[cells.index("estimated peak, MB")] == "1,502"


def test_the_page_of_a_long_run_stays_small(tmp_path):
    long = made_run.make(tmp_path / "long", steps=10_000, prompts=2_000)
    raw = sum(file.stat().st_size for file in long.rglob("*.jsonl"))
    page = html.write([long], tmp_path / "r.html").stat().st_size
    assert raw > 5e6 and page < 1.5e6  # 5 MB are allowed; each curve keeps 300 points, and answers are thinned out
