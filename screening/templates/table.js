// The ranked table: sorting, filtering and paging. Only one page of rows is ever in the document.
"use strict";
const report = JSON.parse(document.getElementById("data").textContent);
report.rows = report.rows.map((values, index) => {
  const row = Object.fromEntries(report.columns.map((name, i) => [name, values[i]]));
  row.rank = index + 1;
  row.group_name = report.groups[row.group] ?? "not found";
  row.elements = row.formula.match(/[A-Z][a-z]?/g) ?? [];
  row.words = `${row.formula} ${row.group_name} ${row.known ?? ""} ${row.sample}`.toLowerCase();
  return row;
});
report.typeset = formula => formula.replace(/\d/g, digit => "₀₁₂₃₄₅₆₇₈₉"[digit]);
report.signed = energy => energy === null ? "" :
  (energy < 0 ? "−" : "+") + Math.abs(energy).toFixed(3);
report.say = row => row.known ? `known: ${row.known}` : row.novel ? "novel" : "";

if (report.rows.length) {
  const PAGE = 25;
  const table = document.getElementById("candidates"), body = table.tBodies[0];
  const form = document.getElementById("filters"), pager = document.getElementById("pager");
  const [before, place, after] = pager.children;
  const titles = [...table.tHead.rows[0].cells];
  const shown = {
    formula: row => report.typeset(row.formula), group: row => row.group_name,
    hull: row => report.signed(row.hull), rescored: row => report.signed(row.rescored), self: row => report.signed(row.self),
    formation: row => report.signed(row.formation), known: report.say,
    neutral: row => row.neutral === null ? "" : row.neutral ? "yes" : "no",
  };
  // What a column is sorted by, where that is not its value.
  const keys = { known: row => report.say(row) || null };
  let found = report.rows, page = 0, sorting = { key: "rank", sign: 1 };

  const cell = (row, title) => {
    const made = document.createElement("td"), key = title.dataset.key;
    const text = shown[key] ? shown[key](row) : row[key] ?? "";
    made.className = title.className;
    if (key === "formula" && report.scenes[row.rank - 1]) {
      const button = made.appendChild(document.createElement("button"));
      button.type = "button";
      button.textContent = text;
      button.title = "Show this crystal";
      button.addEventListener("click", () => report.show(row.rank - 1, true));
    } else made.textContent = text;
    return made;
  };

  const draw = () => {
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    page = Math.min(page, pages - 1);
    const first = page * PAGE, rows = found.slice(first, first + PAGE);
    body.replaceChildren(...rows.map(row => {
      const made = document.createElement("tr");
      made.append(...titles.map(title => cell(row, title)));
      return made;
    }));
    const range = rows.length ? `${first + 1} to ${first + rows.length} of ` : "";
    const all = found.length < report.rows.length ? ` (${report.rows.length} without filters)` : "";
    place.textContent = `${range}${found.length} candidates${all}`;
    before.disabled = page === 0;
    after.disabled = page === pages - 1;
    for (const title of titles) title.removeAttribute("aria-sort");
    const sorted = titles.find(title => title.dataset.key === sorting.key);
    sorted.setAttribute("aria-sort", sorting.sign > 0 ? "ascending" : "descending");
  };

  const compare = (a, b) => {
    const value = keys[sorting.key] ?? (row => row[sorting.key]);
    const [left, right] = [value(a), value(b)];
    // Empty cells stay last either way.
    if (left === null || right === null) return (left === null) - (right === null);
    const order = typeof left === "string" ? collator.compare(left, right) : left - right;
    return sorting.sign * order || a.rank - b.rank;
  };
  const collator = new Intl.Collator("en", { numeric: true });

  const search = () => {
    const words = form.text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const elements = [...form.querySelectorAll("[name=element]:checked")].map(box => box.value);
    const group = form.group.value, highest = form.highest.valueAsNumber;
    found = report.rows.filter(row =>
      words.every(word => row.words.includes(word)) &&
      elements.every(element => row.elements.includes(element)) &&
      (!group || String(row.group) === group) &&
      !(row.hull > highest) && (!form.novel.checked || row.novel)
    ).sort(compare);
    page = 0;
    draw();
  };

  for (const title of titles) {
    title.firstElementChild.addEventListener("click", () => {
      const again = sorting.key === title.dataset.key;
      sorting = { key: title.dataset.key, sign: again ? -sorting.sign : 1 };
      search();
    });
  }
  form.addEventListener("input", search);
  form.addEventListener("submit", event => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(search));
  before.addEventListener("click", () => { page -= 1; draw(); });
  after.addEventListener("click", () => { page += 1; draw(); });
  search();
}
