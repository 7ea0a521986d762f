"""Pages in headless Chromium, where it is installed."""

import html
import json
import re
import shutil
import subprocess

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


def run_in_browser(page, script, width=1000):
    """Opens a file, runs a script after it has loaded, and gives back what the script returns.

    Every address on a network is refused.
    """
    framed = page.with_name("framed.html")
    # A window of Chromium has 500 pixels at least; a frame may be narrower.
    framed.write_text(
        f"""<body><iframe style="border:0" width={width} height=900 src="{page.name}"></iframe>
        <script>
        document.querySelector("iframe").addEventListener("load", event => {{
          const window = event.target.contentWindow, document = window.document;
          const getComputedStyle = window.getComputedStyle, Event = window.Event;
          const seen = (() => {{ {script} }})();
          globalThis.document.body.dataset.seen = JSON.stringify(seen);
        }});
        </script></body>"""
    )
    profile = page.parent / "chromium"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000"]
    options += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={profile}"]
    options += ["--allow-file-access-from-files", f"--window-size={width + 100},1000"]
    result = subprocess.run(
        [CHROMIUM, *options, "--dump-dom", framed.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = re.search(r'data-seen="([^"]*)"', result.stdout)
    assert found, result.stderr[-2000:]
    return json.loads(html.unescape(found[1]))
