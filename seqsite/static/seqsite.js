// Draws a page's Plotly figures; plotly.js comes from this site, once, when the first figure is near.
(() => {
  const here = new URL(".", document.currentScript.src).href;
  let loading;
  const plotly = () => loading ??= new Promise((done, failed) => {
    const amd = window.define;
    window.define = undefined;                         // requirejs would swallow the bundle
    const script = document.createElement("script");
    script.src = here + "plotly.min.js";
    script.onload = () => { window.define = amd; done(window.Plotly); };
    script.onerror = failed;
    document.head.append(script);
  });
  const colours = () => document.documentElement.dataset.theme === "dark"
    ? { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(255,255,255,.06)", "font.color": "#ddd" }
    : { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "#f4f6f8", "font.color": "#222" };
  const drawn = [];
  const draw = async holder => {
    const figure = JSON.parse(holder.querySelector("script").textContent), lib = await plotly();
    const target = document.createElement("div");
    holder.append(target);
    await lib.newPlot(target, figure.data, { ...figure.layout, autosize: true }, { responsive: true, displaylogo: false });
    if (figure.frames?.length) await lib.addFrames(target, figure.frames);
    await lib.relayout(target, colours());
    drawn.push(target);
    holder.dataset.ready = "1";
  };
  document.addEventListener("DOMContentLoaded", () => {
    const near = new IntersectionObserver(entries => entries.forEach(e => {
      if (e.isIntersecting) { near.unobserve(e.target); draw(e.target); }
    }), { rootMargin: "400px" });
    document.querySelectorAll(".seq-plotly").forEach(d => near.observe(d));
    new MutationObserver(() => drawn.forEach(t => window.Plotly.relayout(t, colours())))
      .observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
  });
})();
