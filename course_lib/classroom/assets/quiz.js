// The quiz and the deck of flashcards: drawing, checking and scoring.
// payload: { mode, title, questions, flashcards }; texts are HTML already escaped by the kernel.
// Saved per question: { answer, right }; for the deck: { [id]: true } for every card known.

function build(root, payload, link) {
  root.append(make("style", {}, LOOK + QUIZ_LOOK));
  return payload.mode === "cards" ? buildDeck(root, payload, link) : buildQuiz(root, payload, link);
}

function buildQuiz(root, { title, questions }, link) {
  const results = {};
  const total = make("p", { class: "total", role: "status" });
  const saved = make("p", { class: "note" });
  const again = make("button", { type: "button", onclick: startOver }, "Start over");
  const cards = questions.map((question, index) => buildQuestion(question, index, save));
  const list = make("ol", { class: "questions" }, ...cards.map((card) => make("li", {}, card.element)));
  const foot = make("footer", {}, total, again);
  root.append(make("section", { "aria-label": `Quiz: ${title}` }, make("h3", {}, `Quiz: ${title}`), list, foot, saved));
  showTotal();

  function showTotal() {
    const done = Object.values(results);
    const right = done.filter((result) => result.right).length;
    const complete = done.length === questions.length;
    total.textContent = complete
      ? `Score: ${right} of ${questions.length}.` + (right < questions.length ? " Try the others again." : "")
      : `${done.length} of ${questions.length} answered, ${right} right`;
    total.classList.toggle("complete", complete);
    again.hidden = done.length === 0;
  }

  function save(id, result) {
    if (result) results[id] = result;
    else delete results[id];
    showTotal();
    const score = Object.values(results).filter((r) => r.right).length;
    keep(link, saved, { type: "save", results, score });
  }

  function startOver() {
    for (const card of cards) card.reset();
    for (const id of Object.keys(results)) delete results[id];
    showTotal();
    keep(link, saved, { type: "save", results, score: 0 });
    root.querySelector("input, button").focus();
  }

  return (message) => {
    if (message.type === "saved") saved.textContent = message.note;
    if (message.type !== "welcome") return;
    if (Object.keys(results).length) return save(); // answered before the kernel was connected
    Object.assign(results, message.results);
    for (const card of cards) if (card.id in results) card.restore(results[card.id]);
    showTotal();
  };
}

// Send what is to be saved; say so when no kernel takes it.
function keep(link, note, message) {
  note.textContent = "";
  link.alive = false;
  link.send(message);
  setTimeout(() => {
    if (!link.alive) note.textContent = "Not saved: run this cell in JupyterLab, and your answers are kept.";
  }, 1500);
}

function buildQuestion(question, index, save) {
  const kind = { single: choiceKind, multiple: choiceKind, numeric: numericKind, ordering: orderingKind }[question.kind];
  const body = kind(question);
  const status = make("p", { class: "status", role: "status" });
  const button = make("button", { type: "submit", class: "main" }, "Check");
  const fields = make("fieldset", {},
    make("legend", {}, make("span", { class: "number" }, `${index + 1}`), make("span", { html: question.prompt })), body.element);
  const form = make("form", { class: "question", novalidate: true, onsubmit: submit }, fields,
    make("div", { class: "row" }, button, make("span", { class: "source", html: question.source })), status);
  let checked = false;

  function submit(event) {
    event.preventDefault();
    if (checked) return open();
    const answer = body.answer();
    if (answer === null) {
      status.className = "status";
      status.textContent = body.wanted;
      return;
    }
    const right = body.right(answer);
    close(right, answer);
    button.focus(); // the inputs are about to be disabled: keep the focus inside
    save(question.id, { answer, right });
  }

  function close(right, answer) {
    checked = true;
    fields.disabled = true;
    button.textContent = "Try again";
    button.classList.remove("main");
    form.classList.add("checked");
    status.className = `status ${right ? "right" : "wrong"}`;
    status.innerHTML = `<strong>${right ? "Right." : "Not yet."}</strong> ${body.comment(answer, right)}`;
  }

  function open() {
    reset();
    save(question.id, null);
    form.querySelector("input, button").focus();
  }

  function reset() {
    checked = false;
    fields.disabled = false;
    button.textContent = "Check";
    button.classList.add("main");
    form.classList.remove("checked");
    status.className = "status";
    status.textContent = "";
    body.reopen();
  }

  function restore({ answer, right }) {
    body.set(answer);
    close(right, answer);
  }

  return { id: question.id, element: form, reset, restore };
}

