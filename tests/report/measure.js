// What the tests of the report card measure in a page: run by a wrapper page that shows the report in frames.
// Everything is returned as plain values; the test decides what is wrong.

const named = (element) =>
  element.tagName.toLowerCase() + (element.id ? "#" + element.id : "") +
  [...element.classList].map((name) => "." + name).join("");

// A box may leave the window where an ancestor scrolls or clips it.
function insideScroller(element, view) {
  for (let parent = element.parentElement; parent; parent = parent.parentElement) {
    const style = view.getComputedStyle(parent);
    if (style.overflowX !== "visible" && parent !== view.document.documentElement && parent !== view.document.body) {
      return true;
    }
  }
  return false;
}

function outside(view) {
  const width = view.document.documentElement.clientWidth;
  return [...view.document.body.querySelectorAll("*")]
    .filter((element) => {
      const box = element.getBoundingClientRect();
      const hidden = element.closest(".vh, .skip") || (box.width === 0 && box.height === 0);
      return !hidden && (box.right > width + 1 || box.left < -1) && !insideScroller(element, view);
    })
    .map(named);
}

function cut(view) {
  return [...view.document.body.querySelectorAll("*")]
    .filter((element) => {
      const style = view.getComputedStyle(element);
      const hides = ["hidden", "clip"].includes(style.overflowX) || ["hidden", "clip"].includes(style.overflowY);
      const over = element.scrollWidth > element.clientWidth + 1 || element.scrollHeight > element.clientHeight + 1;
      return hides && over && !element.closest(".vh, svg");
    })
    .map(named);
}

function colour(text) {
  const values = text.match(/-?[\d.]+(e-?\d+)?/g).map(Number);
  const [red, green, blue] = text.startsWith("color(srgb") ? values.slice(0, 3).map((v) => 255 * v) : values;
  return [red, green, blue, values.length > 3 ? values[3] : 1];
}

function luminance(rgb) {
  const [red, green, blue] = rgb.map((value) => {
    const share = value / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

function background(element, view) {
  const layers = [];
  for (let parent = element; parent; parent = parent.parentElement) {
    const layer = colour(view.getComputedStyle(parent).backgroundColor);
    if (layer[3] > 0) layers.unshift(layer);
    if (layer[3] === 1) break;
  }
  return layers.reduce(
    (below, [red, green, blue, alpha]) =>
      [red, green, blue].map((value, index) => alpha * value + (1 - alpha) * below[index]),
    [255, 255, 255],
  );
}

// Contrast of every text with what lies behind it, as WCAG 2.2 defines it.
function faint(view) {
  const found = {};
  const walker = view.document.createTreeWalker(view.document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || ["SCRIPT", "STYLE"].includes(element.tagName)) continue;
    if (element.closest(".vh, .skip") || !element.getClientRects().length) continue;
    const style = view.getComputedStyle(element);
    const ink = colour(element.closest("svg") ? style.fill : style.color).slice(0, 3);
    const [high, low] = [luminance(ink), luminance(background(element, view))].sort((a, b) => b - a);
    const ratio = (high + 0.05) / (low + 0.05);
    const name = named(element);
    if (!(name in found) || ratio < found[name]) found[name] = ratio;
  }
  return found;
}

function skippedHeadings(view) {
  const levels = [...view.document.querySelectorAll("h1, h2, h3, h4, h5, h6")].map((heading) => Number(heading.tagName[1]));
  return levels.filter((level, index) => level > (index ? levels[index - 1] : 0) + 1).length;
}

async function pictures(view) {
  const sizes = {};
  for (const image of view.document.images) {
    image.loading = "eager";
    if (!image.complete) await new Promise((done) => (image.onload = image.onerror = done));
    sizes[image.alt] = image.naturalWidth * image.getBoundingClientRect().width;
  }
  return sizes;
}

async function measure(frame) {
  const view = frame.contentWindow;
  const page = view.document;
  const size = (element) => element.getBoundingClientRect().width * element.getBoundingClientRect().height;
  const folded = () => page.querySelectorAll("details:not([open])").length;
  const look = () => ({
    theme: view.getComputedStyle(page.documentElement).colorScheme,
    page: view.getComputedStyle(page.body).backgroundColor,
    contrast: faint(view),
  });

  const before = folded();
  view.dispatchEvent(new view.Event("beforeprint"));
  const opened = folded();
  const result = {
    width: view.innerWidth,
    overflow: page.documentElement.scrollWidth - page.documentElement.clientWidth,
    outside: outside(view),
    cut: cut(view),
    scrolled: [...page.querySelectorAll(".scroll")].filter((box) => box.scrollWidth > box.clientWidth)
      .map((box) => [box.getAttribute("aria-label"), box.scrollWidth - box.clientWidth]),
    sections: Object.fromEntries([...page.querySelectorAll("section")].map((s) => [s.id, size(s)])),
    linked: [...page.querySelectorAll("nav a")].map((link) => link.hash.slice(1)),
    tables: [...page.querySelectorAll("table")].map((table) => [
      table.caption ? table.caption.textContent.trim() : "", size(table),
      table.querySelectorAll("tbody th[scope=row]").length, table.querySelectorAll("tbody tr").length,
    ]),
    drawings: [...page.querySelectorAll("svg[role=img]")].filter((svg) => svg.getClientRects().length)
      .map((svg) => [svg.getAttribute("aria-label") || svg.querySelector("title, desc").textContent, size(svg)]),
    headings: skippedHeadings(view),
    pictures: await pictures(view),
    first: look(),
  };
  page.getElementById("theme").click();
  result.second = look();
  try {
    result.stored = view.localStorage.getItem("report-theme");
  } catch (error) {
    result.stored = "refused";
  }
  page.getElementById("theme").click();
  result.third = view.getComputedStyle(page.documentElement).colorScheme;
  view.dispatchEvent(new view.Event("afterprint"));
  result.folded = [before, opened, folded()];
  result.errors = view.caught;
  return result;
}

addEventListener("load", async () => {
  const output = document.createElement("pre");
  try {
    const results = [];
    for (const frame of document.querySelectorAll("iframe")) results.push(await measure(frame));
    output.textContent = JSON.stringify(results);
    output.id = "result";
  } catch (error) {
    output.textContent = error.stack;
  }
  document.body.append(output);
});
