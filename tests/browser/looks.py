"""What only a browser can tell of a page: whether it can be read, and where the keyboard leads."""

from __future__ import annotations

from collections.abc import Mapping

from playwright.async_api import Page

READS = """
() => {
  const wrong = [];
  const page = document.documentElement;
  if (page.scrollWidth > window.innerWidth) wrong.push(`wider than the screen: ${page.scrollWidth}`);
  if (document.querySelectorAll('h1').length !== 1) wrong.push('has not one heading');
  for (const one of document.querySelectorAll('.brand'))
    if (one.textContent.trim() !== 'Reclaim') wrong.push(`is called ${one.textContent}`);
  const ids = [...document.querySelectorAll('[id]')].map(one => one.id);
  for (const id of new Set(ids.filter((id, at) => ids.indexOf(id) !== at))) wrong.push(`two things are called ${id}`);
  for (const one of document.querySelectorAll('input:not([type=hidden]), select, textarea'))
    if (!one.labels.length && !one.ariaLabel) wrong.push(`no label: ${one.name}`);
  for (const one of document.querySelectorAll('a, button, summary'))
    if (!one.textContent.trim() && !one.ariaLabel) wrong.push(`no text: ${one.outerHTML.slice(0, 80)}`);
  const colour = text => {
    const parts = text.match(/[\\d.]+/g).map(Number);
    const [r, g, b] = text.startsWith('color(') ? parts.map(part => part * 255) : parts;
    return {rgb: [r, g, b], alpha: parts.length > 3 ? parts[3] : 1};
  };
  const over = (top, below) => top.rgb.map((part, at) => part * top.alpha + below[at] * (1 - top.alpha));
  const ground = one => {
    const layers = [];
    for (let at = one; at; at = at.parentElement) {
      const layer = colour(getComputedStyle(at).backgroundColor);
      layers.push(layer);
      if (layer.alpha === 1) break;
    }
    return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255]);
  };
  const light = rgb => {
    const [r, g, b] = rgb.map(part => part / 255)
      .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const one = texts.currentNode.parentElement;
    const text = texts.currentNode.textContent.trim();
    if (!text || one.closest('.visually-hidden, :disabled, script, noscript')) continue;
    if (!one.checkVisibility({visibilityProperty: true})) continue;
    const style = getComputedStyle(one);
    const below = ground(one);
    const [a, b] = [light(over(colour(style.color), below)), light(below)];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    if (contrast < (large ? 3 : 4.5)) wrong.push(`hard to read (${contrast.toFixed(1)}): ${text.slice(0, 60)}`);
  }
  return wrong;
}
"""
"""What is wrong with a page for whoever reads it: cut off, unnamed, or with less contrast than WCAG 2.2 AA asks for."""


async def reach(page: Page, name: str, *, most: int = 90) -> None:
    """Press Tab until a control of this name has the focus, and see that it shows."""
    for _ in range(most):
        await page.keyboard.press("Tab")
        told = await page.evaluate(
            """() => {
              const one = document.activeElement, style = getComputedStyle(one.closest('.choice') ?? one);
              const label = one.labels?.[0]?.querySelector('strong') ?? one.labels?.[0] ?? one;
              return [label.textContent.trim(), style.outlineStyle !== 'none' || style.boxShadow !== 'none'];
            }"""
        )
        if told[0].startswith(name):
            assert told[1], f"{name} has the focus, and nobody sees it"
            return
    raise AssertionError(f"the keyboard does not reach {name}")


async def unreadable(page: Page, pages: Mapping[str, str]) -> dict[str, list[str]]:
    """Look at pages, by name, with everything unfolded; return what is wrong with those that cannot be read."""
    found: dict[str, list[str]] = {}
    for name, path in pages.items():
        answer = await page.goto(path)
        assert answer is not None
        assert answer.status == 200, name
        await page.evaluate("document.querySelectorAll('main details').forEach(one => { one.open = true })")
        if wrong := await page.evaluate(READS):
            found[name] = wrong
    return found
