// An explorer: labelled controls above a picture that the kernel draws.
// payload: { controls: [{ name, label, kind: "slider" | "choice" | "patches" | "sentence" | "file", ... }] }.
// The first picture is in `light`.

function build(root, { controls }, link, light) {
  const picture = make("div", { class: "picture" });
  const note = make("p", { class: "note", role: "status" }, "Run this cell in JupyterLab to move the controls.");
  const values = {};
  const transfers = new Map(); // of files on their way: number -> what to do with the kernel's answer
  const kinds = { slider: sliderControl, choice: choiceControl, patches: patchesControl,
    sentence: sentenceControl, file: fileControl };
  const fields = make("fieldset", { disabled: true }, make("legend", {}, "Controls"), ...controls.map(control));
  root.append(make("style", {}, LOOK + EXPLORE_LOOK), make("section", { "aria-label": "Explorer" }, fields, picture, note));
  const first = light.querySelector("[data-picture], img, [role=alert]");
  if (first) picture.append(first.cloneNode(true));
  let shown = first ? JSON.stringify(values) : "";
  let waiting = null; // one request at a time: values passed over meanwhile are never requested

  function control(given) {
    values[given.name] = given.value;
    return kinds[given.kind](given);
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

  function choiceControl({ name, label, options }) {
    const group = `${name}-${Math.random()}`;
    const radios = options.map((option, i) => make("label", {},
      make("input", { type: "radio", name: group, checked: i === 0, onchange: () => change(name, i) }), option));
    return make("div", { class: "control", role: "radiogroup", "aria-label": label },
      make("span", {}, label), make("span", { class: "options" }, ...radios));
  }

  // A radio button for every patch, with the keys of a radio group: an arrow moves and chooses.
  function patchesControl({ name, label, rows, columns, value, picture, shape: [height, width] }) {
    const words = ([row, column]) => `row ${row}, column ${column}`;
    const cells = [...Array(rows * columns).keys()].map((i) => {
      const place = [Math.floor(i / columns), i % columns];
      return make("button", { type: "button", role: "radio", "aria-label": words(place), onclick: () => choose(place) });
    });
    const output = make("output", {}, words(value));
    const style = `width: ${width}px; aspect-ratio: ${width} / ${height};
      grid-template: repeat(${rows}, 1fr) / repeat(${columns}, 1fr)`;
    const board = make("div", { class: "board", role: "radiogroup", "aria-label": label, style, onkeydown },
      make("img", { src: picture, alt: `${rows} by ${columns} patches` }), ...cells);
    mark(value);
    return make("div", { class: "control tall" }, make("span", {}, label), board, output);

    function mark(place) {
      cells.forEach((cell, i) => {
        const chosen = i === place[0] * columns + place[1];
        cell.setAttribute("aria-checked", chosen);
        cell.tabIndex = chosen ? 0 : -1;
      });
      output.textContent = words(place);
    }

    function choose(place) {
      mark(place);
      cells[place[0] * columns + place[1]].focus();
      change(name, place);
    }

    function onkeydown(event) {
      const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1],
        PageUp: [-rows, 0], PageDown: [rows, 0], Home: [0, -columns], End: [0, columns] };
      const step = steps[event.key];
      if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      const inside = (at, count) => Math.min(Math.max(at, 0), count - 1);
      choose([inside(values[name][0] + step[0], rows), inside(values[name][1] + step[1], columns)]);
    }
  }

  // What is typed counts once Enter is pressed, the button is, or the field is left.
  function sentenceControl({ name, label, value, longest }) {
    const send = () => change(name, input.value);
    const input = make("input", { type: "text", value, maxlength: longest, "aria-label": label, spellcheck: "false",
      autocomplete: "off", onchange: send });
    return make("div", { class: "control" }, make("span", {}, label),
      make("span", { class: "options sentence" }, input, make("button", { type: "button", onclick: send }, "Show")));
  }

  // A file goes to the kernel in parts, each sent once the previous one has arrived.
  function fileControl({ name, label, start, accept, largest, part }) {
    const onchange = () => input.files[0] && upload(input.files[0]);
    const input = make("input", { type: "file", accept, hidden: true, onchange });
    const button = make("button", { type: "button", onclick: () => input.click() }, "Choose a file\u2026");
    const back = make("button", { type: "button", hidden: true, onclick: restore }, "Back to the example");
    const shown = make("output", {}, start);
    const trouble = make("p", { role: "alert" });
    let current = null; // the current transfer; one that is replaced by another is dropped
    let settled = start;
    return make("div", { class: "control", role: "group", "aria-label": label }, make("span", {}, label),
      make("span", { class: "options file" }, button, input, shown, back), trouble);

    function restore() {
      button.focus();
      settle(0, start);
    }

    function settle(value, words) {
      current = null;
      shown.textContent = settled = words;
      back.hidden = value === 0;
      trouble.textContent = "";
      change(name, value);
    }

    async function upload(file) {
      input.value = ""; // so that the same file can be chosen again
      const megabytes = (bytes) => `${Math.ceil(bytes / 1e5) / 10} MB`;
      if (file.size > largest) {
        trouble.textContent = `${file.name} has ${megabytes(file.size)}. A file may have at most ${megabytes(largest)}.`;
        return;
      }
      const transfer = (current = String(Math.random()));
      const fail = (line) => {
        current = null;
        shown.textContent = settled;
        trouble.textContent = `${file.name} could not be read. ${line}`;
      };
      trouble.textContent = "";
      let sent = 0;
      try {
        while (current === transfer) {
          shown.textContent = `Reading ${file.name}: ${Math.round((100 * sent) / (file.size || 1))} %`;
          const bytes = await file.slice(sent, sent + part).arrayBuffer();
          const answer = answerTo(transfer);
          link.send({ type: "file", control: name, transfer, name: file.name, size: file.size, start: sent }, [bytes]);
          const { got, value, error } = await answer;
          if (current !== transfer) return;
          if (error) fail(error);
          else if (value) settle(value, file.name);
          else sent = got;
        }
      } catch (error) {
        if (current === transfer) fail(`The browser says: ${error.message}`);
      }
    }
  }

  function answerTo(transfer) {
    return new Promise((resolve) => {
      transfers.set(transfer, resolve);
      setTimeout(() => transfers.get(transfer) === resolve && (note.textContent = WAITING), 3000);
    });
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
    if (message.type === "file" && transfers.has(message.transfer)) {
      transfers.get(message.transfer)(message);
      transfers.delete(message.transfer);
      note.textContent = "";
      return;
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
  .control.tall { align-items: start; grid-template-columns: minmax(6rem, max-content) minmax(0, max-content) 1fr; }
  .board { display: grid; position: relative; max-width: 100%; box-shadow: 0 0 0 1px var(--line);
    forced-color-adjust: none; }
  .board img { position: absolute; inset: 0; width: 100%; height: 100%; border-radius: 0; }
  .board button { position: relative; min-width: 0; min-height: 0; padding: 0; border: 0; border-radius: 0;
    background: none; box-shadow: inset 0.5px 0.5px #fff5, inset -0.5px -0.5px #0004; }
  .board button:enabled:hover { background: #8887; }
  .board button[aria-checked="true"] { z-index: 1; outline: 2px solid #fff; outline-offset: 0;
    box-shadow: inset 0 0 0 1px #000, 0 0 0 3px #000; }
  .board:has(:focus-visible) { outline: 2px solid var(--accent); outline-offset: 4px; }
  .sentence { flex-wrap: nowrap; }
  .sentence input { flex: 1; min-width: 0; padding: 0.2rem 0.5rem; color: var(--ink); background: var(--paper);
    border: 1px solid var(--line); border-radius: 5px; }
  .file { align-items: center; }
  .file output { overflow-wrap: anywhere; }
  .control > p { grid-column: 2 / -1; margin: 0; }
  .control > p:empty { display: none; }
  fieldset:disabled { color: var(--soft); }
  img { display: block; max-width: 100%; height: auto; border-radius: 4px; }
  [role="alert"] { color: var(--wrong); margin: 0.6rem 0; }
`;
