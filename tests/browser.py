"""A page of ours in a headless browser."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

WATCH = """<script>
const problems = [];
addEventListener("error", (event) => problems.push(event.message));
addEventListener("securitypolicyviolation", (event) => problems.push(event.violatedDirective));
</script>"""
TOOLS = """
const result = {};
const text = (selector) => document.querySelector(selector).textContent;
const rows = () =>
  [...document.querySelectorAll("#labels tbody tr:not([hidden])")].map((row) => row.cells[0].textContent);
const rates = () => Object.fromEntries([...document.querySelectorAll("#rates div")].map((each) =>
  [each.firstChild.textContent, each.querySelector("dd").firstChild.textContent]));
const input = (selector, value) => {
  const element = document.querySelector(selector);
  element.value = value;
  element.dispatchEvent(new Event(element.tagName === "SELECT" ? "change" : "input", { bubbles: true }));
};
const click = (element) => element.dispatchEvent(new MouseEvent("click", { bubbles: true, cancelable: true }));
const headers = () => [...document.querySelectorAll("#labels th")];
"""


def browse(page: str, script: str, folder: Path, fragment: str = "") -> dict[str, Any]:
    """What `script` puts into `result`, run in a headless browser when the page has drawn itself; no error may occur."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no browser to open the report in: apt-get install chromium")
    report = f"""
try {{ {script} }} catch (error) {{ problems.push(String(error)); }}
result.problems = problems;
document.body.append(Object.assign(document.createElement("pre"), {{ id: "result", textContent: JSON.stringify(result) }}));
"""
    page = page.replace("<body>", f"<body>{WATCH}", 1).replace("</body>", f"<script>{TOOLS}{report}</script></body>")
    path = folder / "page.html"
    path.write_text(page, "utf-8")
    done = subprocess.run(
        [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={folder / 'profile'}",
         "--virtual-time-budget=10000", "--dump-dom", path.as_uri() + fragment],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    found = re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found is not None, done.stdout[-2000:] + done.stderr[-2000:]
    result: dict[str, Any] = json.loads(html.unescape(found[1]))
    assert result.pop("problems") == []
    return {**result, "dom": done.stdout}
