"use strict";

// The page is whole without this: it only adds sorting, finding, and moving about in the maps.
{
  const said = document.getElementById("said");
  const order = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

  function value(row, column) {
    const cell = row.cells[column];
    return cell.dataset.value ?? cell.textContent.trim();
  }

  function sort(table, header) {
    const downwards = header.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", downwards ? "descending" : "ascending");
    const column = header.cellIndex;
    const sign = downwards ? -1 : 1;
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const numbers = rows.every((row) => row.cells[column].dataset.value !== undefined);
    const keys = new Map(rows.map((row) => [row, value(row, column)]));
    rows.sort((a, b) => {
      const [left, right] = [keys.get(a), keys.get(b)];
      return sign * (numbers ? left - right : order.compare(left, right));
    });
    body.replaceChildren(...rows);
    const name = header.textContent.trim();
    said.textContent = `Sorted by ${name}, ${downwards ? "descending" : "ascending"}`;
  }

  for (const table of document.querySelectorAll("table[data-sortable]")) {
    for (const header of table.tHead.rows[0].cells) {
      if (header.dataset.unsorted !== undefined) continue;
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.textContent = header.textContent;
      button.addEventListener("click", () => sort(table, header));
      header.replaceChildren(button);
    }
  }

  for (const field of document.querySelectorAll("input[data-filters]")) {
    const rows = [...document.getElementById(field.dataset.filters).tBodies[0].rows];
    const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
    const told = document.getElementById(field.getAttribute("aria-describedby"));
    field.addEventListener("input", () => {
      const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        row.hidden = !words.every((word) => texts.get(row).includes(word));
        if (!row.hidden) shown += 1;
      }
      told.textContent =
        shown === rows.length ? `${shown} components` : `${shown} of ${rows.length} components`;
    });
    field.closest("[role=search]").hidden = false;
  }

  // One tile of a map is in the tab order; arrow keys go to the nearest one in their direction.
  const across = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

  function neighbour(tiles, from, [right, down]) {
    const here = from.getBoundingClientRect();
    const middle = { x: here.x + here.width / 2, y: here.y + here.height / 2 };
    let best = null;
    let least = Infinity;
    for (const tile of tiles) {
      const there = tile.getBoundingClientRect();
      const ahead =
        right > 0 ? there.left - here.right
        : right < 0 ? here.left - there.right
        : down > 0 ? there.top - here.bottom
        : here.top - there.bottom;
      if (tile === from || ahead < -1) continue;
      const aside = right
        ? Math.max(there.top - middle.y, middle.y - there.bottom, 0)
        : Math.max(there.left - middle.x, middle.x - there.right, 0);
      const distance = Math.max(ahead, 0) + 4 * aside;
      if (distance < least) [best, least] = [tile, distance];
    }
    return best;
  }

  for (const map of document.querySelectorAll("[data-map]")) {
    const tiles = [...map.querySelectorAll(".tile")];
    const told = document.getElementById(map.dataset.map);
    const tell = (tile) => { told.textContent = tile.getAttribute("aria-label"); };

    function enter(tile) {
      for (const other of tiles) other.tabIndex = other === tile ? 0 : -1;
      tell(tile);
    }

    for (const tile of tiles) {
      tile.addEventListener("focus", () => enter(tile));
      tile.addEventListener("click", () => tile.focus());
      tile.addEventListener("pointerenter", () => tell(tile));
    }
    map.addEventListener("keydown", (event) => {
      if (event.altKey || event.ctrlKey || event.metaKey) return;
      const to =
        event.key === "Home" ? tiles[0]
        : event.key === "End" ? tiles[tiles.length - 1]
        : across[event.key] ? neighbour(tiles, event.target, across[event.key])
        : undefined;
      if (to === undefined) return;
      event.preventDefault();
      to?.focus();
    });
  }

  for (const button of document.querySelectorAll("button.fit")) {
    const chart = document.getElementById(button.getAttribute("aria-controls"));
    button.hidden = false;
    button.addEventListener("click", () => {
      const fits = chart.classList.toggle("fits");
      button.setAttribute("aria-pressed", String(fits));
    });
  }

  // What is folded away belongs on paper, too; afterwards the page is as it was.
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const details of opened) details.open = true;
  });
  addEventListener("afterprint", () => {
    for (const details of opened) details.open = false;
  });
}
