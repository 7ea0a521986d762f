import math
import re

import numpy as np
import pytest
from PIL import Image

from deblur_jax.evaluation import report
from deblur_jax.evaluation.report_page import page
from tests.browser import needs_browser, run_in_browser


class Pairs:
    names = ("a & b", "deep/c", "d")

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        return {key: rng.integers(0, 256, (300, 400, 3), np.uint8) for key in ("blurred", "sharp")}


def write_report(folder, gains=(1.0, 2.0, 3.0), **described):
    rows = []
    for index, name in enumerate(Pairs.names):
        file = folder / f"restored/{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(Pairs()[index]["sharp"]).save(file)
        rows.append(report.Row(name, 300, 400, 20.0, 0.5, 20.0 + gains[index], 0.75))
    failures = [report.Failure("e<", "its restoration is not finite")]
    described = {"mode": "matlab", "model": "mimo_unet", "weights": "<here>", **described}
    summary = report.summarize(rows, failures, **described)
    facts, remarks = report.facts(summary), report.remarks(summary)
    text = page(summary, report.methods(summary), facts, remarks, Pairs(), folder)
    (folder / "report.html").write_text(text)
    return folder / "report.html"


def test_the_page_holds_everything_and_asks_for_nothing(tmp_path):
    text = write_report(tmp_path, version="0.2", digest="ab12").read_text()
    for words in ("Best: d<", "Median: deep/c<", "Worst: a &amp; b<", "&lt;here&gt;"):
        assert words in text
    assert text.count("data:image/png;base64,") == 2 + 3 * 3
    assert text.count("data:image/jpeg;base64,") == 3 * 2 + 3
    sources = re.findall(r"""(?:src|srcset)\s*=\s*["']([^"']{0,40})""", text)
    assert len(sources) == 2 + 3 * 5 + 3
    assert all(source.startswith("data:image/") for source in sources)
    links = re.findall(r"""href\s*=\s*["']([^"']*)""", text)
    assert links[:2] == ["restored/a%20%26%20b.png", "sheets/a%20%26%20b.png"]
    assert not [link for link in links if "://" in link]
    assert "url(" not in text
    assert "import" not in text


def test_the_foot_says_what_was_measured(tmp_path):
    foot = write_report(tmp_path, version="0.2", digest="ab12").read_text().partition("<footer>")[2]
    for words in ("version: 0.2", "digest: ab12", "weights: &lt;here&gt;"):
        assert words in foot


def test_published_rows_stand_beside_this_run(tmp_path):
    text = write_report(tmp_path, protocol="gopro").read_text()
    assert "published: Cho et al. 2021" in text
    assert "measured by this run" in text


def test_images_that_are_worse_infinite_or_without_result_are_shown_as_such(tmp_path):
    text = write_report(tmp_path, gains=(-1.0, math.inf, 3.0)).read_text()
    assert text.count('<b class="worse">worse than its input</b>') == 1
    assert "1 of 3 images are worse than their input" in text
    assert "∞" in text
    assert "e&lt;</td>" in text
    assert "no result: its restoration is not finite" in text
    assert "nan" not in text.partition("<body>")[2].partition("data:image")[0]


@pytest.mark.slow
@needs_browser
def test_the_slider_moves_and_worst_images_come_first_in_a_browser(tmp_path):
    seen = run_in_browser(
        write_report(tmp_path, gains=(1.0, 3.0, -2.0)),
        """
      const input = document.querySelector(".slider input");
      const shown = () => getComputedStyle(document.querySelector(".slider .before")).clipPath;
      const seen = [shown()];
      input.value = 20;
      input.dispatchEvent(new Event("input"));
      seen.push(shown(), input.getAttribute("aria-valuetext"));
      seen.push([...document.images].every(i => i.loading == "lazy" || i.naturalWidth > 0));
      document.querySelector("button[data-by=gain]").click();
      const rows = [...document.querySelectorAll("#rows tbody tr")];
      return [...seen, rows.map(row => row.cells[0].innerText.trim().split(" ")[0])];
    """,
    )
    order = ["e<", "d", "a", "deep/c"]
    assert seen == ["inset(0px 50% 0px 0px)", "inset(0px 80% 0px 0px)", "20 % before", True, order]


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("width", [390, 1400])
def test_nothing_is_wider_than_the_window(tmp_path, width):
    script = "return [document.documentElement.scrollWidth, window.innerWidth];"
    wide, window = run_in_browser(write_report(tmp_path), script, width=width)
    assert wide <= window
