(() => {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const button = document.getElementById("theme");
  const current = () => root.dataset.theme || (dark.matches ? "dark" : "light");

  const label = () => {
    const other = current() === "dark" ? "light" : "dark";
    button.lastElementChild.textContent = other === "dark" ? "Dark" : "Light";
    button.setAttribute("aria-label", `Switch to the ${other} theme`);
  };
  button.hidden = false;
  label();
  dark.addEventListener("change", label);
  button.addEventListener("click", () => {
    root.dataset.theme = current() === "dark" ? "light" : "dark";
    try {
      localStorage.setItem("report-theme", root.dataset.theme);
    } catch (error) {
      // The choice then holds until the page is closed.
    }
    label();
  });

  // Paper cannot unfold anything: print everything, then fold it again.
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    opened.forEach((details) => (details.open = true));
    document.querySelectorAll("img[loading]").forEach((image) => (image.loading = "eager"));
  });
  addEventListener("afterprint", () => {
    opened.forEach((details) => (details.open = false));
    opened = [];
  });

  // The table of contents shows where the reader is.
  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  const strip = document.querySelector("nav");
  const mark = () => {
    const line = innerHeight / 3;
    const sections = [...document.querySelectorAll("section[id]")];
    const last = sections.filter((section) => section.getBoundingClientRect().top < line).pop();
    links.forEach((link, id) => {
      if (last && id === last.id) {
        if (link.getAttribute("aria-current") === "true") return;
        link.setAttribute("aria-current", "true");
        strip.scrollLeft = link.offsetLeft - strip.clientWidth / 2 + link.offsetWidth / 2;
      } else {
        link.removeAttribute("aria-current");
      }
    });
  };
  let waiting = false;
  addEventListener("scroll", () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      mark();
    });
  }, { passive: true });
  mark();
})();
