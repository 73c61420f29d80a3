// Runs the network and the sampler, so that the page stays alive.
//
// It takes {kind: "open"}, {kind: "draw", ...} and {kind: "stop"}, and tells of "ready", "image"
// (a state or a finished picture), "done", "stopped" and "failed".

import { drawNoise } from "./noise.js";
import { guided, integrate, timeGrid, toPixels } from "./sampler.js";

const ALLOWED = 0.01; // relative error of the network's first answer
let model, ort, session, backend;
let stopped = false;

self.onmessage = async ({ data }) => {
  if (data.kind === "stop") {
    stopped = true;
    return;
  }
  try {
    await (data.kind === "open" ? open(data.backends) : draw(data));
  } catch (error) {
    self.postMessage({ kind: "failed", text: String(error?.message ?? error) });
  }
};

// Read the model, and open its network with the first backend that gives the right answer.
async function open(backends) {
  model = await (await fetched("model.json")).json();
  const bytes = new Uint8Array(await (await fetched("network.onnx")).arrayBuffer());
  const refused = [];
  for (backend of backends) {
    try {
      await load(backend);
      session = await ort.InferenceSession.create(bytes, { executionProviders: [backend] });
      const off = await check();
      if (!(off <= ALLOWED)) throw new Error(`its answer is off by ${off.toPrecision(2)}`);
      self.postMessage({ kind: "ready", backend, off, threads: ort.env.wasm.numThreads, refused });
      return;
    } catch (error) {
      refused.push(`${backend}: ${error?.message ?? error}`);
    }
  }
  throw new Error(`the network runs neither with ${refused.join(", nor with ")}`);
}

// Load the runtime for a backend.
async function load(backend) {
  const files = new URL(model.runtime.files, self.location).href;
  ort = await import(files + model.runtime.modules[backend]);
  ort.env.wasm.wasmPaths = files;
  ort.env.wasm.numThreads = self.crossOriginIsolated ? navigator.hardwareConcurrency : 1;
  ort.env.logLevel = "error";
}

async function fetched(name) {
  const answer = await fetch(new URL(name, self.location));
  if (!answer.ok) throw new Error(`${name} was not found beside the page`);
  return answer;
}

// Return the relative error of the network's answer to noise that convflow knows the answer to.
async function check() {
  const { seed, size, time, label, every, velocity } = model.check;
  const x = drawNoise(seed, 0, model.channels * size[0] * size[1]);
  const [found] = await networkOf(size)([x], time, [label]);
  let error = 0;
  let whole = 0;
  velocity.forEach((v, i) => {
    error += (found[i * every] - v) ** 2;
    whole += v ** 2;
  });
  return whole ? Math.sqrt(error / whole) : error;
}

// Return the network for pictures of a height and width: images, a time, labels to velocities.
function networkOf([height, width]) {
  const length = model.channels * height * width;
  return async (images, time, labels) => {
    const batch = images.length;
    const x = new Float32Array(batch * length);
    images.forEach((image, i) => x.set(image, i * length));
    const { prediction } = await session.run({
      x: new ort.Tensor("float32", x, [batch, model.channels, height, width]),
      t: new ort.Tensor("float32", new Float32Array(batch).fill(time), [batch]),
      y: new ort.Tensor("int64", BigInt64Array.from(labels, BigInt), [batch]),
    });
    const numbers = await prediction.getData();
    prediction.dispose();
    return images.map((_, i) => numbers.slice(i * length, (i + 1) * length));
  };
}

// Draw pictures, one after the other: picture i has the noise of (seed, i) and the i-th label.
async function draw({ labels, size, num, seed, steps, solver, guidance }) {
  stopped = false;
  const [height, width] = size;
  const length = model.channels * height * width;
  const network = networkOf(size);
  const { shift, last_step: lastStep } = model.page;
  const grid = timeGrid(steps, shift, steps > 1 ? lastStep : null);
  const count = (model.page.channels_guided ?? model.channels) * height * width;
  const rule = { scale: guidance, interval: model.page.interval, count };
  for (let image = 0; image < num; image++) {
    const label = labels[image % labels.length];
    const velocity = guided(network, label, model.null_label, rule);
    const tell = async (step, x) => {
      const pixels = toPixels(x, model.channels);
      self.postMessage({ kind: "image", image, label, step, steps, size, pixels });
      await new Promise((resolve) => setTimeout(resolve)); // lets "stop" come in
      return !stopped;
    };
    const noise = drawNoise(seed, image, length);
    const x = await integrate(velocity, noise, grid, model.solvers[solver], tell);
    if (x?.some((v) => !Number.isFinite(v))) {
      throw new Error("the network gives numbers that are not finite; take more steps or less guidance");
    }
    if (x === null) break;
  }
  self.postMessage({ kind: stopped ? "stopped" : "done" });
}
