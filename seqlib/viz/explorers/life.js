// The exact filter of the synthetic world, re-run in the browser on the last L events of one life.
const sigmoid = x => 1 / (1 + Math.exp(-x));
function predict(alpha, ticks, powers) {          // alpha P[ticks], with P[2^b] given
  for (let b = 0; b < powers.length; b++) if ((ticks >> b) & 1)
    alpha = alpha.map((_, j) => alpha.reduce((s, a, i) => s + a * powers[b][i][j], 0));
  return alpha;
}
function update(alpha, e, i, m) {
  const c = e.click[i], out = alpha.map((a, z) => {
    const p = sigmoid(m.base[z] + e.x[i]), d = (e.log_watch[i] - m.watch[c][z]) / m.watch_sd[c];
    let l = Math.exp(-0.5 * d * d);
    l *= c ? p * (e.like[i] ? m.like[z] : 1 - m.like[z]) * (e.share[i] ? m.share[z] : 1 - m.share[z])
           : (1 - p) * (e.hide[i] ? m.hide[z] : 1 - m.hide[z]);
    return a * l;
  });
  const total = out.reduce((a, b) => a + b, 0);
  return out.map(a => a / total);
}
function filter(e, m, L) {
  let alpha = m.pi, now = null, used = 0;
  for (let i = 0; i < e.ticks.length; i++) {
    if (e.rank[i] > L) continue;
    if (now !== null) alpha = predict(alpha, e.ticks[i] - now, m.powers);
    alpha = update(alpha, e, i, m); now = e.ticks[i]; used++;
  }
  if (now !== null) alpha = predict(alpha, e.end_tick - now, m.powers);
  const x = e.x_by_length[Math.min(L, e.x_by_length.length - 1)];
  return { alpha, used, p: alpha.reduce((s, a, z) => s + a * sigmoid(m.base[z] + x), 0) };
}
function render({ model, el }) {
  const s = { ...model.get("state"), candidate: 0, length: 100 };
  el.classList.add("seq-explorer", "seq-life");
  const rows = make("div", { className: "rows" }), out = make("div", { className: "out" }), plot = make("div");
  const steps = Array.from({ length: 61 }, (_, i) => Math.round(10 ** (i / 15)));
  const W = 820, H = 210, X = L => 45 + (W - 60) * Math.log10(Math.max(L, 1)) / 4, Y = p => 12 + (H - 42) * (1 - p);
  const draw = () => {
    const e = s.candidates[s.candidate], r = filter(e, s.model, s.length), whole = filter(e, s.model, 1e9).p;
    rows.replaceChildren(...s.states.flatMap((n, z) => [make("span", { textContent: n }), bar(r.alpha[z], 1), make("span", { className: "num", textContent: fixed(r.alpha[z]) })]));
    const curve = steps.map(L => `${X(L).toFixed(1)},${Y(filter(e, s.model, L).p).toFixed(1)}`).join(" ");
    const marks = e.rank.map((k, i) => `<circle cx="${X(k).toFixed(1)}" cy="${H - 26}" r="3" fill="${e.click[i] ? "var(--plus)" : "var(--minus)"}" opacity="${k > s.length ? 0.25 : 0.9}"/>`).join("");
    const grid = [1, 10, 100, 1000, 10000].map(L => `<line x1="${X(L)}" x2="${X(L)}" y1="12" y2="${H - 20}" stroke="var(--line)"/><text x="${X(L)}" y="${H - 6}" text-anchor="middle">${L}</text>`).join("") +
      [0, 0.5, 1].map(p => `<text x="38" y="${Y(p) + 4}" text-anchor="end">${p}</text>`).join("");
    plot.innerHTML = `<svg viewBox="0 0 ${W} ${H}" role="img" aria-label="click probability against history length">${grid}
      <line x1="45" x2="${W - 15}" y1="${Y(whole)}" y2="${Y(whole)}" stroke="var(--accent)" stroke-dasharray="4 3"/>
      <text x="${W - 15}" y="${Y(whole) - 4}" text-anchor="end">whole life</text>
      <polyline points="${curve}" fill="none" stroke="var(--plus)" stroke-width="2"/>
      <line x1="${X(s.length)}" x2="${X(s.length)}" y1="12" y2="${H - 20}" stroke="currentColor"/>${marks}</svg>`;
    out.replaceChildren(make("span", {}, "P(click) from the last ", make("b", { textContent: s.length }), " events: ", make("b", { textContent: fixed(r.p) })),
      make("span", {}, "from the whole life: ", make("b", { textContent: fixed(whole) })),
      make("span", { textContent: `${r.used} of ${e.ticks.length} events of this topic are used` }));
    el.dataset.p = r.p; el.dataset.whole = whole; el.dataset.alpha = JSON.stringify(r.alpha); el.dataset.ready = "1";
  };
  const set = f => x => { f(x); draw(); };
  el.append(make("div", { className: "controls" },
    select("candidate", s.titles, set(i => { s.candidate = i; })),
    slider("history length L", 0, 60, 1, 30, i => steps[i], set(i => { s.length = steps[i]; }))),
    make("p", { textContent: "Belief about the hidden state of this topic, after the last L events:" }), rows, plot,
    make("p", { textContent: "Dots: events of this topic by how many events ago they were (blue clicked, orange not)." }), out);
  draw();
}
export default { render };
