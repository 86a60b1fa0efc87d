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
// Events are stored as gaps and bit sets; lists as the filter reads them.
function events(c) {
  if (!c.gaps) return c;
  let tick = c.first_tick, rank = c.first_rank;
  const e = { ...c, ticks: [], rank: [] };
  c.gaps.forEach((g, i) => { tick += g; rank -= c.steps[i]; e.ticks.push(tick); e.rank.push(rank); });
  ["click", "like", "share", "hide"].forEach((n, b) => { e[n] = c.bits.map(x => (x >> b) & 1); });
  return e;
}
const ALL = 1e9, STEPS = [0, ...Array.from({ length: 61 }, (_, i) => Math.round(10 ** (i / 15))), ALL];
const W = 820, LEFT = 46, RIGHT = 26;
function render({ model, el }) {
  const given = model.get("state"), m = given.model, lives = given.candidates.map(events);
  const s = { candidate: 0, length: 100 }, curves = new Map();
  el.classList.add("seq-explorer", "seq-life");
  const belief = table(given.states, null), out = make("div", { className: "out", aria: { live: "polite" } });
  belief.box.classList.add("short");
  const curve = make("div", { className: "chart" }), line = make("div", { className: "chart" });
  const run = L => filter(lives[s.candidate], m, L);
  const points = () => {
    if (!curves.has(s.candidate)) curves.set(s.candidate, STEPS.map(L => run(L).p));
    return curves.get(s.candidate);
  };
  const X = L => LEFT + 24 + (W - LEFT - RIGHT - 24) * Math.log10(Math.max(L, 1)) / 4;
  const place = L => L === 0 ? LEFT + 6 : X(Math.min(L, 1e4));

  const drawCurve = (whole, p) => {
    const H = 200, ys = points(), high = Math.min(1, Math.ceil(Math.max(...ys, 0.05) * 10 + 0.5) / 10), Y = v => 12 + (H - 44) * (1 - v / high);
    const ticks = [["0", 0], ["1", 1], ["10", 10], ["100", 100], ["1,000", 1e3], ["10,000", 1e4]];
    const mark = [0, high / 2, high];
    curve.replaceChildren(svg(W, H, `click probability against history length: ${fixed(p)} from the last events, ${fixed(whole)} from the whole life`));
    curve.firstChild.innerHTML = `<rect x="${LEFT}" y="12" width="${at(place(s.length) - LEFT)}" height="${H - 44}" fill="var(--shade)"/>`
      + mark.map(v => `<line class="grid" x1="${LEFT}" x2="${W - RIGHT}" y1="${at(Y(v))}" y2="${at(Y(v))}"/><text x="${LEFT - 6}" y="${at(Y(v) + 4)}" text-anchor="end">${v.toFixed(2)}</text>`).join("")
      + ticks.map(([t, L]) => `<text x="${at(place(L))}" y="${H - 17}" text-anchor="middle">${t}</text>`).join("")
      + `<text x="${W / 2}" y="${H - 2}" text-anchor="middle">history length L, events of all topics</text>`
      + `<line x1="${LEFT}" x2="${W - RIGHT}" y1="${at(Y(whole))}" y2="${at(Y(whole))}" stroke="var(--accent)" stroke-width="1.6" stroke-dasharray="6 4"/>`
      + `<text class="strong" x="${LEFT + 6}" y="${at(Y(whole) + (whole / high > 0.85 ? 14 : -5))}">the whole life: ${fixed(whole)}</text>`
      + `<polyline points="${STEPS.slice(0, -1).map((L, i) => `${at(place(L))},${at(Y(ys[Math.max(i - 1, 0)]))} ${at(place(L))},${at(Y(ys[i]))}`).join(" ")}" fill="none" stroke="var(--plus)" stroke-width="2.2"/>`
      + `<circle cx="${at(place(s.length))}" cy="${at(Y(p))}" r="5.5" fill="var(--plus)" stroke="var(--card)" stroke-width="2"/>`;
  };
  const drawLine = e => {
    const H = 104, end = e.end_tick / 64, D = t => LEFT + (W - LEFT - RIGHT) * t / end;
    const began = windowStart(e), weeks = e.activity ?? [], top = Math.max(...weeks, 1);
    line.replaceChildren(svg(W, H, "this topic's events over the user's life; filled: clicked, open: not clicked"));
    line.firstChild.innerHTML =
      (began === null ? "" : `<rect x="${at(D(began))}" y="6" width="${at(Math.max(D(end) - D(began), 1.5))}" height="66" fill="var(--shade)"/>`)
      + weeks.map((n, i) => n ? `<rect x="${at(D(i * 7))}" y="${at(72 - 20 * n / top)}" width="${at(Math.max(D(7) - D(0) - 1, 1))}" height="${at(20 * n / top)}" fill="var(--line)"/>` : "").join("")
      + `<line x1="${LEFT}" x2="${W - RIGHT}" y1="72" y2="72" stroke="var(--dim)"/><line x1="${at(D(end))}" x2="${at(D(end))}" y1="6" y2="78" stroke="var(--ink)" stroke-width="2"/>`
      + e.ticks.map((t, i) => { const seen = e.rank[i] <= s.length, color = e.click[i] ? "var(--plus)" : "var(--minus)", x = at(D(t / 64));
        return e.hide[i] ? `<path d="M${x - 4} 22l8 8m0-8l-8 8" stroke="var(--minus)" stroke-width="2" opacity="${seen ? 1 : 0.3}"/>`
          : `<circle cx="${x}" cy="${e.click[i] ? 26 : 42}" r="4" fill="${e.click[i] ? color : "none"}" stroke="${color}" stroke-width="1.5" opacity="${seen ? 1 : 0.28}"/>`; }).join("")
      + [0, 200, 400, 600].filter(d => d < end - 140).map(d => `<text x="${at(D(d))}" y="87" text-anchor="middle">day ${d}</text>`).join("")
      + `<text class="strong" x="${W - RIGHT}" y="87" text-anchor="end">request, day ${Math.floor(end)}</text>`
      + `<text x="${LEFT - 6}" y="30" text-anchor="end">click</text><text x="${LEFT - 6}" y="46" text-anchor="end">none</text>${weeks.length ? `<text x="${LEFT - 6}" y="70" text-anchor="end">all</text>` : ""}`;
  };
  // The day at which the last L events begin: exact at the stored lengths.
  const windowStart = e => !e.windowDays ? null
    : s.length === 0 ? e.end_tick / 64 : e.windowDays[STEPS.indexOf(s.length)];
  const age = days => days < 1 ? `${fixed(Math.max(days, 0) * 24, 1)} hours` : `${fixed(days, days < 10 ? 1 : 0)} days`;
  const name = L => L === ALL ? "the whole life" : L.toLocaleString("en");
  const draw = () => {
    const e = lives[s.candidate], r = run(s.length), whole = run(ALL).p;
    belief.update(r.alpha, { top: 1 });
    drawCurve(whole, r.p);
    drawLine(e);
    out.replaceChildren(
      make("span", {}, s.length === ALL ? "P(click) from the whole life " : `P(click) from the last ${name(s.length)} events `, make("b", { textContent: fixed(r.p) })),
      make("span", {}, "from the whole life ", make("b", { textContent: fixed(whole) })),
      make("span", { className: "note", textContent: `${r.used} of this topic's ${e.ticks.length} events are used`
        + (e.windowDays && s.length ? `; the window reaches back ${age(e.end_tick / 64 - windowStart(e))}` : "") }));
    Object.assign(el.dataset, { p: r.p, whole, alpha: JSON.stringify(r.alpha), used: r.used, ready: "1" });
  };
  const set = f => x => { f(x); draw(); };
  el.append(make("div", { className: "controls" },
    select("candidate", given.titles, set(i => { s.candidate = i; })),
    slider("history length L", -1, 61, 1, 30, i => name(STEPS[i + 1]), set(i => { s.length = STEPS[i + 1]; }))),
    make("h4", { textContent: "What the last L events say about this topic's hidden state" }), belief.box,
    make("h4", { textContent: "The click probability that follows" }), curve,
    make("h4", { textContent: "This topic in the user's life" }), line,
    make("p", { className: "hint", textContent: "Filled: clicked, open: shown and not clicked, cross: hidden; pale events lie outside the window."
      + (lives.some(e => e.activity) ? " Grey: all events, by week." : "") }), out);
  draw();
}
export default { render };
