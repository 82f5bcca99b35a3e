// Each picture is replaced by the chart that it shows, in the colours of the page; without a script the picture stays.
(() => {
  const themes = JSON.parse(document.getElementById("themes").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const actions = { export: { png: true, svg: true }, source: false, compiled: false, editor: false };
  const i18n = { PNG_ACTION: "Save as PNG", SVG_ACTION: "Save as SVG", CLICK_TO_VIEW_ACTIONS: "Save this chart" };
  const drawn = new Map();

  async function draw(figure) {
    const live = figure.querySelector(".live");
    const spec = JSON.parse(figure.querySelector(".spec").textContent);
    drawn.get(figure)?.finalize();
    live.hidden = false;
    try {
      const made = await vegaEmbed(live, spec, {
        actions, i18n, renderer: "svg", config: { ...themes[dark.matches ? "dark" : "light"], aria: false },
        downloadFileName: figure.id,
      });
      drawn.set(figure, made);
      const image = live.querySelector("svg.marks");
      image?.setAttribute("role", "img");
      image?.setAttribute("aria-label", figure.querySelector("img").alt);
      figure.classList.add("drawn");
    } catch (error) {
      live.hidden = true;
      figure.classList.remove("drawn");
      console.error(error);
    }
  }

  const all = () => document.querySelectorAll("figure.chart").forEach(draw);
  dark.addEventListener("change", all);
  all();
  // What is folded is printed too.
  addEventListener("beforeprint", () => document.querySelectorAll("details.printed").forEach((one) => { one.open = true; }));
})();
