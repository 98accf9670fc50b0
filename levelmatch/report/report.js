
"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const said = $("said");
  // A table shows this many rows until the reader asks for all, so that sorting stays fast.
  const MOST = 100;

  const make = (tag, text, attributes = {}) => {
    const element = document.createElement(tag);
    element.textContent = text;
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };

  // ---------------------------------------------------------------- tables

  class Sortable {
    constructor(table) {
      this.table = table;
      this.body = table.tBodies[0];
      this.rows = Array.from(this.body.rows);
      this.byId = new Map(this.rows.map((row) => [row.id, row]));
      this.order = this.rows.map((row, i) => i);
      this.heads = Array.from(table.tHead.rows[0].cells);
      this.names = this.heads.map((head) => head.textContent);
      this.keys = [];
      this.all = false;
      this.filter = null;
      this.chosen = null;
      this.heads.forEach((head, k) => {
        const button = make("button", this.names[k], { type: "button" });
        button.addEventListener("click", () => this.sort(k));
        head.replaceChildren(button);
      });
      this.more = make("button", "", { type: "button", class: "more" });
      this.more.addEventListener("click", () => { this.all = true; this.show(); });
      this.tools = make("div", "", { class: "tools" });
      this.tools.append(this.more);
      table.parentElement.before(this.tools);
      this.show();
    }

    // The sort key of each row: the number in the cell, or the rank of its text.
    key(k) {
      if (!this.keys[k]) {
        const text = this.rows.map((row) => row.cells[k].textContent);
        let values;
        if (this.heads[k].classList.contains("number")) {
          values = text.map((t) => parseFloat(t.replaceAll("\u2212", "-")));
        } else {
          const collator = new Intl.Collator("en", { numeric: true });
          const distinct = Array.from(new Set(text)).sort(collator.compare);
          const rank = new Map(distinct.map((t, i) => [t, i]));
          values = text.map((t) => rank.get(t));
        }
        this.keys[k] = Float64Array.from(values);
      }
      return this.keys[k];
    }

    sort(k) {
      const head = this.heads[k];
      const direction = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
      const sign = direction === "ascending" ? 1 : -1;
      const key = this.key(k);
      // Cells without a number go last in both directions; equal rows keep their order.
      this.order.sort((i, j) => {
        const x = key[i], y = key[j];
        if (x !== x || y !== y) return (x !== x) - (y !== y);
        return sign * (x - y);
      });
      for (const other of this.heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", direction);
      // Readers sort to see the first rows.
      this.all = false;
      this.show();
      said.textContent = `Sorted by ${this.names[k]}, ${direction}`;
    }

    // Show the rows that pass the filter, but at most MOST of them unless all are asked for.
    show() {
      let rows = this.order.map((i) => this.rows[i]);
      if (this.filter !== null) rows = rows.filter(this.filter);
      const n = rows.length;
      this.body.replaceChildren(...(this.all ? rows : rows.slice(0, MOST)));
      this.more.hidden = this.all || n <= MOST;
      this.more.textContent = `Show all ${n} rows`;
      return n;
    }

    choose(row) {
      if (this.chosen) this.chosen.classList.remove("chosen");
      this.chosen = row;
      row.classList.add("chosen");
    }

    reveal(row) {
      if (this.filter !== null && !this.filter(row)) this.clear();
      if (!row.isConnected) { this.all = true; this.show(); }
      this.choose(row);
      row.tabIndex = -1;
      row.scrollIntoView({ block: "center" });
      row.focus({ preventScroll: true });
    }
  }

  const tables = {};
  for (const id of ["images", "pairs"]) if ($(id)) tables[id] = new Sortable($(id));
  // The table and row that a link leads to, whether the row is shown or not.
  const target = (href) => {
    const id = (href || "").slice(1);
    for (const table of Object.values(tables)) {
      if (table.byId.has(id)) return { table, row: table.byId.get(id) };
    }
    return null;
  };
  const endsOf = (row) => [0, 1].map((k) => row.cells[k].firstElementChild.getAttribute("href"));

  // Filter the pairs by the name of an image, typed or taken from its row.
  if (tables.pairs) {
    const pairs = tables.pairs;
    const ends = new Map(pairs.rows.map((row) => [row, endsOf(row)]));
    const names = new Map(pairs.rows.map((row) => [
      row, [0, 1].map((k) => {
        const link = row.cells[k].firstElementChild;
        return `${link.textContent} ${link.title}`.toLowerCase();
      }).join(" "),
    ]));
    const label = make("label", "Pairs of ", {});
    const input = make("input", "", { type: "search", id: "of", placeholder: "part of a name" });
    label.append(input);
    const clear = make("button", "Show all pairs", { type: "button", id: "every" });
    const apply = (filter, words) => {
      pairs.filter = filter;
      const n = pairs.show();
      clear.hidden = filter === null;
      said.textContent = filter === null ? "All pairs" : `${n} pairs of ${words}`;
    };
    pairs.clear = () => { input.value = ""; apply(null); };
    clear.hidden = true;
    clear.addEventListener("click", () => { pairs.clear(); input.focus(); });
    input.addEventListener("input", () => {
      const text = input.value.trim().toLowerCase();
      apply(text === "" ? null : (row) => names.get(row).includes(text), text);
    });
    pairs.tools.prepend(label, clear);
    const column = tables.images.names.indexOf("Pairs");
    tables.images.rows.forEach((row) => {
      const cell = row.cells[column], count = cell.textContent;
      if (count === "0") return;
      const name = row.cells[0].textContent;
      const button = make("button", count, { type: "button", class: "of", "aria-label": `${count} pairs of ${name}` });
      button.addEventListener("click", () => {
        const own = `#${row.id}`;
        input.value = "";
        apply((other) => ends.get(other).includes(own), name);
        $("pairs").parentElement.scrollIntoView({ block: "nearest" });
        clear.focus();
      });
      cell.replaceChildren(button);
    });
  }

  // A link to a row shows the row, marks it and gives it the focus.
  document.addEventListener("click", (event) => {
    const link = event.target.closest && event.target.closest("table a[href^='#'], #shown a[href^='#'], .headline a[href^='#']");
    const found = link && target(link.getAttribute("href"));
    if (!found) return;
    event.preventDefault();
    found.table.reveal(found.row);
  });
  const follow = () => {
    const found = target(location.hash);
    if (found) found.table.reveal(found.row);
  };
  window.addEventListener("hashchange", follow);

  // ---------------------------------------------------------------- before and after

  const cut = $("cut"), compare = $("compare");
  if (cut && compare) {
    // The cut moves over the map, not over its labels. The box is in per cent of the picture.
    const [left, right, top, bottom] = compare.dataset.box.split(" ").map(Number);
    compare.style.setProperty("--top", `${top}%`);
    compare.style.setProperty("--below", `${100 - bottom}%`);
    cut.style.marginLeft = `${left}%`;
    cut.style.width = `${right - left}%`;
    const set = () => {
      compare.style.setProperty("--cut", `${left + (right - left) * cut.value / 100}%`);
      cut.setAttribute("aria-valuetext", `${cut.value} % before, ${100 - cut.value} % after`);
    };
    const drag = (event) => {
      const box = compare.getBoundingClientRect();
      const x = 100 * (event.clientX - box.left) / box.width;
      cut.value = Math.round(100 * (x - left) / (right - left));
      set();
    };
    cut.addEventListener("input", set);
    const slides = () => compare.classList.contains("on");
    compare.addEventListener("pointerdown", (event) => {
      if (slides()) { event.preventDefault(); drag(event); }
    });
    compare.addEventListener("pointermove", (event) => {
      if (slides() && event.buttons & 1) drag(event);
    });
    const aside = $("aside"), over = $("over");
    const lay = (slide) => {
      compare.classList.toggle("on", slide);
      cut.parentElement.hidden = !slide;
      over.setAttribute("aria-pressed", slide);
      aside.setAttribute("aria-pressed", !slide);
    };
    over.addEventListener("click", () => lay(true));
    aside.addEventListener("click", () => lay(false));
    $("ways").hidden = false;
    // A narrow window has no room for two maps side by side.
    lay(compare.clientWidth < 900);
    set();
  }

  // ---------------------------------------------------------------- the worst pairs

  const gallery = $("differences");
  if (gallery && gallery.children.length > 6) {
    gallery.classList.add("on");
    const more = make("button", `Show all ${gallery.children.length} pictures`, { type: "button", class: "more", id: "pictures" });
    more.addEventListener("click", () => { gallery.classList.add("all"); more.hidden = true; });
    const tools = make("p", "", { class: "tools" });
    tools.append(more);
    gallery.after(tools);
  }

  // ---------------------------------------------------------------- the overlaps

  const graph = $("graph"), tip = $("tip"), shown = $("shown");
  if (graph) {
    for (const note of document.querySelectorAll(".scripted")) note.hidden = false;
    // The arrow keys visit the links first, the largest residual first and links left out of the
    // fit last, then the images.
    const marks = Array.from(graph.querySelectorAll("a"));
    const links = marks.filter((mark) => !mark.classList.contains("node")).reverse();
    const nodes = marks.filter((mark) => mark.classList.contains("node"));
    const path = links.concat(nodes);
    const words = new Map();
    for (const mark of path) {
      const title = mark.querySelector("title");
      words.set(mark, title.textContent);
      mark.setAttribute("aria-label", title.textContent);
      title.remove();
    }
    const lines = links.map((link) => link.querySelector("path").getAttribute("d").match(/-?[\d.]+/g).map(Number));
    let current = path[0];
    if (current) current.setAttribute("tabindex", "0");

    const hide = () => {
      tip.hidden = true;
      for (const mark of graph.querySelectorAll(".lit")) mark.classList.remove("lit");
    };
    const tell = (mark, x, y) => {
      hide();
      mark.classList.add("lit");
      tip.textContent = words.get(mark);
      tip.hidden = false;
      const box = tip.getBoundingClientRect();
      tip.style.left = `${Math.max(4, Math.min(x + 12, innerWidth - box.width - 4))}px`;
      tip.style.top = `${Math.max(4, y + 16 + box.height > innerHeight ? y - box.height - 12 : y + 16)}px`;
    };
    const move = (mark) => {
      current.setAttribute("tabindex", "-1");
      current = mark;
      current.setAttribute("tabindex", "0");
    };

    // The image under the pointer, or the nearest link within reach of a finger. The distance
    // tells links apart that lie on each other.
    const near = (event) => {
      const direct = event.target.closest("a");
      if (direct && direct.classList.contains("node")) return direct;
      const matrix = graph.getScreenCTM();
      const x = (event.clientX - matrix.e) / matrix.a, y = (event.clientY - matrix.f) / matrix.d;
      let best = null, least = (10 / matrix.a) ** 2;
      lines.forEach(([x1, y1, x2, y2], k) => {
        const dx = x2 - x1, dy = y2 - y1;
        const t = Math.max(0, Math.min(1, ((x - x1) * dx + (y - y1) * dy) / (dx * dx + dy * dy || 1)));
        const distance = (x1 + t * dx - x) ** 2 + (y1 + t * dy - y) ** 2;
        if (distance < least) { least = distance; best = links[k]; }
      });
      return best || direct;
    };

    const show = (mark) => {
      const { table, row } = target(mark.getAttribute("href"));
      table.choose(row);
      const list = make("dl", "");
      Array.from(row.cells).forEach((cell, k) => {
        const part = make("div", "");
        const named = cell.querySelector("[title]");
        part.append(make("dt", table.names[k]), make("dd", (named && named.title) || cell.textContent));
        list.append(part);
      });
      const go = make("p", "");
      go.append(make("a", "Go to its row in the table", { href: mark.getAttribute("href") }));
      shown.replaceChildren(make("h3", words.get(mark)), list);
      const picture = $(`d${row.id.slice(1)}`);
      if (picture && row.id[0] === "p") {
        const copy = picture.cloneNode(true);
        copy.removeAttribute("id");
        for (const image of copy.querySelectorAll("img")) image.removeAttribute("loading");
        shown.append(copy);
      }
      shown.append(go);
      shown.hidden = false;
      said.textContent = words.get(mark);
      move(mark);
      for (const other of marks) other.classList.toggle("picked", other === mark);
      // The tip would cover the details that follow. Scroll to them: they may lie below the window.
      hide();
      shown.scrollIntoView({ block: "nearest" });
    };

    graph.addEventListener("pointermove", (event) => {
      const mark = near(event);
      if (mark) tell(mark, event.clientX, event.clientY); else hide();
    });
    graph.addEventListener("pointerleave", hide);
    graph.addEventListener("click", (event) => {
      const mark = near(event);
      event.preventDefault();
      if (mark) show(mark);
    });
    graph.addEventListener("focusin", (event) => {
      const mark = event.target.closest("a");
      if (!mark) return;
      move(mark);
      const box = mark.getBoundingClientRect();
      tell(mark, box.left + box.width / 2, box.top + box.height / 2);
    });
    graph.addEventListener("focusout", hide);
    graph.addEventListener("keydown", (event) => {
      const k = path.indexOf(current);
      const steps = { ArrowRight: k + 1, ArrowDown: k + 1, ArrowLeft: k - 1, ArrowUp: k - 1, Home: 0, End: path.length - 1 };
      if (event.key === "Escape") hide();
      if (event.key === " " || event.key === "Enter") { event.preventDefault(); show(current); }
      if (!(event.key in steps)) return;
      event.preventDefault();
      const next = path[Math.max(0, Math.min(path.length - 1, steps[event.key]))];
      move(next);
      next.focus();
    });
  }
  follow();
})();
