// A trained activation unit on one real user; the arithmetic is that of seqlib.models.din.
const sigmoid = x => 1 / (1 + Math.exp(-x));
const linear = (W, x, b) => W.map((row, i) => dot(row, x) + (b ? b[i] : 0));
const activate = (a, s) => s.map((x, i) => {
  if (a.kind === "sigmoid") return sigmoid(x);
  const p = a.kind === "prelu" ? +(x > 0) : sigmoid((x - a.mean[i]) / Math.sqrt(a.var[i] + a.eps));
  return p * x + (1 - p) * a.alpha[i] * x;
});
function unit(u, q, k, extra) {
  let s = linear(u.wq, q, u.b1).map((x, i) => x + dot(u.wk[i], k) + dot(u.wp[i], q.map((a, d) => a * k[d])));
  if (u.we) s = s.map((x, i) => x + dot(u.we[i], extra));
  const h = activate(u.act2, linear(u.w2, activate(u.act1, s), u.b2));
  return dot(u.w3, h) + u.b3;
}
function attend(s) {
  const q = s.candidates[s.candidate], on = s.tokens.map((_, j) => !s.off.has(j));
  let w = s.tokens.map((k, j) => on[j] ? unit(s.unit, q, k, s.extra?.[s.candidate][j]) : 0);
  if (s.softmax) {
    const top = Math.max(...w.filter((_, j) => on[j])), e = w.map((x, j) => on[j] ? Math.exp(x - top) : 0);
    const z = e.reduce((a, b) => a + b, 0) * s.copies;
    w = e.map(x => z ? x / z : 0);
  }
  const v = q.map((_, d) => s.copies * s.tokens.reduce((a, k, j) => a + w[j] * k[d], 0));
  return { w, total: s.copies * w.reduce((a, b) => a + b, 0), length: Math.sqrt(dot(v, v)) };
}
function render({ model, el }) {
  const s = { ...model.get("state"), candidate: 0, softmax: false, copies: 1, off: new Set() };
  el.classList.add("seq-explorer", "seq-din");
  const rows = make("div", { className: "rows" }), out = make("div", { className: "out" });
  const draw = () => {
    const { w, total, length } = attend(s), top = Math.max(...w.map(Math.abs), 1e-9);
    rows.replaceChildren(...s.titles.flatMap((t, j) => {
      const name = make("button", { className: "name" + (s.off.has(j) ? " off" : "") }, t, make("small", { textContent: `  ${s.notes[j]}` }));
      name.onclick = () => { s.off.has(j) ? s.off.delete(j) : s.off.add(j); draw(); };
      return [name, bar(w[j], top), make("span", { className: "num", textContent: fixed(w[j]) })];
    }));
    const best = w.map((_, j) => j).sort((a, b) => Math.abs(w[b]) - Math.abs(w[a])).slice(0, 3);
    out.replaceChildren(make("span", {}, "sum of the weights ", make("b", { textContent: fixed(total) })),
      make("span", {}, "length of v ", make("b", { textContent: fixed(length) })),
      make("span", { textContent: `largest: ${best.map(j => s.titles[j]).join(" · ")}` }));
    el.dataset.weights = JSON.stringify(w); el.dataset.total = total; el.dataset.length = length; el.dataset.ready = "1";
  };
  const set = f => x => { f(x); draw(); };
  el.append(make("div", { className: "controls" },
    select("candidate", s.candidateTitles, set(i => { s.candidate = i; })),
    toggle("softmax", false, set(x => { s.softmax = x; })),
    slider("repeat the history", 1, 5, 1, 1, x => `${x}×`, set(x => { s.copies = x; }))),
    make("p", { textContent: "Weight of every event for this candidate, newest first. Click a name to hide the event." }), rows, out);
  draw();
}
export default { render };
