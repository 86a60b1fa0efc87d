// Small pieces that the explorers share: elements, controls, bars, packed numbers, charts.
const make = (tag, props = {}, ...children) => {
  const { data, aria, ...rest } = props, node = Object.assign(document.createElement(tag), rest);
  for (const [k, v] of Object.entries(data ?? {})) node.dataset[k] = v;
  for (const [k, v] of Object.entries(aria ?? {})) node.setAttribute(k === "role" ? k : `aria-${k}`, v);
  node.append(...children);
  return node;
};
const slider = (text, min, max, step, value, format, change) => {
  const shown = make("b", { textContent: format(value) });
  const input = make("input", { type: "range", min, max, step });
  input.value = value;                                     // after min and max, or it would be clamped
  const say = v => { shown.textContent = format(v); input.setAttribute("aria-valuetext", format(v)); };
  input.setAttribute("aria-label", text);
  input.oninput = () => { say(+input.value); change(+input.value); };
  say(+value);
  return make("label", { className: "slider" }, make("span", { textContent: text }), input, shown);
};
const select = (text, names, change, chosen = 0) => {
  const input = make("select", {}, ...names.map((n, i) => make("option", { value: i, textContent: n, selected: i === chosen })));
  input.setAttribute("aria-label", text);
  input.onchange = () => change(+input.value);
  return make("label", {}, make("span", { textContent: text }), input);
};
const toggle = (text, checked, change) => {
  const input = make("input", { type: "checkbox", checked });
  input.onchange = () => change(input.checked);
  return make("label", {}, input, make("span", { textContent: text }));
};
const reset = action => { const b = make("button", { type: "button", className: "reset", textContent: "start again" }); b.onclick = action; return b; };
const fixed = (x, n = 3) => {
  const text = Math.abs(x) < 0.5 * 10 ** -n ? (0).toFixed(n) : x.toFixed(n);
  return text.replace("-", "−");
};
const dot = (a, b) => { let s = 0; for (let i = 0; i < a.length; i++) s += a[i] * b[i]; return s; };

// A bar whose zero lies left when nothing can be negative, else in the middle.
const setBar = (track, value, top, signed) => {
  const share = top > 0 ? Math.min(Math.abs(value) / top, 1) * (signed ? 50 : 100) : 0;
  track.classList.toggle("signed", signed);
  track.firstChild.style.cssText = value >= 0
    ? `left:${signed ? 50 : 0}%;width:${share}%;background:var(--plus)` : `right:50%;width:${share}%;background:var(--minus)`;
};
const bar = (value, top, signed = true) => {
  const track = make("div", { className: "track" }, make("i"));
  setBar(track, value, top, signed);
  return track;
};

// Named rows that stay in the page, so that the keyboard's focus survives a redraw. With `press`
// the names are buttons that count an event or leave it out.
const table = (names, notes, press) => {
  const box = make("div", { className: "rows" });
  const rows = names.map((n, j) => {
    const name = press ? make("button", { type: "button", className: "name" }, make("span", { textContent: n })) : make("span", { className: "name" }, n);
    if (notes?.[j]) name.append(make("small", { textContent: ` ${notes[j]}` }));
    if (press) name.onclick = () => press(j);
    const track = bar(0, 1), number = make("span", { className: "num" });
    box.append(make("div", { className: "row" }, name, track, number));
    return { name, track, number };
  });
  const update = (values, { top, off, digits = 3, texts } = {}) => {
    const known = values.map(v => v ?? 0), signed = known.some(v => v < 0);
    const high = top ?? Math.max(...known.map(Math.abs), 1e-12);
    rows.forEach((r, j) => {
      setBar(r.track, known[j], high, signed);
      r.number.textContent = texts?.[j] ?? (values[j] === null ? "–" : fixed(values[j], digits));
      if (press) {
        r.name.classList.toggle("off", !!off?.has(j));
        r.name.setAttribute("aria-pressed", String(!off?.has(j)));
        r.name.setAttribute("aria-label", `${names[j]}${notes?.[j] ? `, ${notes[j]}` : ""}: ${off?.has(j) ? "left out" : "counted"}`);
      }
    });
  };
  return { box, update };
};

// A matrix is a nested list, or {shape, scale, bits, text}: whole numbers in characters of six bits.
const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const unpack = m => {
  if (!m || !m.text) return m ?? null;
  const code = new Map([...ALPHABET].map((c, i) => [c, i])), half = 2 ** (m.bits - 1), flat = [];
  const size = m.shape.reduce((a, b) => a * b, 1);
  let held = 0, n = 0;                                     // bits read and not yet used
  for (const c of m.text) {
    held = held * 64 + code.get(c); n += 6;
    while (n >= m.bits && flat.length < size) {
      const rest = 2 ** (n - m.bits), v = Math.floor(held / rest);
      flat.push((v - half) * m.scale); held -= v * rest; n -= m.bits;
    }
  }
  const cut = (shape, at, size) => shape.length === 1 ? flat.slice(at, at + shape[0])
    : Array.from({ length: shape[0] }, (_, i) => cut(shape.slice(1), at + i * size / shape[0], size / shape[0]));
  return cut(m.shape, 0, flat.length);
};

const svg = (width, height, label) => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  node.setAttribute("viewBox", `0 0 ${width} ${height}`);
  node.setAttribute("role", "img");
  node.setAttribute("aria-label", label);
  return node;
};
const at = x => x.toFixed(1);