// One or several options.  Until the answer is right, only the chosen options say what is wrong with them.
function choiceKind({ id, kind, options }) {
  const type = kind === "single" ? "radio" : "checkbox";
  const name = `${id}-${Math.random()}`;
  const rows = options.map((option) => {
    const input = make("input", { type, name });
    const comment = make("div", { class: "comment" });
    return { input, comment, element: make("div", { class: "option" },
      make("label", {}, input, make("span", { html: option.text })), comment) };
  });
  const chosen = () => rows.flatMap((row, i) => (row.input.checked ? [i] : []));
  const role = kind === "single" ? "radiogroup" : "group";
  return {
    element: make("div", { role, "aria-label": kind === "single" ? "Choose one" : "Choose all that apply" },
      kind === "multiple" ? make("p", { class: "note" }, "Choose all that apply.") : "", ...rows.map((row) => row.element)),
    wanted: kind === "single" ? "Choose one option first." : "Choose at least one option first.",
    answer: () => (chosen().length ? chosen() : null),
    right: (answer) => options.every((option, i) => option.correct === answer.includes(i)),
    set: (answer) => rows.forEach((row, i) => (row.input.checked = answer.includes(i))),
    comment(answer, right) {
      options.forEach((option, i) => {
        if (!right && !answer.includes(i)) return;
        rows[i].comment.innerHTML = option.feedback;
        rows[i].comment.className = `comment ${option.correct ? "right" : "wrong"}`;
      });
      if (right || kind === "single") return "";
      const missing = options.filter((option, i) => option.correct && !answer.includes(i)).length;
      return missing ? `${missing} more ${missing === 1 ? "belongs" : "belong"} to the answer.` : "You chose too many.";
    },
    reopen: () => rows.forEach((row) => { row.comment.textContent = ""; row.comment.className = "comment"; }),
  };
}

function numericKind(question) {
  const input = make("input", { type: "text", inputmode: "decimal", autocomplete: "off", "aria-label": "Your number" });
  const value = () => {
    const text = input.value.trim().replace("\u2212", "-").replace(",", ".");
    return text && Number.isFinite(Number(text)) ? Number(text) : null;
  };
  return {
    element: make("div", { class: "row" }, input, make("span", {}, question.unit)),
    wanted: "Enter a number first, such as 0.25.",
    answer: value,
    // A little slack, so that 0.3 counts as within 0.1 of 0.2.
    right: (answer) => Math.abs(answer - question.answer) <= question.tolerance * (1 + 1e-9),
    set: (answer) => (input.value = answer),
    comment: (_, right) => (right ? question.feedback_right : question.feedback_wrong),
    reopen: () => {},
  };
}

function orderingKind({ items, start }) {
  let order = [...start];
  const list = make("ol", { class: "ordering" });
  const rows = items.map((item, i) => {
    const words = make("span", { class: "words", html: item.text });
    const button = (label, sign, step) =>
      make("button", { type: "button", "aria-label": `${label}: ${words.textContent}`, title: label,
        onclick: (event) => move(i, step, event.currentTarget) }, sign);
    const up = button("Move up", "↑", -1);
    const down = button("Move down", "↓", 1);
    const comment = make("div", { class: "comment" });
    const onkeydown = (event) => {
      const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
      if (step && event.target.tagName === "BUTTON") { event.preventDefault(); move(i, step, event.target); }
    };
    return { up, down, comment, element: make("li", { onkeydown },
      make("div", { class: "row" }, make("span", { class: "moves" }, up, down), words), comment) };
  });
  const place = make("p", { class: "unseen", role: "status" });
  draw();

  function draw() {
    list.append(...order.map((i) => rows[i].element));
    order.forEach((i, at) => { rows[i].up.disabled = at === 0; rows[i].down.disabled = at === order.length - 1; });
  }

  function move(i, step, button) {
    const from = order.indexOf(i);
    const to = from + step;
    if (to < 0 || to >= order.length) return;
    [order[from], order[to]] = [order[to], order[from]];
    draw();
    place.textContent = `Now at place ${to + 1} of ${order.length}.`;
    (button.disabled ? (step < 0 ? rows[i].down : rows[i].up) : button).focus();
  }

  return {
    element: make("div", {}, list, place),
    wanted: "",
    answer: () => [...order],
    right: (answer) => answer.every((i, at) => i === at),
    set: (answer) => { order = [...answer]; draw(); },
    comment(answer, right) {
      answer.forEach((i, at) => {
        rows[i].comment.className = `comment ${i === at ? "right" : "wrong"}`;
        if (right || i !== at) rows[i].comment.innerHTML = items[i].feedback;
      });
      const placed = answer.filter((i, at) => i === at).length;
      return right ? "" : `${placed} of ${items.length} are where they belong.`;
    },
    reopen: () => { rows.forEach((row) => { row.comment.textContent = ""; row.comment.className = "comment"; }); draw(); },
  };
}

