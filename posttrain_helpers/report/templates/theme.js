// Before the page is drawn: take the theme that the reader chose, if the browser keeps such choices here.
document.documentElement.classList.add("scripted");
try {
  const chosen = localStorage.getItem("report-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch (error) {
  // Storage is refused to some pages that are opened as files; the theme of the system is used.
}
