"""What a page looks like, as far as a program can say: a real screenshot, held to its content."""

import io

from PIL import Image
from playwright.sync_api import Locator, Page

LEAST_INK = 0.002
"""A region shows something if so many of its pixels differ from its most frequent colour."""
LEAST_COLOURS = 4
"""Letters and lines are drawn with soft edges, so even black on white has more colours than two."""
AMISS = """() => {
  const found = [];
  const seen = (it) => it.checkVisibility({visibilityProperty: true, opacityProperty: true});
  const told = (it) => `${it.tagName.toLowerCase()} ${(it.id || it.getAttribute("src") ||
    it.textContent || it.getAttribute("class") || "").toString().trim().slice(0, 60)}`;
  for (const it of document.querySelectorAll("img, svg")) {
    if (!seen(it) || it.parentElement.closest("svg")) continue;
    const box = it.getBoundingClientRect();
    if (!box.width || !box.height) found.push(`without a size: ${told(it)}`);
    if (it instanceof HTMLImageElement && !(it.complete && it.naturalWidth))
      found.push(`not loaded: ${told(it)}`);
  }
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > width) found.push("wider than the window");
  return found;
}"""
CUT_OFF = """(root) => {
  const found = [], width = document.documentElement.clientWidth;
  const texts = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const text = texts.currentNode, holder = text.parentElement;
    if (!text.data.trim() || !holder.checkVisibility({visibilityProperty: true})) continue;
    if (holder.closest("select, option, script, style")) continue;
    const range = document.createRange();
    range.selectNodeContents(text);
    const boxes = [...range.getClientRects()].filter(it => it.width && it.height);
    let [left, right] = [0, width];
    for (let at = holder; at; at = at.parentElement) {
      const box = at.getBoundingClientRect();
      if (box.width <= 1) [left, right] = [-Infinity, Infinity];  // for screen readers only
      else if (!["visible", ""].includes(getComputedStyle(at).overflowX)) {
        left = Math.max(left, box.left); right = Math.min(right, box.right);
      }
      if (right === Infinity) break;
    }
    const beyond = it => it.right > right + 1 || it.left < left - 1;
    if (boxes.some(it => it.right > 0 && beyond(it)))  // not what waits outside, as a skip link
      found.push(`cut off: ${text.data.trim().slice(0, 60)}`);
  }
  return found;
}"""


def look(page: Page, *texts: str, regions: tuple[str, ...] = ("body",), whole: bool = True) -> None:
    """Take pictures of a page's regions and of these texts: each must show something.

    Every picture on it must have loaded, nothing may be wider than the window, and no text may be
    cut off at a side; of a page that others made (`whole=False`), none of these texts.
    """
    for text in texts:
        page.get_by_text(text).locator("visible=true").first.wait_for()
    amiss = list(page.evaluate(AMISS))
    if whole:
        amiss += page.evaluate(CUT_OFF, page.locator("body").element_handle())
    for region in regions:
        amiss += _blank(page.locator(region).locator("visible=true").first, region)
    for text in texts:
        shown = page.get_by_text(text).locator("visible=true").first
        amiss += _blank(shown, text, ink=0.0, colours=3)
        amiss += page.evaluate(CUT_OFF, shown.element_handle())
    assert amiss == [], amiss


def _blank(
    shown: Locator, name: str, *, ink: float = LEAST_INK, colours: int = LEAST_COLOURS
) -> list[str]:
    """Whether there is nothing to see where something should be shown; by name, to tell."""
    taken = Image.open(io.BytesIO(shown.screenshot(animations="disabled"))).convert("RGB")
    pixels = taken.width * taken.height
    counts = taken.getcolors(pixels) or []
    drawn = 1 - max(count for count, _ in counts) / pixels
    if len(counts) < colours or drawn < ink:
        return [f"blank: {name} ({len(counts)} colours, {drawn:.2%} drawn)"]
    return []
