"""The HTML page, its Markdown and the terminal's tables: complete, self-contained, safe, and content with little."""

import io
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise

import made_run
import pytest
import yaml
from rich.console import Console

from rlhf_recipes.report import content, pages, terminal
from rlhf_recipes.report.blocks import Report
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
VOID = {"meta", "input", "br", "path", "rect"}


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


def printed(report, width):
    console = Console(width=width, file=io.StringIO())
    terminal.write(report, console)
    return console.file.getvalue()


def test_page_has_every_section_and_needs_nothing_from_outside(run_dir, page, tmp_path):
    html = page(run_dir)
    assert re.findall(r"<h2[^>]*>([^<]+)</h2>", html) == list(SECTIONS)
    parsed = parse(html)
    assert parsed.outside == []
    assert len(parsed.ids) == len(set(parsed.ids))
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest", html)
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]


def test_what_models_write_cannot_become_markup(page, tmp_path):
    path = made_run.make(tmp_path / "made", steps=5, prompts=2)
    evil = '</script><script>alert(1)</script><img src=x onerror="alert(2)">'
    samples = path / "evaluate" / "samples.jsonl"
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    samples.write_text(
        "".join(json.dumps(row | {"prompt": evil, "completion": evil, "model": evil}) + "\n" for row in rows)
    )
    (path / "ppo" / "tokens.jsonl").write_text(json.dumps({"step": evil, "prompt": evil, "tokens": [{"token": evil}]}))
    html = page(path)
    assert "alert(1)</script>" not in html and "<img" not in html
    parse(html)


def test_what_differs_from_the_defaults_is_marked(run_dir, page):
    html = page(run_dir, defaults={"ppo": {"trainer": {"kl_coef": 0.02}}})
    assert re.search(r"trainer\.kl_coef</td><td[^>]*>0\.02</td><td[^>]*>0\.05</td>", html)
    assert "trainer.kl_coef=0.05" in html


@pytest.mark.parametrize("defaults", [None, {"ppo": {"trainer": {"kl_coef": 0.02}}}])
@pytest.mark.parametrize("kept", [["sft"], ["reward"], ["ppo"], ["evaluate"], ["sft", "ppo"]])
def test_any_part_of_a_run_is_enough_and_markdown_has_the_sections_of_the_page(
    run_dir, page, text, report, tmp_path, kept, defaults
):
    for name in kept:
        shutil.copytree(run_dir / name, tmp_path / "part" / name)
    html, markdown = page(tmp_path / "part", defaults=defaults), text(tmp_path / "part", defaults=defaults)
    parse(html)
    assert "# Run part" in markdown
    assert re.findall(r"^## (.+)$", markdown, re.MULTILINE) == re.findall(r"<h2[^>]*>([^<]+)</h2>", html)
    assert "Where it lies" in printed(report(tmp_path / "part"), 80)


def test_an_unfinished_stage_is_said_to_be_so(page, tmp_path):
    (tmp_path / "made" / "sft").mkdir(parents=True)
    (tmp_path / "made" / "sft" / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.5}\n')
    assert "not finished" in page(tmp_path / "made")


def test_several_runs_are_compared(sweep, page, text, report, tmp_path):
    html, markdown, screen = page(*sweep), text(*sweep), printed(report(*sweep), 200)
    parse(html)
    assert '<table class="sortable">' in html
    assert all(f"kl.sweep/{i}" in screen for i in range(3)) and "kl.target" in screen
    assert "ppo: kl.target" in html and "Gold where each run ended" in html
    sections = ["Runs", "Curves", "Can the score be trusted?", "Answers", "Settings", "Make it again"]
    assert re.findall(r"^## (.+)$", markdown, re.MULTILINE) == sections
    assert re.findall(r"<h2[^>]*>([^<]+)</h2>", html) == sections
    assert (tmp_path / "r_files" / "gold_ends.svg").is_file()
    for i in range(3):
        of_run = markdown.partition(f"### kl.sweep/{i}\n")[2].partition("### ")[0]
        assert f"run.name={i}" in of_run and "**Stages**" in of_run and "**Versions**" in of_run


