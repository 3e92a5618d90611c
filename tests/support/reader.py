"""What a reader does with a page in a browser, and what is to be seen there."""

from __future__ import annotations

import base64
import io
import re
from typing import Any

import numpy as np
from PIL import Image

from limelight.reports import Explanation


class Page:
    """What a reader does with the page and sees on it."""

    def __init__(self, driver: Any, shown: Explanation) -> None:
        self.driver, self.explanation = driver, shown

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements("css selector", selector)

    def settle(self) -> None:
        """Wait until the frame that a change asked for is drawn."""
        self.driver.execute_async_script(
            "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done));"
        )

    def click(self, selector: str, index: int = 0) -> None:
        self.all(selector)[index].click()
        self.settle()

    def select(self, name: str, text: str) -> None:
        from selenium.webdriver.support.select import Select

        Select(self.find(f"#{name}")).select_by_visible_text(text)
        self.settle()

    def slide(self, name: str, key: str, times: int = 1) -> None:
        self.find(f"#{name}").send_keys(key * times)
        self.settle()

    def press(self, keys: str, on: str = "#stage") -> None:
        self.find(on).send_keys(keys)
        self.settle()

    def pixels(self, selector: str = "#picture") -> np.ndarray:
        uri = self.driver.execute_script(
            "return document.querySelector(arguments[0]).toDataURL('image/png')", selector
        )
        with Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))) as image:
            return np.asarray(image.convert("RGBA")).astype(int)

    @property
    def now(self) -> str:
        return self.find("#now").text

    def values(self, method: str, site: str, sample: str = "dog.jpg", target: str = "dog") -> Any:
        found = self.explanation.maps.where(method=method, site=site, sample=sample, target=target)
        return found[0].values.numpy()

    def hover(self, row: int, column: int, rows: int, columns: int) -> tuple[str, float]:
        """Point at the middle of a value; what is read out."""
        from selenium.webdriver import ActionChains

        box = self.driver.execute_script(
            "const b = document.getElementById('picture').getBoundingClientRect();"
            "return [b.left, b.top, b.width, b.height]"
        )
        x = box[0] + (column + 0.5) / columns * box[2]
        y = box[1] + (row + 0.5) / rows * box[3]
        actions = ActionChains(self.driver)
        actions.w3c_actions.pointer_action.move_to_location(round(x), round(y))
        actions.perform()
        text = self.find("#readout").text.replace("−", "-")
        return text, float(text.rsplit(": ", 1)[1])

    def rect(self, selector: str, index: int = 0) -> list[float]:
        """Left, top, width and height of an element in the window."""
        found: list[float] = self.driver.execute_script(
            "const e = document.querySelectorAll(arguments[0])[arguments[1]];"
            "const b = e.getBoundingClientRect(); return [b.left, b.top, b.width, b.height]",
            selector,
            index,
        )
        return found

    def point(self, x: float, y: float, *, press: bool = False) -> str:
        """Point at a place of the window; what is read out."""
        from selenium.webdriver import ActionChains

        actions = ActionChains(self.driver)
        actions.w3c_actions.pointer_action.move_to_location(round(x), round(y))
        if press:
            actions.w3c_actions.pointer_action.click()
        actions.perform()
        self.settle()
        text: str = self.find("#readout").text
        return text.replace("−", "-")

    def point_in(self, selector: str, index: int, across: float, down: float) -> str:
        """Point at a place of an element, in shares of its sides; what is read out."""
        left, top, width, height = self.rect(selector, index)
        return self.point(left + across * width, top + down * height)


def contrast(page: Page, selector: str) -> float:
    """The contrast ratio of a text with the nearest painted ground (WCAG 2.1)."""
    ink, ground = page.driver.execute_script(
        """const e = document.querySelector(arguments[0]); let ground = e;
        const clear = (x) => getComputedStyle(x).backgroundColor === 'rgba(0, 0, 0, 0)';
        while (ground && clear(ground)) ground = ground.parentElement;
        return [getComputedStyle(e).color, getComputedStyle(ground).backgroundColor];""",
        selector,
    )

    def light(text: str) -> float:
        c = np.array([float(n) for n in re.findall(r"[\d.]+", text)[:3]]) / 255
        c = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
        return float(c @ [0.2126, 0.7152, 0.0722])

    one, other = sorted((light(ink), light(ground)))
    return (other + 0.05) / (one + 0.05)
