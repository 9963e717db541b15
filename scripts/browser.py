"""A real browser, Chromium without a window, on a Label Studio server: what people there see."""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from scripts.processes import ServerError

if TYPE_CHECKING:
    from scripts.label_studio import LabelStudioServer

NO_BROWSER = "no browser: install Chromium (Debian, Ubuntu: apt-get install chromium)"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
LIMIT_MILLISECONDS = 60_000
LOOK_MILLISECONDS = 50


def browser() -> str | None:
    """The command of an installed browser."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@contextmanager
def signed_in(server: LabelStudioServer, width: int = 1440, height: int = 1200) -> Iterator[Page]:
    """A page of that many pixels whose user is the server's. ServerError where no browser is installed."""
    command = browser()
    if command is None:
        raise ServerError(NO_BROWSER)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=command)
        page = chromium.new_page(base_url=server.url, viewport={"width": width, "height": height})
        page.set_default_timeout(LIMIT_MILLISECONDS)
        page.goto("/user/login/")
        page.locator("input[name=email]").fill(server.email)
        page.locator("input[name=password]").fill(server.password)
        page.get_by_role("button", name="Log in").click()
        page.get_by_text("Recent Projects").or_(page.get_by_text("Create Project")).first.wait_for()
        yield page
        chromium.close()


def seen_once(page: Page, true: Callable[[np.ndarray], bool], seconds: int = 60) -> np.ndarray:
    """uint8 [H, W, 3] of the image in the editor with what is drawn on it, as soon as that is `true`.

    Regions are drawn one after the other and nothing on the page tells when all are; TimeoutError after that many
    seconds.
    """
    image = page.locator("img[alt=image]")
    image.wait_for()
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        shot = page.screenshot(clip=image.bounding_box())
        pixels = np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"))
        if true(pixels):
            return pixels
        page.wait_for_timeout(LOOK_MILLISECONDS)
    raise TimeoutError(f"the editor did not draw what was expected in {seconds} s")
