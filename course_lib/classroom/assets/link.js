// The link between a displayed element and its model in the kernel, shared by quiz.js and explore.js.
// Each of those defines build(root, payload, link, light): fill the shadow root, return a function
// that takes the kernel's messages.

const models = (globalThis[Symbol.for("course.models")] ??= new Map());

// anywidget calls this for every model the kernel makes, displayed or not.
function initialize({ model }) {
  const key = model.get("key");
  models.set(key, model);
  document.dispatchEvent(new CustomEvent("course-model", { detail: key }));
}

// For the rare case that the widget is shown inside another widget.
function render({ model, el }) {
  start(el, model.get("key"), model.get("payload"));
}

function startAll(key, payload) {
  for (const element of document.querySelectorAll(`[data-course="${key}"]`)) {
    if (!element.shadowRoot) start(element, key, payload);
  }
}

// The element's own children stay as they are, hidden: they are the version for pages without scripts.
function start(element, key, payload) {
  const root = element.attachShadow({ mode: "open" });
  keepKeys(element);
  let model = null;
  const link = {
    alive: false, // true once the kernel has answered
    send: (message, buffers) => model?.send(message, undefined, buffers),
  };
  const receive = build(root, payload, link, element);
  const attach = () => {
    model = models.get(key);
    model.on("msg:custom", (message) => {
      link.alive = true;
      receive(message);
    });
    model.send({ type: "hello" });
  };
  if (models.has(key)) attach();
  else document.addEventListener("course-model", (event) => event.detail === key && !model && attach());
}

// What is typed here is ours: JupyterLab would otherwise take "a", "d d" or an arrow for a command.
// Combinations with Ctrl or Cmd (save, zoom, run the cell) go through, and so does Shift+Enter.
function keepKeys(element) {
  for (const type of ["keydown", "keypress", "keyup"]) {
    element.addEventListener(type, (event) => {
      const command = event.ctrlKey || event.metaKey || (event.shiftKey && event.key === "Enter");
      if (!command) event.stopPropagation();
    });
  }
}

// make("p", { class: "note" }, "text", child): strings are text; `html` sets markup the kernel has escaped.
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "html") element.innerHTML = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const LOOK = `
  :host { display: block; max-width: 46rem; margin: 0.4rem 0; --line: var(--jp-border-color2, #d5d5d5);
    --ink: var(--jp-ui-font-color1, #1f1f1f); --soft: var(--jp-ui-font-color2, #5c5c5c);
    --paper: var(--jp-layout-color1, #fff); --accent: var(--jp-brand-color1, #1967a8);
    --right: color-mix(in srgb, var(--jp-success-color1, #2e7d32) 60%, var(--ink));
    --wrong: color-mix(in srgb, var(--jp-error-color1, #c62828) 60%, var(--ink));
    color: var(--ink); font: 400 14px/1.55 var(--jp-content-font-family, system-ui, sans-serif); }
  * { box-sizing: border-box; }
  code { font: 0.92em var(--jp-code-font-family, ui-monospace, monospace); padding: 0.1em 0.3em; border-radius: 3px;
    color: var(--ink); background: var(--jp-layout-color2, #f0f0f0); }
  button { font: inherit; color: var(--ink); background: var(--paper); border: 1px solid var(--line);
    border-radius: 5px; padding: 0.2rem 0.8rem; cursor: pointer; }
  button:hover:not(:disabled) { border-color: var(--accent); }
  button:disabled { color: var(--jp-ui-font-color3, #999); cursor: default; }
  button.main { background: var(--ink); border-color: var(--ink); color: var(--paper); }
  :focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
  input, select { font: inherit; accent-color: var(--accent); }
  .note { color: var(--soft); font-size: 0.9em; margin: 0.3rem 0 0; }
`;

export default { initialize, render };
