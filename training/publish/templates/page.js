// Each picture is replaced by the chart that it shows, in the colours and the width of the page; without a script it stays.
(() => {
  const themes = JSON.parse(document.getElementById("themes").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const drawn = new Map();

  function lines(text, most) {
    const found = [""];
    for (const word of [].concat(text).join(" ").split(" ")) {
      const last = found.length - 1;
      if (found[last] && found[last].length + word.length >= most) found.push(word);
      else found[last] += (found[last] ? " " : "") + word;
    }
    return found;
  }

  // Titles go on in the next line and legends stand below one another where there is no room beside.
  function fitted(value, width) {
    if (Array.isArray(value)) return value.map((one) => fitted(one, width));
    if (value === null || typeof value !== "object") return value;
    const made = {};
    for (const [key, inner] of Object.entries(value)) made[key] = key === "values" ? inner : fitted(inner, width);
    if (made.legend && typeof made.legend === "object") {
      made.legend = { ...made.legend, labelLimit: width - 40, ...(width < 460 ? { columns: 1 } : {}) };
    }
    if (made.axis && typeof made.axis === "object" && made.axis.title) {
      made.axis = { ...made.axis, title: Array.isArray(made.axis.title) ? made.axis.title : lines(made.axis.title, Math.max((width - 90) / 7, 16)) };
    }
    return made;
  }

  function sized(spec, width) {
    const made = fitted(spec, width);
    made.title = {
      ...spec.title,
      text: lines(spec.title.text, width / 8.4),
      ...(spec.title.subtitle ? { subtitle: lines(spec.title.subtitle, width / 7.2) } : {}),
    };
    if (typeof made.height === "number" && !spec.usermeta?.rows) made.height = Math.min(made.height, Math.round(width * 0.85));
    return made;
  }

  function button(figure, view, kind) {
    const made = document.createElement("button");
    made.type = "button";
    made.textContent = `Save as ${kind.toUpperCase()}`;
    made.addEventListener("click", async () => {
      const link = document.createElement("a");
      link.href = await view.toImageURL(kind, 2);
      link.download = `${figure.id}.${kind}`;
      link.click();
    });
    return made;
  }

  async function draw(figure) {
    const live = figure.querySelector(".live");
    const spec = JSON.parse(figure.querySelector(".spec").textContent);
    drawn.get(figure)?.finalize();
    live.hidden = false;
    try {
      const made = await vegaEmbed(live, sized(spec, live.clientWidth), {
        actions: false, renderer: "svg", logLevel: 1, config: themes[dark.matches ? "dark" : "light"],
      });
      drawn.set(figure, made);
      const image = live.querySelector("svg");
      image.setAttribute("role", "img");
      image.setAttribute("aria-label", figure.querySelector("img").alt);
      // To a screen reader it is one picture with its description; the figures are in the table.
      for (const part of image.querySelectorAll("[role], [aria-roledescription], [aria-label]")) {
        for (const name of ["role", "aria-roledescription", "aria-label"]) part.removeAttribute(name);
      }
      figure.querySelector(".save").replaceChildren(...["png", "svg"].map((kind) => button(figure, made.view, kind)));
      figure.classList.add("drawn");
    } catch (error) {
      live.hidden = true;
      figure.classList.remove("drawn");
      console.error(error);
    }
  }

  const figures = [...document.querySelectorAll("figure.chart")];
  const all = () => figures.forEach(draw);
  dark.addEventListener("change", all);
  let width = innerWidth, later;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    clearTimeout(later);
    later = setTimeout(all, 200);
  });
  all();
})();
