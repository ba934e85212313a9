"use strict";
// Tables that say so are sorted by the buttons in their headings, and filtered by the box before them. Without scripts
// there are neither, and all rows are shown in the order of the session.
const collator = new Intl.Collator("en", { numeric: true });
for (const table of document.querySelectorAll("table[data-sorts]")) {
  const rows = [...table.tBodies[0].rows];
  const headings = [...table.tHead.rows[0].cells];
  // By their values where a column has any, else by their texts; what is missing comes last either way.
  const keys = headings.map((_, at) => {
    const cells = rows.map(row => row.cells[at]);
    const byValue = cells.some(cell => "value" in cell.dataset);
    return new Map(cells.map((cell, index) => [
      rows[index],
      byValue ? ("value" in cell.dataset ? Number(cell.dataset.value) : null) : cell.textContent.trim() || null,
    ]));
  });
  const compare = (a, b) => typeof a === "number" ? a - b : collator.compare(a, b);
  const sort = at => {
    const order = headings[at].getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
    for (const heading of headings) heading.removeAttribute("aria-sort");
    headings[at].setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    const known = rows.filter(row => keys[at].get(row) !== null);
    known.sort((a, b) => sign * compare(keys[at].get(a), keys[at].get(b)));
    table.tBodies[0].append(...known, ...rows.filter(row => keys[at].get(row) === null));
  };
  headings.forEach((heading, at) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => sort(at));
  });
  headings[0].setAttribute("aria-sort", "ascending");

  const filter = table.parentElement.previousElementSibling;
  const [box, count] = [filter.querySelector("input"), filter.querySelector("[aria-live]")];
  const texts = new Map(rows.map(row => [row, row.textContent.toLowerCase()]));
  const show = () => {
    const words = box.value.toLowerCase().split(/\s+/);
    for (const row of rows) row.hidden = !words.every(word => texts.get(row).includes(word));
    count.textContent = `${rows.filter(row => !row.hidden).length} of ${rows.length}`;
  };
  box.addEventListener("input", show);
  filter.hidden = false;
  show();
}
