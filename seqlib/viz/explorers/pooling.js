// Mira's year through five pools; the arithmetic is that of seqlib.models.pooling.
function pooled(s) {
  const rows = [];
  for (let c = 0; c < s.copies; c++)
    s.tokens.forEach((e, j) => s.off.has(j) || rows.push({ e, age: s.ages[j], real: true, j }));
  for (let p = 0; p < s.pads; p++) rows.push({ e: s.axes.map(() => 0), age: 0, real: false, j: -1 });
  const seen = s.masked ? rows.filter(r => r.real) : rows;
  if (s.pool === "max") {
    const v = s.axes.map((_, d) => seen.length ? Math.max(...seen.map(r => r.e[d])) : 0);
    return { v, weights: s.tokens.map(() => null) };
  }
  let w = seen.map(r => s.pool.startsWith("recency") ? 2 ** (-r.age / s.halfLife) : 1);
  const total = w.reduce((a, b) => a + b, 0);
  if ((s.pool === "mean" || s.pool === "recency, normalised") && total > 0) w = w.map(x => x / total);
  const v = s.axes.map((_, d) => seen.reduce((a, r, i) => a + w[i] * r.e[d], 0));
  const weights = s.tokens.map((_, j) => seen.reduce((a, r, i) => a + (r.j === j ? w[i] : 0), 0));
  return { v, weights };
}
function render({ model, el }) {
  const s = { ...model.get("state"), pool: "mean", halfLife: 7, pads: 0, masked: true, copies: 1, off: new Set() };
  el.classList.add("seq-explorer", "seq-pooling");
  const pools = ["sum", "mean", "max", "recency", "recency, normalised"];
  const rows = make("div", { className: "rows" }), vector = make("div", { className: "rows" }), out = make("div", { className: "out" });
  const draw = () => {
    const { v, weights } = pooled(s), top = Math.max(...weights.map(x => Math.abs(x ?? 0)), 1e-9);
    rows.replaceChildren(...s.titles.flatMap((t, j) => {
      const name = make("button", { className: "name" + (s.off.has(j) ? " off" : "") }, t, make("small", { textContent: `  ${s.notes[j]}` }));
      name.onclick = () => { s.off.has(j) ? s.off.delete(j) : s.off.add(j); draw(); };
      return [name, bar(weights[j] ?? 0, top), make("span", { className: "num", textContent: weights[j] === null ? "–" : fixed(weights[j]) })];
    }));
    const high = Math.max(...v.map(Math.abs), 1e-9);
    vector.replaceChildren(...s.axes.flatMap((a, d) => [make("span", { textContent: a }), bar(v[d], high), make("span", { className: "num", textContent: fixed(v[d]) })]));
    const scores = s.candidates.map(q => dot(q, v)), order = scores.map((_, i) => i).sort((a, b) => scores[b] - scores[a]);
    out.replaceChildren(make("span", { textContent: "ranking:" }), ...order.map((i, r) => make("span", {}, `${r + 1}. ${s.candidateTitles[i]} `, make("b", { textContent: fixed(scores[i]) }))));
    el.dataset.vector = JSON.stringify(v); el.dataset.scores = JSON.stringify(scores); el.dataset.ready = "1";
  };
  const set = f => x => { f(x); draw(); };
  const choose = select("pool", pools, set(i => { s.pool = pools[i]; }));
  choose.querySelector("select").value = 1;
  const days = x => { const d = 2 ** x; return d < 1 ? `${fixed(d * 24, 1)} h` : `${fixed(d, 1)} d`; };
  el.append(make("div", { className: "controls" }, choose,
    slider("half-life", -5, 9, 0.5, Math.log2(7), days, set(x => { s.halfLife = 2 ** x; })),
    slider("padded rows", 0, 30, 1, 0, String, set(x => { s.pads = x; })),
    toggle("use the mask", true, set(x => { s.masked = x; })),
    slider("repeat the history", 1, 5, 1, 1, x => `${x}×`, set(x => { s.copies = x; }))),
    rows, make("p", { textContent: "The pooled vector:" }), vector, out);
  draw();
}
export default { render };
