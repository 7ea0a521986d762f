import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from deblur_jax.evaluation import report
from deblur_jax.evaluation.report_page import page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Pairs:
    names = ("a & b", "deep/c", "d")

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        return {key: rng.integers(0, 256, (300, 400, 3), np.uint8) for key in ("blurred", "sharp")}


@pytest.fixture
def report_file(tmp_path):
    rows = []
    for index, name in enumerate(Pairs.names):
        file = tmp_path / f"restored/{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(Pairs()[index]["sharp"]).save(file)
        rows.append(report.Row(name, 300, 400, 20.0, 0.5, 21.0 + index, 0.75))
    summary = report.summarize(rows, mode="matlab", model="mimo_unet", weights="<here>")
    text = page(summary, report.facts(summary), [], Pairs(), tmp_path / "restored")
    (tmp_path / "report.html").write_text(text)
    return tmp_path / "report.html"


def test_the_page_holds_everything_and_asks_for_nothing(report_file):
    text = report_file.read_text()
    assert "Best: d<" in text
    assert "Median: deep/c<" in text
    assert "Worst: a &amp; b<" in text
    assert "&lt;here&gt;" in text
    assert text.count("data:image/png;base64,") == 1 + 3 * 3
    assert text.count("data:image/jpeg;base64,") == 3 * 2
    sources = re.findall(r"""(?:src|href)\s*=\s*["']([^"']{0,40})""", text)
    assert len(sources) == 16
    assert all(source.startswith("data:image/") for source in sources)
    assert "url(" not in text
    assert "import" not in text


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_the_slider_moves_in_a_browser(report_file):
    moved = report_file.with_name("moved.html")
    script = """<script>
      const input = document.querySelector(".slider input");
      const shown = () => getComputedStyle(document.querySelector(".slider .before")).clipPath;
      const start = shown();
      input.value = 20;
      input.dispatchEvent(new Event("input"));
      const loaded = [...document.images].every(i => i.complete && i.naturalWidth > 0);
      document.body.dataset.seen = JSON.stringify([start, shown(), loaded]);
    </script></body>"""
    moved.write_text(report_file.read_text().replace("</body>", script))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000"]
    options += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={moved.parent / 'u'}"]
    result = subprocess.run(
        [CHROMIUM, *options, "--dump-dom", moved.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    seen = re.search(r'data-seen="([^"]*)"', result.stdout)[1].replace("&quot;", '"')
    assert seen == '["inset(0px 50% 0px 0px)","inset(0px 80% 0px 0px)",true]'
