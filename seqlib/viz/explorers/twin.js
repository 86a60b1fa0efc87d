// TWIN's two stages on one whole life; scores are log shares of the attention over all of its events.
const open = m => { const add = x => Array.isArray(x) ? x.map(add) : x + m.zero; return add(unpack(m)); };
const SEARCHES = ["round robin", "sum", "hard", "newest"];
const ranking = values => values.map((_, i) => i).sort((a, b) => values[b] - values[a] || a - b);   // equal scores: newest first
function roundRobin(orders, k) {
  const found = new Set(), depth = orders.map(() => 0);
  for (let rank = 0; rank < orders[0].length; rank++) for (let a = 0; a < orders.length; a++) {
    if (found.size === k) break;
    found.add(orders[a][rank]); depth[a] = rank + 1;
  }
  return { found: [...found], depth };
}
const median = xs => { const s = [...xs].sort((a, b) => a - b), m = s.length >> 1; return s.length % 2 ? s[m] : (s[m - 1] + s[m]) / 2; };
const sum = xs => xs.reduce((a, b) => a + b, 0);
function view(c, { k, search, head }) {
  const own = roundRobin(c.orders, k), n = c.days.length, all = [...Array(n).keys()];
  const at = search === "round robin" ? own.found : search === "sum" ? c.bySum.slice(0, k)
    : search === "hard" ? all.filter(j => c.kin[j] & 1).slice(0, k) : all.slice(0, k);
  const heads = c.orders.map((_, a) => {
    const top = Math.max(...at.map(j => c.scores[j][a])), e = at.map(j => Math.exp(c.scores[j][a] - top)), total = sum(e);
    return e.map(x => x / total);
  });
  const share = c.orders.map((_, a) => sum(at.map(j => Math.exp(c.scores[j][a]))));
  const mean = xs => sum(xs) / xs.length, ages = at.map(j => c.days[j]), mine = new Set(own.found);
  const weights = at.map((_, i) => head === null ? mean(heads.map(h => h[i])) : heads[head][i]);
  const top = at.map((_, i) => i).sort((x, y) => weights[y] - weights[x] || at[x] - at[y]).slice(0, 10);
  return { at, own, weights, top, hits: at.filter(j => mine.has(j)).length, kin: at.filter(j => c.kin[j] > 1).length,
    carried: head === null ? mean(share) : share[head],
    oldest: at.length ? Math.max(...ages) : null, median: at.length ? median(ages) : null };
}
const escape = text => text.replace(/[&<>"]/g, x => `&#${x.charCodeAt(0)};`);
function render({ model, el }) {
  const given = model.get("state"), ev = given.events, ks = given.ks;
  const running = gaps => { let s = 0; return gaps.map(g => (s += g)); };
  const index = running(open(ev.gap)), days = open(ev.minutes).map(m => m / 1440);
  const title = open(ev.title), action = open(ev.action);
  const candidates = given.candidates.map(c => {
    const row = running(open(c.gap)), scores = open(c.scores);
    const orders = scores[0].map((_, a) => ranking(scores.map(s => s[a])));
    return { row, scores, kin: open(c.kin), orders, bySum: ranking(scores.map(sum)), days: row.map(r => days[r]) };
  });
  const A = candidates[0].orders.length, end = Math.max(7 * given.activity.length, 1);
  const words = ["TWIN: round robin", "TWIN: sum over heads", `SIM hard: same ${given.field}, newest`, "the newest events"];
  const s = {}, begin = () => Object.assign(s, { candidate: 0, k: ks.includes(100) ? 100 : ks[ks.length - 1], search: SEARCHES[0], head: null });
  begin();
  el.classList.add("seq-explorer", "seq-twin");

  const did = bits => given.actions.filter((_, b) => (bits >> b) & 1).join(" + ") || "shown";
  const age = d => d < 1 / 24 ? `${Math.round(d * 1440)} min` : d < 1 ? `${Math.round(d * 24)} h` : `${fixed(d, d < 10 ? 1 : 0)} days`;
  const short = d => d < 1 ? age(d) : `${fixed(d, d < 10 ? 1 : 0)} d`;
  const name = (c, j) => [given.titles[title[c.row[j]]], `${did(action[c.row[j]])}, ${short(c.days[j])}`];
  const chart = make("div", { className: "chart" }), listed = make("div", { className: "rows named", aria: { role: "list" } });
  const shares = table(["also in TWIN's K", `of the candidate's ${given.key}`, "whole attention"], null);
  const depths = table(candidates[0].orders.map((_, a) => `head ${a + 1}`), null);
  const out = make("div", { className: "out", aria: { live: "polite" } }), walked = make("p", { className: "hint walked" });
  shares.box.classList.add("named"); depths.box.classList.add("short");

  let width = 0;
  const drawLine = (c, r) => {
    const W = Math.min(Math.max(width - 30, 300), 830), L = 40, R = 12, base = 126, H = 212, X = d => L + (W - L - R) * (1 - d / end);
    const high = Math.max(...r.weights, 1e-9), Y = w => base - 104 * w / high, busy = Math.max(...given.activity, 1), week = (W - L - R) * 7 / end;
    const step = [10, 25, 50, 100, 200, 400, 1000].find(d => end / d <= W / 80) ?? 2000, ticks = [];
    for (let d = step; d < end - step / 3; d += step) ticks.push(d);
    const low = [...r.at.keys()].sort((x, y) => r.weights[x] - r.weights[y]), shown = new Set(r.at), n = r.at.length;
    const mark = i => {
      const j = r.at[i], x = at(X(c.days[j])), y = at(Y(r.weights[i])), kin = c.kin[j];
      const color = kin > 1 ? "var(--plus)" : kin ? "var(--minus)" : "var(--dim)", [what, note] = name(c, j);
      const head = kin > 1 ? `<circle cx="${x}" cy="${y}" r="3.6" fill="${color}"/>` : kin ? `<circle cx="${x}" cy="${y}" r="3.2" fill="var(--card)" stroke="${color}" stroke-width="1.5"/>`
        : `<path d="M${x} ${y}m-3 -3l6 6m0 -6l-6 6" stroke="${color}" stroke-width="1.5"/>`;
      return `<g class="found"><title>${escape(`${what}, ${note}: weight ${fixed(r.weights[i], 4)}`)}</title><line x1="${x}" x2="${x}" y1="${base}" y2="${y}" stroke="${color}" stroke-opacity=".55"/>${head}</g>`;
    };
    const label = n ? `${n} events found; the oldest is ${age(r.oldest)} old, half of them are older than ${age(r.median)}; the largest weight is ${fixed(high)}` : "no event was found";
    chart.replaceChildren(svg(W, H, label));
    chart.firstChild.innerHTML = (n ? [1, 0.5].map(f => `<line class="grid" x1="${L}" x2="${W - R}" y1="${at(Y(f * high))}" y2="${at(Y(f * high))}"/><text x="${L - 5}" y="${at(Y(f * high) + 4)}" text-anchor="end">${fixed(f * high, high < 0.1 ? 3 : 2)}</text>`).join("") : "")
      + given.activity.map((v, i) => v ? `<rect x="${at(X(7 * (i + 1)))}" y="${at(174 - 18 * v / busy)}" width="${at(Math.max(week - 0.6, 0.6))}" height="${at(18 * v / busy)}" fill="var(--dim)" fill-opacity=".45"/>` : "").join("")
      + `<line x1="${L}" x2="${W - R}" y1="${base}" y2="${base}" stroke="var(--dim)"/><line x1="${at(X(0))}" x2="${at(X(0))}" y1="12" y2="174" stroke="var(--ink)" stroke-width="2"/>`
      + low.map(mark).join("")
      + r.own.found.map(j => { const x = at(X(c.days[j])), hit = shown.has(j); return `<line x1="${x}" x2="${x}" y1="${hit ? 134 : 142}" y2="150" stroke="var(--accent)" stroke-width="1.4"/>`; }).join("")
      + `<text x="${L - 5}" y="147" text-anchor="end">TWIN</text><text x="${L - 5}" y="173" text-anchor="end">all</text>`
      + ticks.map(d => `<text x="${at(X(d))}" y="190" text-anchor="middle">${d.toLocaleString("en")}</text>`).join("")
      + `<text class="strong" x="${W - R}" y="190" text-anchor="end">request</text><text x="${at(L + (W - L - R) / 2)}" y="206" text-anchor="middle">age in days</text>`;
  };
  let last = null;
  const draw = () => {
    const c = candidates[s.candidate], r = view(c, s), n = r.at.length;
    last = [c, r];
    drawLine(c, r);
    const top = n ? r.weights[r.top[0]] : 1;
    listed.replaceChildren(...r.top.map(i => {
      const [what, note] = name(c, r.at[i]);
      return make("div", { className: "row", aria: { role: "listitem" } }, make("span", { className: "name", title: `${what}, ${note}` }, what, make("small", { textContent: ` ${note}` })),
        bar(r.weights[i], top, false), make("span", { className: "num", textContent: fixed(r.weights[i]) }));
    }));
    const of = x => n ? x / n : 0;
    shares.update([n ? r.hits / r.own.found.length : 0, of(r.kin), r.carried], { top: 1, texts: [`${r.hits}`, `${r.kin}`, `${fixed(100 * r.carried, 1)} %`] });
    const walk = s.search === SEARCHES[0];
    depths.update(r.own.depth.map(d => walk ? d : null), { top: s.k, digits: 0 });
    walked.textContent = walk ? `Places of each head's own list that the walk passed until it had ${n} different events: ${Math.ceil(n / A)} if the heads never agree, ${n} if they always do.` : "Only the round robin walks down lists of heads.";
    out.replaceChildren(
      make("span", {}, "found ", make("b", { textContent: n }), n < s.k ? ` of ${s.k} wanted` : "", ` among ${given.length.toLocaleString("en")}`),
      ...(n ? [make("span", {}, "oldest ", make("b", { textContent: age(r.oldest) })), make("span", {}, "median age ", make("b", { textContent: age(r.median) }))]
        : [make("span", { className: "note", textContent: "Nothing was found: the exact search unit returns zeros." })]));
    Object.assign(el.dataset, { index: JSON.stringify(r.at.map(j => index[c.row[j]])), weights: JSON.stringify(r.weights), hits: r.hits, kin: r.kin, carried: r.carried,
      depth: JSON.stringify(walk ? r.own.depth : null), oldest: JSON.stringify(r.oldest), median: JSON.stringify(r.median), top: JSON.stringify(r.top.map(i => index[c.row[r.at[i]]])), ready: "1" });
  };
  const set = f => x => { f(x); draw(); };
  const controls = make("div", { className: "controls" });
  const fill = () => controls.replaceChildren(
    select("candidate", given.candidateTitles, set(i => { s.candidate = i; }), s.candidate),
    select("search", words, set(i => { s.search = SEARCHES[i]; }), SEARCHES.indexOf(s.search)),
    slider("K", 0, ks.length - 1, 1, ks.indexOf(s.k), i => `${ks[i]}`, set(i => { s.k = ks[i]; })),
    select("weights of", ["all heads, mean", ...candidates[0].orders.map((_, a) => `head ${a + 1}`)], set(i => { s.head = i ? i - 1 : null; }), s.head === null ? 0 : s.head + 1),
    reset(() => { begin(); fill(); draw(); }));
  fill();
  const key = (color, sign, text) => make("span", {}, make("b", { textContent: sign, style: `color:var(${color})`, aria: { hidden: "true" } }), ` ${text}`);
  el.append(controls, make("h4", { textContent: "The events found; height: weight in the exact search unit" }), chart,
    make("p", { className: "hint" }, key("--plus", "●", `the candidate's ${given.key}, `), key("--minus", "○", `the same ${given.field}, `), key("--dim", "✕", "another. "),
      key("--accent", "|", "TWIN's own K, long where this search found the event too. Bottom: all events, by week.")),
    make("div", { className: "split" },
      make("div", {}, make("h4", { textContent: "The ten with the most weight" }), listed),
      make("div", {}, make("h4", { textContent: "Of the K events" }), shares.box,
        make("p", { className: "hint", textContent: `Whole attention: the share that the K carry in a softmax over all ${given.length.toLocaleString("en")} events.` }), make("h4", { textContent: "Depth of the round robin" }), depths.box, walked)), out);
  draw();
  const watcher = new ResizeObserver(() => {
    const now = el.clientWidth;
    if (now && now !== width) { width = now; drawLine(...last); }
  });
  watcher.observe(el);
  return () => watcher.disconnect();
}
export default { render };
