// Views of an inspection: surprise, attention, logit lens and anatomy. `showInside(root, data)` fills an element.
// Text of models and users reaches the page through textContent alone, so it cannot become markup or code.

function showInside(root, data) {
  const NOTES = {
    surprise: "More color means that the model found this token less likely; ten bits are a 1-in-1,024 guess. Choose a token to see what was " +
      "expected in its place. A rare name surprises even a perfect model: surprise is not error.",
    attention: "The chosen head reads more of the tokens with more color when it is at the chosen token. ×3 means three times as much as an even spread. Reading " +
      "is not yet using: what a head does with what it reads is not shown.",
    sampler: "Each column is what one sampler left of the distribution. The strip is what remains, end to end in the order of ids; one random " +
      "number picks the token. The model alone decides the first column: a sampler cannot make a token likely that the model ruled out.",
    growth: "The same text, read with the weights of each kept step, from random weights on. Watch which tokens become easy first. The steps " +
      "are spaced by ratio: most is learned early, and a token that gets harder again may be one that the model has overfitted away from.",
    lens: "Each row is what the model would predict if it stopped after that many layers; the last row is its real prediction. Choose a cell " +
      "to see more. Early rows can mislead: the output layer was trained for the last one.",
    anatomy: "Every tensor of the model, drawn to scale: width and height are its dimensions. The output layer is the token embedding, wte, " +
      "used a second time. Size is not importance: a small layer norm is used as often as the matrix after it.",
  };
  const LABELS = { surprise: "Surprise", sampler: "Next token", attention: "Attention", lens: "Logit lens", anatomy: "Anatomy", growth: "Growing up" };
  const tokens = data.tokens.slice(data.skipped);
  const views = ["surprise", "sampler", ...(data.growth?.length ? ["growth"] : []), ...(data.attention ? ["attention"] : []),
    ...(data.anatomy ? ["lens", "anatomy"] : [])];

  function make(tag, className, text) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  }
  const percent = (p) => (p >= 0.1 ? (100 * p).toFixed(0) : p >= 0.001 ? (100 * p).toFixed(1) : "<0.1") + " %";
  const visible = (text) => (text === "" ? "∅" : text.replace(/\n/g, "⏎").replace(/\t/g, "⇥"));
  const oneIn = (bits) => Math.round(2 ** Math.min(bits, 40)).toLocaleString("en");
  const quoted = (text) => "“" + visible(text) + "”";

  // A text whose tokens are chosen by mouse, arrow keys, Home and End. `strength(i)` is 0 to 1, or null for no mark.
  function textView(list, strength, label, choose) {
    const box = make("p", "text");
    box.setAttribute("role", "group");
    box.setAttribute("aria-label", "tokens of the text; arrow keys move");
    const spans = list.map((token, i) => {
      const span = make("span", "token", token.text.replace(/\n/g, "⏎\n") || "∅");
      span.setAttribute("role", "button");
      span.tabIndex = i ? -1 : 0;
      span.onclick = () => pick(i);
      span.onkeydown = (event) => {
        const to = { ArrowRight: i + 1, ArrowDown: i + 1, ArrowLeft: i - 1, ArrowUp: i - 1, Home: 0, End: list.length - 1 }[event.key];
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); pick(i); }
        else if (to !== undefined && spans[to]) { event.preventDefault(); pick(to); spans[to].focus(); }
      };
      box.append(span);
      return span;
    });
    function paint() {
      spans.forEach((span, i) => {
        const value = strength(i);
        span.style.background = value === null ? "" : `rgba(var(--mark), ${(0.6 * Math.min(1, value)).toFixed(3)})`;
        span.setAttribute("aria-label", label(i));
      });
    }
    function pick(i) {
      spans.forEach((span, j) => { span.classList.toggle("chosen", i === j); span.tabIndex = i === j ? 0 : -1; });
      choose(i);
      paint();
    }
    return { box, pick, paint };
  }

  function bars(items, drawn) {
    const box = make("div");
    const largest = Math.max(...items.map((item) => item.probability), 1e-9);
    for (const item of items) {
      const row = make("div", item.id === drawn ? "bar drawn" : "bar");
      row.append(make("code", "", visible(item.text)));
      const bar = make("i");
      bar.style.width = (100 * item.probability / largest).toFixed(1) + "%";
      row.append(bar, make("span", "", percent(item.probability)));
      box.append(row);
    }
    return box;
  }

  function surprise(panel) {
    const list = data.tokens, card = make("div", "card");
    card.setAttribute("aria-live", "polite");
    const known = list.filter((token) => token.bits !== null);
    const mean = known.reduce((sum, token) => sum + token.bits, 0) / Math.max(1, known.length);
    const describe = (i) => list[i].bits === null ? `${quoted(list[i].text)}, the first token: nothing was expected yet`
      : `${quoted(list[i].text)}: ${list[i].bits.toFixed(1)} bits`;
    const text = textView(list, (i) => (list[i].bits === null ? null : list[i].bits / 14), describe, (i) => {
      const token = list[i];
      card.replaceChildren(make("strong", "", describe(i)));
      if (token.bits === null) return;
      const place = token.rank ? `${token.rank.toLocaleString("en")} tokens were more likely` : "the most likely token";
      card.append(make("div", "", `${token.bits < 3 ? percent(2 ** -token.bits) + " likely" : `a 1-in-${oneIn(token.bits)} guess`}; ${place}`), bars(token.top, token.id));
    });
    panel.append(make("p", "note", `${known.length.toLocaleString("en")} predicted tokens, ${mean.toFixed(2)} bits each on average.`), text.box, card);
    if (list.length) text.pick(Math.min(1, list.length - 1));
  }

  function sampler(panel) {
    const next = data.next, columns = make("div", "stages"), strip = make("div", "strip");
    for (const stage of next.stages) {
      const column = make("div", "card"), left = stage.remaining === 1 ? "1 token left" : `${stage.remaining.toLocaleString("en")} tokens left`;
      column.append(make("strong", "", stage.sampler), make("div", "", left), bars(stage.top, next.id));
      columns.append(column);
    }
    for (const interval of next.intervals) {
      const part = make("span", interval.id === next.id ? "drawn" : "", visible(interval.text));
      part.style.left = 100 * interval.low + "%";
      part.style.width = 100 * (interval.high - interval.low) + "%";
      part.title = `${visible(interval.text)} from ${interval.low.toFixed(4)} to ${interval.high.toFixed(4)}`;
      strip.append(part);
    }
    const number = next.uniform === null ? "no number is drawn: the most likely token is taken" : `the number ${next.uniform.toFixed(4)}`;
    if (next.uniform !== null) {
      const mark = make("b");
      mark.style.left = 100 * next.uniform + "%";
      strip.append(mark);
    }
    strip.setAttribute("role", "img");
    strip.setAttribute("aria-label", `what remains; ${number} picks ${quoted(next.text)}`);
    panel.append(make("p", "", `After the text: ${quoted(next.text)} (${number}).`), strip, columns);
  }

  function growth(panel) {
    const stages = data.growth, line = make("p", "note"), slider = make("input"), card = make("div", "card");
    let now = stages.length - 1, chosen = Math.min(1, tokens.length - 1);
    slider.type = "range";
    slider.max = slider.value = stages.length - 1;
    slider.setAttribute("aria-label", "step of the training");
    const bits = (i) => stages[now].bits[i];
    const describe = (i) => (bits(i) === null ? quoted(tokens[i].text) : `${quoted(tokens[i].text)}: ${bits(i).toFixed(1)} bits`);
    const text = textView(tokens, (i) => (bits(i) === null ? null : bits(i) / 14), describe, (i) => { chosen = i; explain(); });
    function explain() {
      card.replaceChildren(make("strong", "", describe(chosen)));
      if (bits(chosen) === null) return;
      for (const stage of stages) {
        const row = make("div", stage === stages[now] ? "bar drawn" : "bar"), bar = make("i");
        bar.style.width = Math.min(100, 100 * stage.bits[chosen] / 14).toFixed(1) + "%";
        row.append(make("code", "", "step " + stage.step.toLocaleString("en")), bar,
          make("span", "", `${stage.bits[chosen].toFixed(1)} bits, expected ${quoted(stage.expected[chosen])}`));
        card.append(row);
      }
    }
    function draw() {
      const known = stages[now].bits.filter((value) => value !== null);
      const mean = known.reduce((sum, value) => sum + value, 0) / Math.max(1, known.length);
      line.textContent = `step ${stages[now].step.toLocaleString("en")}: ${mean.toFixed(2)} bits for each token on average`;
      slider.setAttribute("aria-valuetext", line.textContent);
      text.paint();
      explain();
    }
    slider.oninput = () => { now = Number(slider.value); draw(); };
    card.classList.add("steps");
    panel.append(slider, line, text.box, card);
    text.pick(chosen);
    draw();
  }

  function attention(panel) {
    let chosen = 0, from = tokens.length - 1;
    const heads = data.heads, grid = make("div", "grid"), matrix = make("canvas", "matrix"), head = () => data.attention[heads[chosen].layer][heads[chosen].head];
    const times = (value, even) => "×" + (even > 0 ? value / even : 0).toFixed(1);
    const describe = (h) => `layer ${h.layer} head ${h.head}`;
    const detail = make("p", "note");
    const text = textView(tokens, (i) => (i > from ? null : Math.sqrt(head()[from][i])),
      (i) => (i > from ? quoted(tokens[i].text) : `${quoted(tokens[i].text)}: ${percent(head()[from][i])}`), (i) => { from = i; draw(); });
    function paintCanvas(canvas, rows) {
      const size = rows.length, context = canvas.getContext("2d"), image = context ? (canvas.width = canvas.height = size, context.createImageData(size, size)) : null;
      if (!image) return;
      const color = getComputedStyle(root).getPropertyValue("--mark").split(",").map(Number);
      rows.forEach((row, i) => row.forEach((value, j) => image.data.set([...color, 255 * Math.sqrt(value)], 4 * (i * size + j))));
      context.putImageData(image, 0, 0);
    }
    const thumbs = heads.map((h, index) => {
      const button = make("button"), canvas = make("canvas");
      button.type = "button";
      button.append(make("div", "", describe(h)), canvas, make("div", "", `previous ${times(h.previous_token, data.chance.previous_token)}`),
        make("div", "", `first ${times(h.first_token, data.chance.first_token)}`), make("div", "", `induction ${times(h.induction, data.chance.induction)}`));
      button.onclick = () => { chosen = index; draw(); text.paint(); };
      grid.append(button);
      return { button, canvas };
    });
    function draw() {
      thumbs.forEach((thumb, index) => {
        thumb.button.classList.toggle("chosen", index === chosen);
        thumb.button.setAttribute("aria-pressed", String(index === chosen));
        paintCanvas(thumb.canvas, data.attention[heads[index].layer][heads[index].head]);
      });
      paintCanvas(matrix, head());
      const row = head()[from].map((value, i) => [value, i]).sort((a, b) => b[0] - a[0]).slice(0, 3);
      detail.textContent = `${describe(heads[chosen])}, from ${quoted(tokens[from].text)}: reads ` +
        row.map(([value, i]) => `${quoted(tokens[i].text)} ${percent(value)}`).join(", ");
    }
    matrix.setAttribute("role", "img");
    matrix.setAttribute("aria-label", "attention of the chosen head: rows read, columns are read");
    panel.append(grid, detail, text.box, matrix);
    text.pick(from);
    root.repaint = draw;
  }

  function lens(panel) {
    const table = make("table"), card = make("div", "card"), scroll = make("div", "scroll"), first = make("tr");
    card.setAttribute("aria-live", "polite");
    first.append(make("th", "", "after"), ...tokens.map((token) => make("th", "", visible(token.text))));
    table.append(first);
    function choose(row, i) {
      const next = tokens[i + 1];
      const rank = next ? `; the token that follows, ${quoted(next.text)}, is number ${row.ranks[i] + 1}` : "";
      const ranks = next ? data.logit_lens.map((other) => other.ranks[i] + 1).join(" → ") : "";
      card.replaceChildren(make("strong", "", `${name(row.layer)}, at ${quoted(tokens[i].text)}${rank}`), bars(row.top[i], next && next.id),
        make("div", "", `length of the residual stream: ${row.norms[i].toFixed(1)}` + (ranks ? `; its place by layer: ${ranks}` : "")));
    }
    const name = (layer) => (layer ? `layer ${layer - 1}` : "embedding");
    for (const row of [...data.logit_lens].reverse()) {
      const line = make("tr");
      line.append(make("th", "", name(row.layer)));
      row.top.forEach((guesses, i) => {
        const cell = make("td", "", visible(guesses[0].text));
        cell.style.background = `rgba(var(--mark), ${(0.6 * guesses[0].probability).toFixed(3)})`;
        cell.tabIndex = -1;
        cell.onclick = cell.onfocus = () => choose(row, i);
        cell.onkeydown = (event) => {
          const to = { ArrowLeft: cell.previousSibling, ArrowRight: cell.nextSibling, ArrowUp: line.previousSibling?.children[i + 1],
            ArrowDown: line.nextSibling?.children[i + 1] }[event.key];
          if (to && to.tagName === "TD") { event.preventDefault(); cell.tabIndex = -1; to.tabIndex = 0; to.focus(); }
        };
        line.append(cell);
      });
      table.append(line);
    }
    table.rows[1].cells[1].tabIndex = 0;
    scroll.append(table);
    panel.append(scroll, card);
    choose(data.logit_lens[data.logit_lens.length - 1], tokens.length - 1);
  }

  function anatomy(panel) {
    const parts = data.anatomy.parts, largest = Math.max(...parts.flatMap((part) => part.shape));
    const total = parts.reduce((sum, part) => sum + part.parameters, 0), work = parts.reduce((sum, part) => sum + part.flops, 0) + data.anatomy.head_flops + data.anatomy.attention_flops;
    const number = (value) => value.toLocaleString("en"), size = (bytes) => (bytes >= 1e6 ? (bytes / 1e6).toFixed(1) + " MB" : (bytes / 1e3).toFixed(1) + " kB");
    panel.append(make("p", "", `${number(total)} parameters, ${size(4 * total)} in fp32, ${(work / 1e6).toFixed(1)} million operations a token at a full context, ` +
      `of which attention ${(100 * data.anatomy.attention_flops / work).toFixed(0)} % and the output layer ${(100 * data.anatomy.head_flops / work).toFixed(0)} %.`));
    const groups = new Map();
    for (const part of parts) {
      const key = part.name.startsWith("h.") ? "layer " + part.name.split(".")[1] : part.name.split(".")[0];
      groups.set(key, [...(groups.get(key) || []), part]);
    }
    for (const [key, list] of groups) {
      const group = make("details"), sum = list.reduce((count, part) => count + part.parameters, 0);
      group.open = !key.startsWith("layer ") || key === "layer 0";
      group.append(make("summary", "", `${key}: ${number(sum)} parameters`));
      for (const part of list) {
        const row = make("div", "part"), space = make("div", "space"), box = make("div", "box");
        const [height, width] = part.shape.length === 2 ? part.shape : [1, part.shape[0]];
        box.style.width = Math.max(1, 180 * width / largest) + "px";
        box.style.height = Math.max(1, 180 * height / largest) + "px";
        space.append(box);
        row.append(space, make("span", "", [part.name, part.shape.join(" × "), `${number(part.parameters)} parameters`, size(part.bytes),
          `${number(part.flops)} operations`, `model.py:${part.line}`].join(" · ")));
        group.append(row);
      }
      panel.append(group);
    }
  }

  const draw = { surprise, sampler, growth, attention, lens, anatomy }, nav = make("nav"), panel = make("div");
  root.classList.add("inside");
  nav.setAttribute("role", "tablist");
  panel.setAttribute("role", "tabpanel");
  const tabs = views.map((view, index) => {
    const button = make("button", "", LABELS[view]);
    button.type = "button";
    button.setAttribute("role", "tab");
    button.onclick = () => show(view);
    button.onkeydown = (event) => {
      const to = { ArrowRight: index + 1, ArrowLeft: index - 1 }[event.key];
      if (to !== undefined && tabs[to]) { show(views[to]); tabs[to].focus(); }
    };
    nav.append(button);
    return button;
  });
  function show(view) {
    root.repaint = null;
    root.dataset.view = view;
    tabs.forEach((tab, i) => { tab.setAttribute("aria-selected", String(views[i] === view)); tab.tabIndex = views[i] === view ? 0 : -1; });
    panel.replaceChildren(make("p", "note", NOTES[view]));
    if (data.skipped && view !== "surprise") panel.append(make("p", "note", `The text is longer than the context: the first ${data.skipped} tokens are left out.`));
    draw[view](panel);
  }
  const notes = [];
  if (!data.anatomy) notes.push("This is an export: attention, logit lens and anatomy need the run that it was made from.");
  else if (!data.attention) notes.push("The attention of all heads is too large for this text: use a shorter one.");
  root.replaceChildren(nav, ...notes.map((note) => make("p", "note", note)), panel);
  show(views.includes(root.dataset.view) ? root.dataset.view : views[0]);
}
