// The form and the pictures; the work is done in worker.js.

const part = (id) => document.getElementById(id);
const worker = new Worker("worker.js", { type: "module" });
const EDGE = 192; // least length of a side on the screen, in CSS pixels
let model, began, asked;

function say(text, wrong = false) {
  part("status").textContent = text;
  part("status").classList.toggle("wrong", wrong);
}

function busy(working) {
  part("draw").disabled = working;
  part("again").disabled = working;
  part("stop").disabled = !working;
}

function nameOf(label) {
  return label === model.null_label ? "no label" : (model.class_names[label] ?? String(label));
}

function option(select, value, text) {
  select.append(new Option(text, value));
}

// Fill the form with what the model can do and with its defaults.
function fill() {
  const { page, multiple, num_classes: classes, size, runtime } = model;
  document.title = part("name").textContent = model.name;
  const labels = [...Array(classes).keys()];
  if (classes > 1) option(part("label"), labels.join(), "every class in turn");
  for (const label of [...labels, model.null_label]) option(part("label"), label, nameOf(label));
  part("label").selectedIndex = classes > 1 ? 1 : 0;
  for (const solver of Object.keys(model.solvers)) option(part("solver"), solver, solver);
  part("solver").value = page.solver;
  part("steps").value = page.steps;
  for (const [i, id] of ["height", "width"].entries()) {
    const limits = { min: 2 * multiple, step: multiple, max: page.largest };
    Object.assign(part(id), { ...limits, value: Math.max(limits.min, size[i]) });
  }
  part("guidance").max = Math.max(8, page.guidance);
  part("guidance").value = page.guidance;
  part("guided").hidden = classes === 0;
  showScale();
  const from = new URL(runtime.files, location);
  part("about").append(
    from.origin === location.origin
      ? " Nothing is sent anywhere."
      : ` It reads onnxruntime-web from ${from.host}, and sends no pictures and no settings.`,
  );
}

// The slider takes any number, and a hand on it moves by twentieths.
function showScale() {
  part("scale").value = Number(Number(part("guidance").value).toFixed(4));
}

function draw() {
  const number = (id) => Number(part(id).value);
  const labels = part("label").value.split(",").map(Number);
  asked = {
    kind: "draw",
    labels,
    size: [number("height"), number("width")],
    num: number("num"),
    seed: number("seed"),
    steps: number("steps"),
    solver: part("solver").value,
    guidance: model.num_classes ? number("guidance") : 1,
  };
  part("pictures").replaceChildren();
  part("same").hidden = true;
  part("progress").value = 0;
  busy(true);
  say("Drawing …");
  began = performance.now();
  worker.postMessage(asked);
}

// Return the canvas of a picture, and make it where there is none yet.
function canvasOf({ image, label, size: [height, width] }) {
  const known = part("pictures").children[image];
  if (known) return known.firstChild;
  const figure = document.createElement("figure");
  const canvas = Object.assign(document.createElement("canvas"), { height, width });
  const zoom = Math.max(1, Math.round(EDGE / Math.min(height, width)));
  canvas.style.width = `${zoom * width}px`;
  const caption = document.createElement("figcaption");
  caption.textContent = nameOf(label);
  figure.append(canvas, caption);
  part("pictures").append(figure);
  return canvas;
}

function show(told) {
  const { image, step, steps, size: [height, width], pixels } = told;
  const canvas = canvasOf(told);
  canvas.getContext("2d").putImageData(new ImageData(pixels, width, height), 0, 0);
  part("progress").value = (image + step / steps) / asked.num;
  if (step < steps) return;
  const save = document.createElement("a");
  save.textContent = "save";
  save.href = canvas.toDataURL();
  save.download = `${model.name}-${asked.seed}-${image}.png`;
  canvas.nextSibling.append(" · ", save);
}

// Return a word as a shell of Unix reads it.
function quoted(word) {
  return /^[\w.,:@%+\/-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

// Show the command that makes the same pictures with convflow.
function showCommand() {
  const words = [
    "convflow sample MODEL",
    `--num ${asked.num} --seed ${asked.seed} --size ${asked.size.join("x")}`,
    `--solver ${asked.solver} --steps ${asked.steps} --guidance ${asked.guidance}`,
  ];
  const none = asked.labels[0] === model.null_label;
  if (model.num_classes) words.push("--guidance-kind cfg --label-policy balanced");
  if (asked.labels.length === 1 && !none) words.push(`--label ${quoted(nameOf(asked.labels[0]))}`);
  part("command").textContent = words.join(" \\\n    ");
  part("same").hidden = none && model.num_classes > 0; // the command knows no images without a label
}

function end(text) {
  busy(false);
  say(text);
}

const answers = {
  ready({ backend, off, threads, refused }) {
    const how = backend === "webgpu" ? "WebGPU" : `WebAssembly, ${threads} thread${threads > 1 ? "s" : ""}`;
    part("runtime").textContent =
      `onnxruntime-web ${model.runtime.version}: ${how}. The network answers as in Python ` +
      `(relative error ${off.toExponential(0)}).` + refused.map((text) => ` Refused: ${text}.`).join("");
    end("Ready.");
  },
  image: show,
  done() {
    const seconds = (performance.now() - began) / 1000;
    document.body.dataset.seconds = seconds;
    showCommand();
    end(`Drawn in ${seconds.toFixed(1)} s.`);
  },
  stopped: () => end("Stopped."),
  failed({ text }) {
    busy(!began); // a network that does not open draws nothing
    part("stop").disabled = true;
    say(`This did not work: ${text}.`, true);
  },
};

worker.onmessage = ({ data }) => answers[data.kind](data);
worker.onerror = (event) => answers.failed({ text: event.message || "a file is missing" });
part("form").addEventListener("submit", (event) => {
  event.preventDefault();
  draw();
});
part("stop").addEventListener("click", () => worker.postMessage({ kind: "stop" }));
part("again").addEventListener("click", () => {
  part("seed").value = Number(part("seed").value) + 1;
  if (part("form").reportValidity()) draw();
});
part("guidance").addEventListener("input", ({ isTrusted }) => {
  if (isTrusted) part("guidance").value = Math.round(20 * part("guidance").value) / 20;
  showScale();
});

say("Reading the model …");
try {
  model = await (await fetch("model.json")).json();
  fill();
  const graphics = await navigator.gpu?.requestAdapter();
  worker.postMessage({ kind: "open", backends: graphics ? ["webgpu", "wasm"] : ["wasm"] });
} catch {
  say("model.json was not found beside this page.", true);
}
