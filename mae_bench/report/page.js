"use strict";
// Headings of tables become buttons that sort; without this script the page is whole, only unsorted.
(() => {
  const missing = (value) => value === null || Number.isNaN(value);

  // What a cell sorts by: data-sort, else its text, as a number where it is one.
  const keyOf = (cell) => {
    if (!cell) return null;
    const raw = cell.dataset.sort ?? cell.textContent.trim();
    if (raw === "" || raw === "–" || raw === "nan") return null;
    const number = Number(raw.replace(/,/g, ""));
    return Number.isNaN(number) ? raw.toLowerCase() : number;
  };

  const compare = (a, b, sign) => {
    if (missing(a) || missing(b)) return missing(a) - missing(b); // what is missing stays below
    if (typeof a !== typeof b) return (typeof a === "number" ? -1 : 1) * sign;
    return sign * (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));
  };

  const sort = (table, heading, column) => {
    const order = heading.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
    for (const other of heading.parentNode.children) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    const body = table.tBodies[0];
    const keyed = [...body.rows].map((row) => [keyOf(row.cells[column]), row]);
    keyed.sort((a, b) => compare(a[0], b[0], sign));
    body.append(...keyed.map((pair) => pair[1]));
  };

  for (const table of document.querySelectorAll("table")) {
    const row = table.tHead && table.tHead.rows[0];
    if (!row || !table.tBodies.length || table.tBodies[0].rows.length < 2) continue;
    [...row.cells].forEach((heading, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      button.title = "Sort by this column";
      button.addEventListener("click", () => sort(table, heading, column));
      heading.append(button);
    });
  }

  // What scrolls sideways can be scrolled from the keyboard.
  for (const box of document.querySelectorAll(".scroll:not([tabindex]), .plot")) {
    box.tabIndex = 0;
    box.setAttribute("role", "region");
    const caption = box.querySelector("caption");
    box.setAttribute("aria-label", caption ? caption.textContent : "Figure");
  }
})();
