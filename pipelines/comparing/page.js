"use strict";
// Sort tables and compare the layers of two runs. Data are inserted as text, never as HTML.

for (const table of document.querySelectorAll("table.sortable")) makeSortable(table);

function makeSortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      sortBy(table, column, down ? -1 : 1);
    });
    head.replaceChildren(button);
  });
}

// Sort each table body on its own, since runs of different models are not comparable; headings stay first.
function sortBy(table, column, sign) {
  const rowsOf = (body) => [...body.rows].filter((row) => row.cells.length > 1);
  const value = (row) => row.cells[column].dataset.value ?? "";
  const all = [...table.tBodies].flatMap(rowsOf);
  const numbers = all.every((row) => value(row) === "" || !isNaN(value(row)));
  const compare = (a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === "" || y === "") return (x === "") - (y === ""); // missing values last
    return sign * (numbers ? x - y : x.localeCompare(y, undefined, { numeric: true }));
  };
  for (const body of table.tBodies) body.append(...rowsOf(body).sort(compare));
}

const compared = document.getElementById("compared");
if (compared) {
  const { runs, chosen } = JSON.parse(document.getElementById("layer-data").textContent);
  const choosers = ["first", "second"].map((id) => document.getElementById(id));
  choosers.forEach((chooser, i) => {
    runs.forEach((run, index) => chooser.add(new Option(run.title, index)));
    chooser.value = chosen[i];
    chooser.addEventListener("change", () => compare(...choosers.map((c) => runs[c.value])));
  });
  compare(runs[chosen[0]], runs[chosen[1]]);
}

function compare(a, b) {
  const place = (run) => new Map(run.names.map((name, i) => [name, i]));
  const [ia, ib] = [place(a), place(b)];
  const names = [...new Set([...a.names, ...b.names])];
  const shared = names.filter((name) => ia.has(name) && ib.has(name));
  const figure = (run, index, name, key) => (index.has(name) ? run[key][index.get(name)] : null);
  const ratio = (name, key) => {
    const [x, y] = [figure(a, ia, name, key), figure(b, ib, name, key)];
    return x > 0 && y > 0 ? y / x : null;
  };
  const widest = Math.max(Math.log(1.25), ...shared.map((n) => Math.abs(Math.log(ratio(n, "loss") ?? 1))));
  const rows = names.map((name) => {
    const row = document.createElement("tr");
    const shape = ia.has(name) ? a.shapes[ia.get(name)] : b.shapes[ib.get(name)];
    row.append(cell(name, name), cell(shape, null));
    for (const key of ["bits", "loss", "seconds"]) {
      for (const [run, index] of [[a, ia], [b, ib]]) row.append(number(figure(run, index, name, key), key === "seconds" ? 3 : 4));
      if (key === "loss") row.append(number(ratio(name, key), 3), bar(ratio(name, key), widest));
      if (key === "seconds") row.append(number(ratio(name, key), 3));
    }
    return row;
  });
  compared.tBodies[0].replaceChildren(...rows);
  for (const head of compared.tHead.rows[0].cells) head.removeAttribute("aria-sort");
  document.getElementById("verdict").textContent = verdict(a, b, names, shared, ratio);
}

function verdict(a, b, names, shared, ratio) {
  if (!shared.length) return "These two runs have no layer in common.";
  const known = shared.map((name) => ratio(name, "loss")).filter((r) => r !== null);
  const mean = Math.exp(known.reduce((sum, r) => sum + Math.log(r), 0) / known.length);
  const lower = known.filter((r) => r < 1).length;
  const total = (run) => run.seconds.reduce((sum, s) => sum + (s ?? 0), 0);
  const alone = names.length - shared.length;
  const losses = known.length
    ? `B's layer loss is ${show(mean, 3)} times A's (geometric mean over ${known.length} layers), and lower in ${lower} of them. `
    : "";
  return (
    losses +
    `Seconds over all layers: A ${show(total(a), 3)}, B ${show(total(b), 3)}.` +
    (alone ? ` ${alone} layers are in only one of the two runs.` : "")
  );
}

function cell(text, value) {
  const td = document.createElement("td");
  td.textContent = text;
  td.dataset.value = value ?? text;
  return td;
}

function number(value, digits = 4) {
  const td = cell(value === null ? "–" : show(value, digits), value ?? "");
  td.className = "number";
  return td;
}

function show(value, digits) {
  const text = String(Number(value.toPrecision(digits)));
  return text.replace("-", "−");
}

// Left and blue: B has the lower loss; right and orange: A has.
function bar(ratio, widest) {
  const td = cell("", ratio ?? "");
  td.className = "bar";
  if (ratio === null) return td;
  const part = (50 * Math.log(ratio)) / widest;
  const inner = document.createElement("i");
  inner.style.left = `${Math.min(50, 50 + part)}%`;
  inner.style.width = `${Math.abs(part)}%`;
  inner.className = part < 0 ? "better" : "worse";
  td.append(inner);
  return td;
}
