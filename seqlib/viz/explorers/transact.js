// A trained TransAct layer on one real session; the arithmetic is that of seqlib.nn.attention and ranker.
const sigmoid = x => 1 / (1 + Math.exp(-x));
const linear = (W, x, b) => W.map((row, i) => dot(row, x) + (b ? b[i] : 0));
const plus = (...vs) => vs[0].map((_, i) => vs.reduce((s, v) => s + v[i], 0));
const norm = (x, w, b) => {
  const mean = x.reduce((s, v) => s + v, 0) / x.length, c = x.map(v => v - mean);
  const sd = Math.sqrt(dot(c, c) / x.length + 1e-5);
  return c.map((v, i) => v / sd * w[i] + b[i]);
};
// The ranker above the encoder: x0 = [what the candidate brings, the encoder's vector], one cross layer, MLP, heads.
function logits(h, c, past) {
  const x0 = [...h.fixed[c], ...past];
  let x = h.cross.map((row, i) => x0[i] * (h.crossFixed[c][i] + dot(row, past)) + x0[i]);
  for (const layer of h.mlp) x = linear(layer.w, x, layer.b).map(v => Math.max(v, 0));
  return h.tasks.map(t => dot(t.deep, x) + t.deepBias + t.wideFixed[c] + dot(t.wide, past));
}
function forward(s, off = s.off) {
  const m = s.layer, r = s.read, n = s.ages.length, all = [...Array(n).keys()], C = s.candidate;
  const kind = all.map(j => s.as ?? s.kind[j]), on = all.map(j => !off.has(j));
  const real = on.map(x => x || s.strict);                 // the authors' padding is a zero token
  const keys = all.map(j => on[j] && (s.strict ? s.ages[j] > s.window : s.ages[j] >= s.window));
  const rows = s.strict ? [...keys] : all.map(() => true);
  if (!s.strict) keys[0] = true;                           // as the authors do, whatever stands there
  const part = (a, p) => all.map(j => real[j] ? plus(a[kind[j]], p[j]) : p[j].map(() => 0));
  const q = part(m.qa, m.qp).map(x => plus(x, m.qc[C], m.bq)), k = part(m.ka, m.kp), v = part(m.va, m.vp);
  const zero = all.map(() => 0), shown = all.filter(i => rows[i]);
  const attention = all.map(() => zero), o = all.map(() => null);
  for (const i of shown) {
    const e = all.map(j => keys[j] ? dot(q[i], k[j]) * m.scale : -Infinity), top = Math.max(...e);
    const w = e.map(x => Math.exp(x - top)), total = w.reduce((a, b) => a + b, 0);
    attention[i] = w.map(x => x / total);
    const mixed = v[0].map((_, d) => all.reduce((t, j) => t + attention[i][j] * v[j][d], 0));
    const token = [...(real[i] ? s.actions[kind[i]] : s.actions[0].map(() => 0)), ...(real[i] ? s.tokens[i] : s.tokens[i].map(() => 0)), ...s.candidates[C]];
    const x = norm(plus(token, mixed, m.vc[C], m.bv), m.norm1w, m.norm1b);
    const h = linear(m.linear1w, x, m.linear1b).map(y => Math.max(y, 0));
    o[i] = norm(plus(x, linear(m.linear2w, h, m.linear2b)), m.norm2w, m.norm2b);
  }
  let z = r.empty;
  if (shown.length) {
    const blank = o[shown[0]].map(() => 0), first = [...Array(r.rows).keys()].flatMap(i => o[i] ?? blank);
    z = [...first, ...blank.map((_, d) => Math.max(...shown.map(i => o[i][d])))];
  }
  const out = logits(s.head, C, linear(r.out, norm(z, r.w, r.b), r.outb));
  const mean = all.map(j => shown.length ? shown.reduce((t, i) => t + attention[i][j], 0) / shown.length : 0);
  return { attention, mean, rows, keys, logits: out, p: out.map(sigmoid) };
}
function render({ model, el }) {
  const given = model.get("state");
  const open = o => Object.fromEntries(Object.entries(o).map(([k, v]) => [k, v?.text ? unpack(v) : v]));
  const s = { ...open(given), layer: open(given.layer), read: open(given.read), candidate: 0 };
  s.head = { ...open(given.head), mlp: given.head.mlp.map(open), crossFixed: given.head.crossFixed.map(unpack) };
  const kinds = Object.entries(s.kinds), looks = ["mean of all rows", "the newest row"], masks = ["strict", "keys only, as the authors"];
  const begin = () => Object.assign(s, { as: null, step: 0, window: 0, strict: true, look: 0, off: new Set() });
  begin();
  el.classList.add("seq-explorer", "seq-transact");
  const flip = j => { s.off.has(j) ? s.off.delete(j) : s.off.add(j); draw(); };
  const rows = table(s.titles, s.notes, flip), heads = table(s.tasks.map(t => `P(${t})`), null, null);
  const out = make("div", { className: "out", aria: { live: "polite" } });
  rows.box.classList.add("two"); heads.box.classList.add("short");
  const hours = h => h === 0 ? "none" : h < 1 ? `${Math.round(h * 60)} min` : `${h} h`;
  const draw = () => {
    const r = forward(s), seen = r.keys.filter(x => x).length, newest = r.rows.indexOf(true);
    const weights = s.look === 0 || newest < 0 ? r.mean : r.attention[newest];
    rows.update(weights, { off: s.off });
    heads.update(r.p, { top: 1 });
    // what each event is worth to the first head: leave it out and look at what falls
    const worth = s.ages.map((_, j) => j).filter(j => !s.off.has(j))
      .map(j => ({ j, d: r.logits[0] - forward(s, new Set([...s.off, j])).logits[0] }))
      .filter(t => Math.abs(t.d) > 1e-9).sort((a, b) => Math.abs(b.d) - Math.abs(a.d) || a.j - b.j).slice(0, 4);
    const list = worth.map(t => `${s.titles[t.j]} (${s.notes[t.j]}) ${t.d >= 0 ? "+" : ""}${fixed(t.d)}`);
    const lost = s.ages.map((_, j) => j).filter(j => !r.keys[j] && !s.off.has(j));
    out.replaceChildren(
      make("span", {}, "events attended ", make("b", { textContent: seen })),
      make("span", {}, "hidden by the window ", make("b", { textContent: lost.length })),
      ...(r.rows.includes(true) ? [] : [make("span", { className: "note", textContent: "Nothing is visible: the learned vector for “no history” takes z's place." })]),
      ...(list.length ? [make("span", { className: "note", textContent: `Largest effects on the first head's logit (with the event, minus without it): ${list.join(" · ")}` })] : []),
      ...(s.strict ? [] : [make("span", { className: "note", textContent: "Keys only: hidden events still have rows of their own, and the readout takes them. The weights were trained with strict masks: read how the numbers move." })]));
    Object.assign(el.dataset, { attention: JSON.stringify(r.attention), weights: JSON.stringify(weights), logits: JSON.stringify(r.logits), p: JSON.stringify(r.p), top: JSON.stringify(worth.map(t => t.j)), ready: "1" });
  };
  const set = f => x => { f(x); draw(); };
  const controls = make("div", { className: "controls" });
  const fill = () => controls.replaceChildren(
    select("candidate", s.candidateTitles, set(i => { s.candidate = i; }), s.candidate),
    select("all actions count as", ["what they were", ...kinds.map(k => k[0])], set(i => { s.as = i ? kinds[i - 1][1] : null; }), 0),
    slider("hide what is younger than", 0, s.windows.length - 1, 1, s.step, i => hours(s.windows[i]), set(i => { s.step = i; s.window = s.windows[i]; })),
    select("mask", masks, set(i => { s.strict = i === 0; }), s.strict ? 0 : 1),
    select("attention of", looks, set(i => { s.look = i; }), s.look),
    reset(() => { begin(); fill(); draw(); }));
  fill();
  el.append(controls, heads.box, make("p", { className: "hint", textContent: "Attention on every event, newest first. Press a name to leave the event out." }), rows.box, out);
  draw();
}
export default { render };