def test_the_outcome_stands_before_the_figures_of_earlier_stages_in_a_comparison(sweep, report):
    columns = [column.label for column in report(*sweep).sections["Runs"][0].columns]
    expected = ["run", "seed", "ppo: kl.target", "score", "KL", "gold", "win, of decided", "95 %"]
    assert columns == [*expected, "pretrain perplexity", "sft perplexity", "reward accuracy", "minutes"]


@pytest.mark.parametrize(
    ("judge", "tie", "figures", "outcome", "by"),
    [
        ("gold", 0.0, ({"gold": 0.5, "score": 1.0}, {"gold": 0.4, "score": 2.0}), "loses to", "gold"),
        ("gold", 0.2, ({"gold": 0.5, "score": 1.0}, {"gold": 0.4, "score": 2.0}), "ties with", "gold"),
        ("score", 0.2, ({"gold": 0.5, "score": 1.0}, {"gold": 0.4, "score": 2.0}), "beats", "score"),
        ("kind", 0.5, ({"score": 2.0, "reward/kind": 0}, {"score": 1.0, "reward/kind": 1}), "beats", "kind"),
        ("judge", 0.2, ({"gold": 0.5, "score": 1.0}, {"gold": 0.4, "score": 2.0}), "loses to", "gold"),
        (None, 0.0, ({"gold": 0.5, "score": 1.0}, {"score": 2.0}), "beats", "score"),
    ],
)
def test_answers_are_filtered_by_what_decided_the_pairs(tmp_path, judge, tie, figures, outcome, by):
    rows = [{"completion": "c"} | of for of in figures]
    answers = content.compared(
        [{"prompt": "p", "by": dict(zip(("sft", "ppo"), rows, strict=True))}], "ppo", "sft", judge, tie
    )
    page = pages.write_html(Report("r", "", "", {"Answers": [answers]}), tmp_path / "r.html").read_text()
    assert f'data-outcome="{outcome}"' in page
    assert f">ppo loses to sft by {by}</option>" in page and f">largest gain by {by} first</option>" in page


def test_runs_are_filtered_by_what_decided_their_pairs(sweep, run_dir, page, tmp_path):
    assert "kl.sweep/0 by gold</option>" in page(*sweep)
    other = tmp_path / "other"
    shutil.copytree(run_dir, other)
    summary = other / "evaluate" / "summary.json"
    summary.write_text(summary.read_text().replace('"judge": "gold"', '"judge": "score"'))
    (other / "evaluate" / "config.yaml").write_text("evaluate: {tie: 0.3}")
    assert read(other).judged == ("score", 0.3)
    assert "ppo beats sft by score</option>" in page(other)
    assert "by gold</option>" in page(run_dir, other)  # all rows have it


def test_markdown_has_the_same_tables_and_its_pictures_lie_beside_it(run_dir, page, text, tmp_path):
    markdown, html = text(run_dir), page(run_dir)
    titles = re.findall(r"^\*\*([^*]+)\*\*$", markdown, re.MULTILINE)
    assert {"PPO by step", "Reward model on held-out rows", "Who beats whom"} <= set(titles)
    assert all(f"<h3>{title}</h3>" in html for title in titles if " by " in title)
    pictures = re.findall(r"\]\((r_files/[^)]+)\)", markdown)
    assert len(pictures) > 12
    assert all((tmp_path / picture).is_file() for picture in pictures)
    assert "12 of 24 prompts, evenly spaced" in markdown
    assert "2 of 2 answers" in markdown and "| token | advantage | reward | value | kl |" in markdown
    assert re.search(r"- \*\*ppo\*\* \(score \S+ · gold \S+ · kl \S+ · \d+ tokens", markdown)


def test_every_markdown_table_ends_before_its_note(run_dir, text):
    """A line directly below a pipe table is one more row of it."""
    lines = text(run_dir).splitlines()
    after = [below for line, below in pairwise(lines) if line.startswith("| ")]
    assert after and all(line.startswith("| ") or not line for line in after)


def test_a_pipe_in_an_answer_does_not_break_a_markdown_table():
    assert pages.line("a | b\n<c> *d*") == "a \\| b &lt;c> \\*d\\*"


