// A trained activation unit on one real user; the arithmetic is that of seqlib.models.din and ranker.
const sigmoid = x => 1 / (1 + Math.exp(-x));
const linear = (W, x, b) => W.map((row, i) => dot(row, x) + (b ? b[i] : 0));
const activate = (a, s) => s.map((x, i) => {
  if (a.kind === "sigmoid") return sigmoid(x);
  const p = a.kind === "prelu" ? +(x > 0) : sigmoid((x - a.mean[i]) / Math.sqrt(a.var[i] + a.eps));
  return p * x + (1 - p) * a.alpha[i] * x;
});
function unit(u, q, k, extra) {
  const s = linear(u.wq, q, u.b1).map((x, i) => x + dot(u.wk[i], k) + dot(u.wp[i], q.map((a, d) => a * k[d])) + (u.we ? dot(u.we[i], extra) : 0));
  return dot(u.w3, activate(u.act2, linear(u.w2, activate(u.act1, s), u.b2))) + u.b3;
}
// The ranker above the encoder: x0 = [what the candidate brings, v, v ⊙ q], one cross layer, MLP, head.
function logit(h, c, q, v) {
  const past = h.product ? [...v, ...v.map((x, d) => x * q[d])] : v, x0 = [...h.fixed[c], ...past];
  const crossed = h.cross.map((row, i) => x0[i] * (h.crossFixed[c][i] + dot(row, past)) + x0[i]);
  let x = crossed;
  for (const layer of h.mlp) x = linear(layer.w, x, layer.b).map(y => Math.max(y, 0));
  return dot(h.deep, x) + h.deepBias + h.wideFixed[c] + dot(h.wide, past);
}
function attend(s, off = s.off) {
  const q = s.candidates[s.candidate], on = s.tokens.map((_, j) => !off.has(j));
  let w = s.raw[s.candidate].map((x, j) => on[j] ? x : 0);
  if (s.softmax) {
    const top = Math.max(...w.filter((_, j) => on[j])), e = w.map((x, j) => on[j] ? Math.exp(x - top) : 0);
    const z = e.reduce((a, b) => a + b, 0) * s.copies;
    w = e.map(x => z ? x / z : 0);
  }
  const v = q.map((_, d) => s.copies * s.tokens.reduce((a, k, j) => a + w[j] * k[d], 0));
  return { w, v, total: s.copies * w.reduce((a, b) => a + b, 0), length: Math.sqrt(dot(v, v)), logit: s.head ? logit(s.head, s.candidate, q, v) : null };
}
function render({ model, el }) {
  const given = model.get("state"), s = { ...given, copies: 1, candidate: 0 };
  for (const name of ["tokens", "candidates", "extra"]) s[name] = unpack(given[name]);
  const open = o => Object.fromEntries(Object.entries(o).map(([k, v]) => [k, v?.text ? unpack(v) : v]));
  s.unit = open(given.unit);
  if (given.head) s.head = { ...open(given.head), mlp: given.head.mlp.map(open), crossFixed: given.head.crossFixed.map(unpack) };
  // scores before softmax and hiding depend on the pair only: once per candidate
  s.raw = s.candidates.map((q, c) => s.tokens.map((k, j) => unit(s.unit, q, k, s.extra?.[c][j])));
  const begin = () => Object.assign(s, { softmax: false, copies: 1, off: new Set() });
  begin();
  el.classList.add("seq-explorer", "seq-din");
  const flip = j => { s.off.has(j) ? s.off.delete(j) : s.off.add(j); draw(); };
  const rows = table(s.titles, s.notes, flip), out = make("div", { className: "out", aria: { live: "polite" } });
  rows.box.classList.add("two");
  const draw = () => {
    const r = attend(s), shown = s.tokens.map((_, j) => j).filter(j => !s.off.has(j));
    rows.update(r.w, { off: s.off });
    // what each event is worth: leave it out (all its copies) and look at what falls
    const worth = shown.map(j => {
      const without = attend(s, new Set([...s.off, j]));
      return { j, d: s.head ? r.logit - without.logit : r.w[j] };
    }).sort((a, b) => Math.abs(b.d) - Math.abs(a.d) || a.j - b.j).slice(0, 4);
    const list = worth.map(t => `${s.titles[t.j]}${s.notes?.[t.j] ? ` (${s.notes[t.j]})` : ""} ${t.d >= 0 ? "+" : ""}${fixed(t.d)}`);
    out.replaceChildren(
      make("span", {}, "sum of the weights ", make("b", { textContent: fixed(r.total) })),
      make("span", {}, "length of v ", make("b", { textContent: fixed(r.length) })),
      ...(s.head ? [make("span", {}, "logit ", make("b", { textContent: fixed(r.logit) })), make("span", {}, "P(click) ", make("b", { textContent: fixed(sigmoid(r.logit)) }))] : []),
      ...(list.length ? [make("span", { className: "note", textContent: `${s.head ? "Largest effects on the logit (with the event, minus without it): " : "Largest weights: "}${list.join(" · ")}` })] : []),
      ...(s.softmax ? [make("span", { className: "note", textContent: s.head ? "These weights were trained without a softmax: read how the numbers move, not where they stand." : "These weights were trained without a softmax." })] : []));
    Object.assign(el.dataset, { weights: JSON.stringify(r.w), total: r.total, length: r.length, top: JSON.stringify(worth.map(t => t.j)), ready: "1" });
    if (s.head) el.dataset.logit = r.logit;
  };
  const set = f => x => { f(x); draw(); };
  const controls = make("div", { className: "controls" });
  const fill = () => controls.replaceChildren(
    select("candidate", s.candidateTitles, set(i => { s.candidate = i; }), s.candidate),
    toggle("softmax", s.softmax, set(x => { s.softmax = x; })),
    slider("repeat the history", 1, 5, 1, s.copies, x => `${x}×`, set(x => { s.copies = x; })),
    reset(() => { begin(); fill(); draw(); }));
  fill();
  el.append(controls, make("p", { className: "hint", textContent: "Weight of every event for this candidate, newest first. Press a name to leave the event out." }), rows.box, out);
  draw();
}
export default { render };
