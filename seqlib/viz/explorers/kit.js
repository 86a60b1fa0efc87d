// Small pieces that the explorers share: elements, controls, bars.
const make = (tag, props = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), props);
  for (const [k, v] of Object.entries(props.data ?? {})) node.dataset[k] = v;
  node.append(...children);
  return node;
};
const slider = (text, min, max, step, value, format, change) => {
  const shown = make("b", { textContent: format(value) });
  const input = make("input", { type: "range", min, max, step, value });
  input.setAttribute("aria-label", text);
  input.oninput = () => { shown.textContent = format(+input.value); change(+input.value); };
  return make("label", {}, text, input, shown);
};
const select = (text, names, change) => {
  const input = make("select", {}, ...names.map((n, i) => make("option", { value: i, textContent: n })));
  input.setAttribute("aria-label", text);
  input.onchange = () => change(+input.value);
  return make("label", {}, text, input);
};
const toggle = (text, checked, change) => {
  const input = make("input", { type: "checkbox", checked });
  input.onchange = () => change(input.checked);
  return make("label", {}, input, text);
};
const bar = (value, top) => {
  const share = Math.min(Math.abs(value) / (top || 1), 1) * 50;
  const fill = make("i");
  fill.style.cssText = value >= 0
    ? `left:50%;width:${share}%;background:var(--plus)` : `right:50%;width:${share}%;background:var(--minus)`;
  return make("div", { className: "track" }, fill);
};
const fixed = (x, n = 3) => (Object.is(x, -0) ? 0 : x).toFixed(n);
const dot = (a, b) => a.reduce((s, x, i) => s + x * b[i], 0);