function buildDeck(root, { title, flashcards }, link) {
  let known = {};
  let pile = [...flashcards];
  let front = true;
  const face = make("button", { type: "button", class: "card", onclick: flip });
  const know = make("button", { type: "button", class: "main", onclick: () => sort(true) }, "I knew it");
  const again = make("button", { type: "button", onclick: () => sort(false) }, "Again");
  const shuffle = make("button", { type: "button", onclick: startOver }, "Start over");
  const buttons = make("div", { class: "row" }, know, again, shuffle);
  const count = make("p", { class: "note", role: "status" });
  const saved = make("p", { class: "note" });
  root.append(make("section", { "aria-label": `Flashcards: ${title}` }, make("h3", {}, `Flashcards: ${title}`), face, buttons, count, saved));
  draw();

  function draw() {
    const card = pile[0];
    const done = flashcards.length - pile.length;
    face.disabled = !card;
    face.innerHTML = !card ? "You knew every card."
      : front ? `<span>${card.front}</span><small>Space or click to turn</small>`
      : `<span>${card.back}</span><small>${card.source}</small>`;
    face.classList.toggle("back", Boolean(card) && !front);
    know.hidden = again.hidden = !card || front;
    shuffle.hidden = done === 0 || Boolean(card && !front);
    count.textContent = `${done} of ${flashcards.length} known`;
  }

  function flip() {
    front = !front;
    draw();
  }

  function sort(knew) {
    const card = pile.shift();
    if (knew) known[card.id] = true;
    else pile.push(card);
    front = true;
    draw();
    (pile.length ? face : shuffle).focus();
    keep(link, saved, { type: "save", results: known, score: Object.keys(known).length });
  }

  function startOver() {
    known = {};
    pile = [...flashcards];
    front = true;
    draw();
    face.focus();
    keep(link, saved, { type: "save", results: known, score: 0 });
  }

  return (message) => {
    if (message.type === "saved") saved.textContent = message.note;
    if (message.type !== "welcome" || Object.keys(known).length) return;
    known = message.results;
    pile = flashcards.filter((card) => !known[card.id]);
    draw();
  };
}

const QUIZ_LOOK = `
  h3 { font-size: 1.15em; font-weight: 600; margin: 0 0 0.6rem; }
  ol.questions { list-style: none; margin: 0; padding: 0; }
  .question { border: 1px solid var(--line); border-radius: 8px; padding: 0.8rem 1rem; margin: 0 0 0.7rem; background: var(--paper); }
  fieldset { border: 0; margin: 0; padding: 0; min-width: 0; }
  legend { padding: 0; margin: 0 0 0.5rem; font-weight: 500; display: flex; gap: 0.6rem; align-items: baseline; }
  .number { color: var(--soft); font-variant-numeric: tabular-nums; min-width: 0.8rem; }
  .option label { display: flex; gap: 0.6rem; align-items: baseline; padding: 0.25rem 0.4rem; border-radius: 5px; cursor: pointer; }
  .option label:hover { background: var(--jp-layout-color2, #f5f5f5); }
  .checked .option label { cursor: default; background: none; }
  .option input { flex: none; margin: 0; position: relative; top: 1px; }
  .comment { font-size: 0.93em; margin: 0 0 0.3rem 0.45rem; padding-left: 0.7rem; border-left: 3px solid transparent; }
  .comment:empty { display: none; }
  .comment.right { border-color: var(--right); }
  .comment.wrong { border-color: var(--wrong); }
  .comment.right::before { content: "✓ " / "right: "; color: var(--right); }
  .comment.wrong::before { content: "✗ " / "not right: "; color: var(--wrong); }
  .row { display: flex; flex-wrap: wrap; gap: 0.6rem; align-items: baseline; }
  form > .row { margin-top: 0.6rem; justify-content: space-between; }
  .source { color: var(--soft); font-size: 0.85em; }
  .status { margin: 0.5rem 0 0; }
  .status:empty { display: none; }
  .status.right strong { color: var(--right); }
  .status.wrong strong { color: var(--wrong); }
  input[type="text"] { width: 9rem; padding: 0.25rem 0.5rem; border: 1px solid var(--line); border-radius: 5px;
    background: var(--paper); color: var(--ink); }
  ol.ordering { margin: 0; padding: 0 0 0 1.6rem; }
  ol.ordering li { padding: 0.15rem 0; }
  ol.ordering li::marker { color: var(--soft); }
  ol.ordering .row { flex-wrap: nowrap; }
  ol.ordering .comment { margin-top: 0.2rem; }
  ol.ordering .comment.right:empty, ol.ordering .comment.wrong:empty { display: none; }
  .moves { white-space: nowrap; }
  .moves button { padding: 0 0.5rem; margin-right: 0.2rem; }
  footer { display: flex; gap: 1rem; align-items: baseline; }
  .total { margin: 0; color: var(--soft); }
  .total.complete { color: var(--ink); font-weight: 600; }
  .unseen { position: absolute; width: 1px; height: 1px; margin: -1px; overflow: hidden; clip-path: inset(50%); }
  [hidden] { display: none; }
  .card { display: flex; flex-direction: column; justify-content: center; align-items: center; gap: 0.6rem; width: 100%;
    min-height: 9rem; padding: 1.2rem 2rem; text-align: center; font-size: 1.1em; border-radius: 8px; margin-bottom: 0.6rem; }
  .card.back { background: var(--jp-layout-color2, #f5f5f5); }
  .card small { color: var(--soft); font-size: 0.75em; }
`;
