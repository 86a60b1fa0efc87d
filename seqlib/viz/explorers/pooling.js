// Mira's year through five pools; the arithmetic is that of seqlib.models.pooling.
const POOLS = ["sum", "mean", "max", "recency", "recency, normalised"];
function pooled(s) {
  const rows = [];
  for (let c = 0; c < s.copies; c++)
    s.tokens.forEach((e, j) => s.off.has(j) || rows.push({ e, age: s.ages[j], j }));
  const pad = { e: s.axes.map(() => 0), age: s.padAge ?? 0, j: -1 };
  if (!s.masked) for (let p = 0; p < s.pads; p++) rows.push(pad);   // the mask would have dropped them
  if (s.pool === "max") {
    const v = s.axes.map((_, d) => rows.length ? Math.max(...rows.map(r => r.e[d])) : 0);
    const source = s.axes.map((_, d) => rows.find(r => r.e[d] === v[d])?.j ?? null);
    return { v, source, weights: s.tokens.map(() => null), padded: 0, empty: !rows.length };
  }
  const share = s.pool === "mean" || s.pool === "recency, normalised";
  const newest = share ? Math.min(...rows.map(r => r.age)) : 0;   // gaps alone count, and the newest weight can't underflow
  let w = rows.map(r => s.pool.startsWith("recency") ? 2 ** ((newest - r.age) / s.halfLife) : 1);
  const total = w.reduce((a, b) => a + b, 0);
  if (share) w = w.map(x => x / total);
  const v = s.axes.map((_, d) => rows.reduce((a, r, i) => a + w[i] * r.e[d], 0));
  const of = j => rows.reduce((a, r, i) => a + (r.j === j ? w[i] : 0), 0);
  return { v, weights: s.tokens.map((_, j) => of(j)), padded: of(-1), empty: !rows.length };
}
function render({ model, el }) {
  const given = model.get("state"), s = { ...given };
  const begin = () => Object.assign(s, { pool: "mean", halfLife: 7, pads: 0, masked: true, copies: 1, off: new Set() });
  begin();
  el.classList.add("seq-explorer", "seq-pooling");
  const flip = j => { s.off.has(j) ? s.off.delete(j) : s.off.add(j); draw(); };
  const events = table(s.titles, s.notes, flip), vector = table(s.axes, null);
  const scores = table(s.candidateTitles, null), out = make("div", { className: "out", aria: { live: "polite" } });
  const draw = () => {
    const r = pooled(s), q = s.candidates.map(c => dot(c, r.v));
    const wins = j => s.axes.filter((_, d) => r.source[d] === j && r.v[d] !== 0).join(", ");
    events.update(r.weights, { off: s.off, texts: r.source ? s.titles.map((_, j) => wins(j) || "–") : null });
    vector.update(r.v);
    scores.update(q);
    const order = q.map((_, i) => i).sort((a, b) => q[b] - q[a] || a - b);
    out.replaceChildren(
      make("span", {}, "order: ", make("b", { textContent: order.map(i => s.candidateTitles[i]).join(" › ") })),
      ...(r.source ? [make("span", { className: "note", textContent: "The maximum has no weights: at each event stand the axes it supplies." })] : []),
      ...(r.padded > 0 ? [make("span", { className: "warn", textContent: `${fixed(r.padded)} of the weight lies on padding` })] : []),
      ...(r.empty ? [make("span", { className: "warn", textContent: "No event is left: mean and maximum are undefined, the models here use a learned vector." })] : []));
    Object.assign(el.dataset, { vector: JSON.stringify(r.v), scores: JSON.stringify(q), weights: JSON.stringify(r.weights), padded: r.padded, order: JSON.stringify(order), ready: "1" });
  };
  const set = f => x => { f(x); draw(); };
  const days = x => { const d = 2 ** x; return d < 1 ? `${fixed(d * 24, 1)} h` : `${fixed(d, 1)} d`; };
  const controls = make("div", { className: "controls" });
  const fill = () => controls.replaceChildren(
    select("pool", POOLS, set(i => { s.pool = POOLS[i]; }), POOLS.indexOf(s.pool)),
    slider("half-life", -5, 9, 0.5, Math.log2(s.halfLife), days, set(x => { s.halfLife = 2 ** x; })),
    slider("padded rows", 0, 30, 1, s.pads, String, set(x => { s.pads = x; })),
    toggle("use the mask", s.masked, set(x => { s.masked = x; })),
    slider("repeat the history", 1, 5, 1, s.copies, x => `${x}×`, set(x => { s.copies = x; })),
    reset(() => { begin(); fill(); draw(); }));
  fill();
  el.append(controls, make("p", { className: "hint", textContent: "Weight of every event in the pool, newest first. Press a name to leave the event out." }),
    events.box, make("div", { className: "split" },
      make("div", {}, make("h4", { textContent: "the pooled vector" }), vector.box),
      make("div", {}, make("h4", { textContent: "its product with each candidate" }), scores.box)), out);
  draw();
}
export default { render };