def test_messages_are_shown_as_a_dialogue(page, tmp_path):
    path = made_run.make(tmp_path / "made", steps=5, prompts=2, messages=True)
    assert "system: Be brief.\nuser: Write" in page(path)


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_terminal_tables_fit_their_width_without_colour(run_dir, report, width):
    screen = printed(report(run_dir), width)
    assert max(map(len, screen.splitlines())) <= width
    assert "\x1b" not in screen
    words = " ".join(screen.split())
    titles = ("Supervised fine-tuning by epoch", "Reward model on held-out rows", "PPO by step")
    assert all(part in words for part in (*titles, "Prompt:", "Where it lies"))
    side_by_side = any(line.split() == ["base", "sft", "ppo"] for line in screen.splitlines())
    assert side_by_side == (width > 3 * terminal.COLUMN_WIDTH)


def test_at_80_columns_the_terminal_keeps_who_wins_of_the_decided(run_dir, sweep, report):
    """The head may stand on several lines; the note names what was left out, and never these two columns."""
    for of, title in ((report(run_dir), "Who beats whom"), (report(*sweep), "Runs")):
        screen = printed(of, 80)
        shown = screen.partition(title)[2].partition("\n\n")[0]
        left_out = " ".join(shown.split()).partition("No room here for: ")[2]
        assert "decided" in shown.partition("\u2500")[0] and left_out
        assert "decided" not in left_out and ", 95 %," not in f", {left_out},"
        assert " to " in shown.partition("\u2500")[2]


def test_runs_that_are_not_alike_show_results_before_settings(sweep, report, tmp_path):
    for key, value in (("recipe", "gsm8k"), ("model", {"path": "another"})):
        other = tmp_path / key
        shutil.copytree(sweep[1], other)
        file = other / "sft" / "config.yaml"
        file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {key: value}))
        of = report(sweep[0], other).sections["Runs"][0]
        labels = [column.label for column in of.columns]
        assert labels[:4] == ["run", "score", "KL", "gold"] and labels.index("minutes") < labels.index("seed")
        assert of.rows[0][labels.index("seed")] == 0


def test_betas_chart_stands_under_the_kls_and_the_losses_are_drawn(run_dir, page):
    ppo = page(run_dir).partition("<h3>PPO</h3>")[2].partition("</section>")[0]
    cells = [
        re.findall(r"<figcaption>(.*?)<small>", cell) for cell in re.split(r"<div(?: class=\"tall\")?><figure>", ppo)
    ]
    assert cells[1:4] == [["Score"], ["Gold score"], ["KL to the reference", "Beta"]]
    assert ["Policy loss"] in cells and ["Value loss"] in cells


def test_estimate_and_measured_peak_stand_side_by_side(run_dir, text):
    lines = [[cell.strip() for cell in line.split("|")] for line in text(run_dir).splitlines()]
    (head,) = [line for line in lines if "estimated peak, MB" in line]
    (row,) = [line for line in lines if line[1:2] == ["ppo"] and "1,502" in line]
    assert row[head.index("peak memory, MB")] == "1,432" and row[head.index("estimated peak, MB")] == "1,502"


def test_the_page_of_a_long_run_stays_small(page, tmp_path):
    long = made_run.make(tmp_path / "long", steps=10_000, prompts=2_000)
    raw = sum(file.stat().st_size for file in long.rglob("*.jsonl"))
    assert raw > 5e6 and len(page(long)) < 1.5e6  # each curve keeps 300 points, and 200 prompts are shown


def test_the_report_imports_errors_and_nothing_else_of_the_package(run_dir, tmp_path):
    code = (
        "import sys; from pathlib import Path; from rlhf_recipes.report import content, pages, terminal;"
        f"report = content.build([Path({str(run_dir)!r})]); terminal.write(report);"
        f"pages.write_html(report, Path({str(tmp_path / 'r.html')!r}));"
        f"pages.write_markdown(report, Path({str(tmp_path / 'r.md')!r}));"
        "heavy = {'torch', 'trl', 'transformers', 'hydra', 'datasets', 'omegaconf'} & set(sys.modules);"
        "rooms = {n.split('.')[1] for n in sys.modules if n.startswith('rlhf_recipes.')} - {'report', 'errors'};"
        "sys.exit(f'imported {heavy | rooms}' if heavy | rooms else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
