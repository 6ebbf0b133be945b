// The page that runs the model: everything it needs stands in the page itself, so it works from a file, offline.
// `ort` is onnxruntime-web, put in front of this text when the page is made.

const model = JSON.parse(document.getElementById("model").textContent);
const { features, classes, interface: tensors } = model;
const element = (id) => document.getElementById(id);

/** Bytes of a base64 text. */
const decode = (text) => Uint8Array.from(atob(text.trim()), (character) => character.charCodeAt(0));

async function unzip(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Softmax of one row of logits. */
function softmax(logits) {
  const largest = Math.max(...logits);
  const powers = Array.from(logits, (logit) => Math.exp(logit - largest));
  const total = powers.reduce((sum, power) => sum + power, 0);
  return powers.map((power) => power / total);
}

const largestOf = (values) => values.indexOf(Math.max(...values));
const percent = (share) => `${(100 * share).toFixed(2)} %`;

// --- the files ---

const sessions = new Map(); // by the file's name

async function open(file) {
  if (!sessions.has(file.name)) {
    sessions.set(file.name, await ort.InferenceSession.create(decode(file.bytes), { executionProviders: ["wasm"] }));
  }
  return sessions.get(file.name);
}

/** Logits of one sequence: rows of as many values as there are features. */
async function logitsOf(file, sequence, length = sequence.length) {
  const session = await open(file);
  const steps = tensors.time_steps === null ? sequence.length : tensors.time_steps;
  const values = new Float32Array(steps * features.length);
  sequence.forEach((step, index) => values.set(step, index * features.length));
  const feeds = { [tensors.input]: new ort.Tensor("float32", values, [1, steps, features.length]) };
  if (tensors.lengths !== null) feeds[tensors.lengths] = new ort.Tensor("int32", Int32Array.of(length), [1]);
  const outputs = await session.run(feeds);
  return Array.from(outputs[tensors.output].data);
}

// A session answers one call at a time: all calls wait for the one before.
let last = Promise.resolve();
function inTurn(work) {
  const next = last.then(work, work);
  last = next.catch(() => {});
  return next;
}

// --- the sequence ---

const state = { sequence: model.example.map((step) => [...step]), file: model.files[0], view: "numbers" };

const spread = features.map((_, index) => {
  const [low, high] = model.range[index];
  return { low, high, step: Number(((high - low) / 200).toPrecision(1)) || 0.01 };
});

function setLength(steps) {
  const { sequence } = state;
  while (sequence.length < steps) sequence.push([...sequence[sequence.length - 1]]);
  sequence.length = steps;
}

function showNumbers() {
  const feature = Number(element("feature").value);
  const { low, high, step } = spread[feature];
  element("numbers").replaceChildren(
    ...state.sequence.map((values, index) => {
      const row = document.createElement("div");
      row.className = "step";
      const label = document.createElement("label");
      const slider = document.createElement("input");
      const number = document.createElement("input");
      label.textContent = `step ${index}`;
      label.htmlFor = number.id = `value-${index}`;
      Object.assign(slider, { type: "range", min: low, max: high, step, value: values[feature] });
      slider.setAttribute("aria-label", `${features[feature]}, step ${index}`);
      Object.assign(number, { type: "number", step: "any", value: Number(values[feature].toPrecision(6)) });
      slider.addEventListener("input", () => change(slider.value, number));
      number.addEventListener("input", () => change(number.value, slider));
      function change(text, other) {
        const value = Number(text);
        if (text.trim() === "" || !Number.isFinite(value)) return;
        values[feature] = value;
        other.value = value;
        answer();
      }
      row.append(label, slider, number);
      return row;
    }),
  );
}

function showCurve() {
  const canvas = element("canvas");
  const context = canvas.getContext("2d");
  const style = getComputedStyle(document.documentElement);
  const { width, height } = canvas;
  context.clearRect(0, 0, width, height);
  state.sequence[0].forEach((_, feature) => {
    const { low, high } = spread[feature];
    const chosen = feature === Number(element("feature").value);
    context.strokeStyle = style.getPropertyValue(chosen ? "--blue" : "--line");
    context.lineWidth = chosen ? 4 : 2;
    context.beginPath();
    state.sequence.forEach((step, index) => {
      const x = ((index + 0.5) / state.sequence.length) * width;
      const y = height * (1 - (step[feature] - low) / (high - low || 1));
      if (index === 0) context.moveTo(x, y);
      else context.lineTo(x, y);
    });
    context.stroke();
  });
}

let drawnFrom = null;
function draw(event) {
  const canvas = element("canvas");
  const box = canvas.getBoundingClientRect();
  const feature = Number(element("feature").value);
  const { low, high } = spread[feature];
  const within = (value) => Math.min(Math.max(value, 0), 1);
  const at = {
    index: Math.min(Math.floor(within((event.clientX - box.left) / box.width) * state.sequence.length), state.sequence.length - 1),
    value: low + (high - low) * within(1 - (event.clientY - box.top) / box.height),
  };
  const from = drawnFrom ?? at;
  const [first, second] = from.index <= at.index ? [from, at] : [at, from];
  for (let index = first.index; index <= second.index; index += 1) {
    const share = second.index === first.index ? 1 : (index - first.index) / (second.index - first.index);
    state.sequence[index][feature] = first.value + share * (second.value - first.value);
  }
  drawnFrom = at;
  showCurve();
  answer();
}

function showSequence() {
  element("length").value = state.sequence.length;
  if (state.view === "numbers") showNumbers();
  if (state.view === "curve") showCurve();
  answer();
}

function random() {
  state.sequence.forEach((step) => {
    spread.forEach(({ low, high }, feature) => {
      step[feature] = Number((low + (high - low) * Math.random()).toPrecision(4));
    });
  });
  showSequence();
}

// --- the answer ---

let wanted = 0;
async function answer() {
  wanted += 1;
  const mine = wanted;
  const sequence = state.sequence.map((step) => [...step]);
  try {
    const found = [];
    for (const file of model.files) {
      if (mine !== wanted) return; // the sequence has changed since
      found.push(softmax(await inTurn(() => logitsOf(file, sequence))));
    }
    if (mine === wanted) show(found);
  } catch (error) {
    status(`The model could not be run: ${error.message}`, "bad");
  }
}

function show(found) {
  const shares = found[model.files.indexOf(state.file)];
  const best = largestOf(shares);
  element("answer").textContent = classes[best];
  const order = classes.map((_, index) => index);
  if (classes.length > 12) order.sort((one, other) => shares[other] - shares[one]).splice(12);
  element("bars").replaceChildren(
    ...order.map((index) => {
      const row = document.createElement("div");
      const [name, value] = [document.createElement("span"), document.createElement("span")];
      const meter = document.createElement("meter");
      row.className = "bar";
      name.textContent = name.title = classes[index];
      Object.assign(meter, { min: 0, max: 1, value: shares[index] });
      meter.setAttribute("aria-label", `probability of ${classes[index]}`);
      value.textContent = percent(shares[index]);
      row.append(name, meter, value);
      return row;
    }),
  );
  model.files.forEach((file, index) => {
    const answered = largestOf(found[index]);
    const cell = element(`class-${index}`);
    cell.textContent = `${classes[answered]} (${percent(found[index][answered])})`;
    cell.className = answered === best ? "" : "bad";
  });
}

function status(text, kind = "soft") {
  element("status").textContent = text;
  element("status").className = kind;
}

const kilobytes = (bytes) => `${(bytes / 1000).toFixed(1)} kB`;

function showFiles() {
  const head = ["File", "Class", "Size", "Accuracy", "Latency here", "Golden vectors"].map((text) => {
    const cell = document.createElement("th");
    cell.textContent = text;
    return cell;
  });
  const rows = model.files.map((file, index) => {
    const row = document.createElement("tr");
    const name = document.createElement("td");
    const label = document.createElement("label");
    const choice = document.createElement("input");
    Object.assign(choice, { type: "radio", name: "file", checked: index === 0 });
    choice.addEventListener("change", () => {
      state.file = file;
      [...row.parentElement.children].forEach((other) => other.setAttribute("aria-selected", String(other === row)));
      answer();
    });
    row.setAttribute("aria-selected", String(index === 0));
    label.append(choice, file.name);
    name.append(label);
    const cells = ["class", "size", "accuracy", "latency", "golden"].map((kind) => {
      const cell = document.createElement("td");
      cell.id = `${kind}-${index}`;
      return cell;
    });
    cells[1].textContent = kilobytes(file.size);
    cells[2].textContent = file.accuracy === null ? "–" : percent(file.accuracy);
    cells[3].textContent = cells[4].textContent = "–";
    row.append(name, ...cells);
    return row;
  });
  const header = document.createElement("thead");
  const body = document.createElement("tbody");
  const line = document.createElement("tr");
  line.append(...head);
  header.append(line);
  body.append(...rows);
  element("files").replaceChildren(header, body);
}

// --- golden vectors, latency, pasted rows ---

/**
 * Each file against the logits that ONNX Runtime gave in Python, within the file's own tolerance: a share of the largest
 * of them, as in the bundle's verify.py.
 */
async function verify() {
  let failed = 0;
  for (const [index, file] of model.files.entries()) {
    const scale = Math.max(...model.golden.flatMap((vector) => vector.logits[file.name].map(Math.abs))) || 1;
    let [wrong, largest] = [0, 0];
    for (const vector of model.golden) {
      const logits = await inTurn(() => logitsOf(file, vector.sequence, vector.length));
      const expected = vector.logits[file.name];
      const error = Math.max(...logits.map((logit, place) => Math.abs(logit - expected[place]))) / scale;
      largest = Math.max(largest, error);
      if (!(error <= file.tolerance)) wrong += 1;
    }
    failed += wrong;
    const cell = element(`golden-${index}`);
    const count = model.golden.length;
    cell.textContent = wrong ? `✗ ${wrong} of ${count} differ (${largest.toExponential(1)})` : `✓ ${count} equal (${largest.toExponential(1)})`;
    cell.className = wrong ? "bad" : "good";
  }
  element("verdict").textContent = failed ? "✗ This browser does not compute what was verified." : "✓ This browser computes what was verified.";
  element("verdict").className = failed ? "bad" : "good";
  return failed;
}

async function measure() {
  for (const [index, file] of model.files.entries()) {
    const times = [];
    const until = performance.now() + 400;
    while (performance.now() < until || times.length < 20) {
      await inTurn(async () => {
        const start = performance.now();
        for (let repeat = 0; repeat < 10; repeat += 1) await logitsOf(file, state.sequence);
        times.push((performance.now() - start) / 10);
      });
    }
    times.sort((one, other) => one - other);
    element(`latency-${index}`).textContent = `${(1000 * times[Math.floor(times.length / 2)]).toFixed(0)} µs`;
  }
}

/** Sequences of pasted rows; a row of names is left out. Throws an error that names the row. */
function parseRows(text) {
  const rows = text.split(/\r?\n/).filter((row) => row.trim() !== "");
  if (rows.length && rows[0].split(/[,;\t]/).some((cell) => cell.trim() !== "" && Number.isNaN(Number(cell)))) rows.shift();
  return rows.map((row, index) => {
    const cells = row.split(/[,;\t ]+/).map((cell) => cell.trim());
    while (cells.length && cells[cells.length - 1] === "") cells.pop();
    const values = cells.map(Number);
    const wrong = values.findIndex((value, place) => cells[place] === "" || !Number.isFinite(value));
    if (wrong >= 0) throw new Error(`row ${index + 1}, value ${wrong + 1}: “${cells[wrong]}” is no number`);
    if (values.length === 0 || values.length % features.length) {
      throw new Error(`row ${index + 1}: ${values.length} values; expected ${features.length} for each step`);
    }
    const steps = values.length / features.length;
    const [low, high] = model.steps;
    if (steps < low || steps > high) {
      throw new Error(`row ${index + 1}: ${steps} time steps; the model takes ${low === high ? low : `${low} to ${high}`}`);
    }
    return Array.from({ length: steps }, (_, step) => values.slice(step * features.length, (step + 1) * features.length));
  });
}

async function classifyRows() {
  const table = element("answers");
  const cellsOf = (kind, texts) => texts.map((text) => {
    const cell = document.createElement(kind);
    cell.textContent = text;
    return cell;
  });
  try {
    const lines = [];
    for (const [index, sequence] of parseRows(element("rows").value).entries()) {
      const shares = softmax(await inTurn(() => logitsOf(state.file, sequence)));
      const best = largestOf(shares);
      const line = document.createElement("tr");
      line.append(...cellsOf("td", [`${index + 1}`, classes[best], percent(shares[best])]));
      lines.push(line);
    }
    const head = document.createElement("tr");
    head.append(...cellsOf("th", ["Row", "Class", "Probability"]));
    table.replaceChildren(head, ...lines);
  } catch (error) {
    const line = document.createElement("tr");
    line.append(...cellsOf("td", [error.message]));
    line.className = "bad";
    table.replaceChildren(line);
  }
}

// --- start ---

function chooseView(view) {
  state.view = view;
  for (const name of ["numbers", "curve", "paste"]) element(name).hidden = name !== view;
  for (const button of document.querySelectorAll("[data-view]")) {
    button.setAttribute("aria-pressed", String(button.dataset.view === view));
  }
  if (view !== "paste") showSequence();
}

function listen() {
  const choice = element("feature");
  choice.append(...features.map((name, index) => new Option(name, String(index))));
  choice.addEventListener("change", showSequence);
  element("feature-choice").hidden = features.length === 1;
  const [low, high] = model.steps;
  Object.assign(element("length"), { min: low, max: high });
  element("length-choice").hidden = low === high;
  element("length").addEventListener("change", (event) => {
    setLength(Math.min(Math.max(Math.round(Number(event.target.value)) || low, low), high));
    showSequence();
  });
  element("random").addEventListener("click", random);
  element("verify").addEventListener("click", () => verify().catch((error) => status(error.message, "bad")));
  element("measure").addEventListener("click", () => measure().catch((error) => status(error.message, "bad")));
  element("ask").addEventListener("click", classifyRows);
  element("rows").value = state.sequence.map((step) => step.join(",")).join(",");
  for (const button of document.querySelectorAll("[data-view]")) {
    button.addEventListener("click", () => chooseView(button.dataset.view));
  }
  const canvas = element("canvas");
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    draw(event);
  });
  canvas.addEventListener("pointermove", (event) => event.buttons && draw(event));
  canvas.addEventListener("pointerup", () => { drawnFrom = null; });
}

async function start() {
  ort.env.wasm.numThreads = 1; // logits of int8 files depend on the number of threads
  ort.env.wasm.proxy = false;
  ort.env.wasm.wasmBinary = await unzip(decode(element("runtime").textContent));
  ort.env.logLevel = "error";
  showFiles();
  listen();
  for (const file of model.files) await open(file);
  status(`ONNX Runtime ${ort.env.versions.web} in WebAssembly, one thread. Nothing leaves this page.`);
  chooseView(features.length * state.sequence.length > 64 ? "curve" : "numbers");
}

// For tests, and for whoever opens the console.
globalThis.classifier = { logitsOf: (name, sequence, length) => inTurn(() => logitsOf(model.files.find((file) => file.name === name), sequence, length)), verify, model };
globalThis.classifier.ready = start().catch((error) => {
  status(`The page could not start: ${error.message}`, "bad");
  throw error;
});
