// An explorer: labelled controls above a picture that the kernel draws.
// payload: { controls: [{ name, label, kind: "slider" | "choice", ... }] }.  The first picture stands in `light`.

function build(root, { controls }, link, light) {
  const picture = make("div", { class: "picture" });
  const note = make("p", { class: "note", role: "status" }, "Run this cell in JupyterLab to move the controls.");
  const values = {};
  const fields = make("fieldset", { disabled: true }, make("legend", {}, "Controls"), ...controls.map(control));
  root.append(make("style", {}, LOOK + EXPLORE_LOOK), make("section", { "aria-label": "Explorer" }, fields, picture, note));
  const first = light.querySelector("img, [role=alert]");
  if (first) picture.append(first.cloneNode(true));
  let shown = first ? JSON.stringify(values) : "";
  let waiting = null; // one request at a time: what is dragged over meanwhile is never asked for

  function control(given) {
    const { name, label, kind } = given;
    values[name] = given.value;
    return kind === "slider" ? sliderControl(given) : choiceControl(given, `${name}-${Math.random()}`, label);
  }

  function sliderControl({ name, label, low, high, step, value }) {
    const output = make("output", {}, tidy(value));
    const oninput = (event) => {
      output.textContent = tidy(event.target.valueAsNumber);
      change(name, event.target.valueAsNumber);
    };
    const input = make("input", { type: "range", min: low, max: high, step, value, oninput });
    return make("label", { class: "control" }, make("span", {}, label), input, output);
  }

  function choiceControl({ name, label, options }, group) {
    const radios = options.map((option, i) => make("label", {},
      make("input", { type: "radio", name: group, checked: i === 0, onchange: () => change(name, i) }), option));
    return make("div", { class: "control", role: "radiogroup", "aria-label": label },
      make("span", {}, label), make("span", { class: "options" }, ...radios));
  }

  function change(name, value) {
    values[name] = value;
    ask();
  }

  function ask() {
    const wanted = JSON.stringify(values);
    if (waiting !== null || wanted === shown) return;
    waiting = wanted;
    link.send({ type: "draw", values: { ...values } });
    setTimeout(() => waiting === wanted && (note.textContent = WAITING), 1000);
  }

  return (message) => {
    if (message.type === "welcome") {
      fields.disabled = false;
      note.textContent = "";
      waiting = null;
    }
    if (message.type === "picture") {
      picture.innerHTML = message.html;
      note.textContent = "";
      shown = waiting;
      waiting = null;
    }
    ask();
  };
}

const WAITING = "Waiting for the kernel. If it was restarted, run this cell again.";
const tidy = (value) => String(Number(value.toPrecision(6)));

const EXPLORE_LOOK = `
  fieldset { border: 0; margin: 0 0 0.5rem; padding: 0; min-width: 0; }
  legend { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  .control { display: grid; grid-template-columns: minmax(6rem, max-content) minmax(8rem, 22rem) 5rem; gap: 0.8rem;
    align-items: center; padding: 0.1rem 0; }
  .control input[type="range"] { width: 100%; }
  .control output { font-variant-numeric: tabular-nums; }
  .options { display: flex; flex-wrap: wrap; gap: 0.2rem 1rem; grid-column: 2 / -1; }
  .options label { display: inline-flex; gap: 0.35rem; align-items: center; }
  fieldset:disabled { color: var(--soft); }
  img { display: block; max-width: 100%; height: auto; border-radius: 4px; }
  [role="alert"] { color: var(--wrong); margin: 0.6rem 0; }
`;
