"""The picture of a report in the README: ``python docs/screenshot.py REPORT.html``.

The picture that is there shows ``mosweep -m experiment=zoo_backdoor``, then ``mosweep analyze``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

IMAGE = Path(__file__).parent / "images" / "report.png"


def main(report: str) -> None:
    """Take the picture of ``report``."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1000, "height": 1290}, device_scale_factor=1.5)
        page.goto(Path(report).absolute().as_uri())
        page.screenshot(path=f"{folder}/report.png")
        browser.close()
        Image.open(f"{folder}/report.png").convert("RGB").quantize(64).save(IMAGE, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
