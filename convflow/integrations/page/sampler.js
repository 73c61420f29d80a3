// The solver of the probability-flow ODE, guidance and the way from model space to pixels.
//
// It knows no page and no runtime: a network is a function `network(images, time, labels)`, from a
// list of Float32Array and as many labels to a list of Float32Array, and may be asynchronous.

// Return the times of the steps from 0 (noise) to 1 (data); see time_grid in samplers/ode.py.
export function timeGrid(steps, shift = 1, lastStep = null) {
  const moved = (t) => t / (t + (1 - t) * shift);
  const even = (count) => Array.from({ length: count + 1 }, (_, i) => moved(i / count));
  if (lastStep === null) return even(steps);
  return [...even(steps - 1).map((t) => t * (1 - lastStep)), 1];
}

// Return a function from a state and a time to the velocity with classifier-free guidance.
//
// `guidance` has a scale (1 for none), the interval of times where it acts, and the count of
// numbers that are guided, from the first.
export function guided(network, label, none, guidance) {
  const [low, high] = guidance.interval.map(Math.fround);
  return async (x, time) => {
    const t = Math.fround(time);
    if (guidance.scale === 1 || t < low || t > high) return (await network([x], t, [label]))[0];
    const [strong, weak] = await network([x, x], t, [label, none]);
    return strong.map((v, i) => (i < guidance.count ? weak[i] + guidance.scale * (v - weak[i]) : v));
  };
}

// Return the state at the end of a grid of times, from noise at its beginning.
//
// A tableau is the row of numbers that makes a solver, see samplers/tableaus.py. `watch` is told
// of every step: its number from 1, and the state. It may be asynchronous, and ends the work where
// it gives false; then there is no state.
export async function integrate(velocity, noise, grid, tableau, watch = () => true) {
  let x = noise;
  for (let step = 0; step + 1 < grid.length; step++) {
    const [start, end] = [grid[step], grid[step + 1]];
    const slopes = [];
    for (const [stage, row] of tableau.a.entries()) {
      const time = (1 - tableau.c[stage]) * start + tableau.c[stage] * end;
      slopes.push(await velocity(moved(x, slopes, row, end - start), time));
    }
    x = moved(x, slopes, tableau.b, end - start);
    if ((await watch(step + 1, x)) === false) return null;
  }
  return x;
}

function moved(x, slopes, weights, length) {
  const sum = Float32Array.from(x);
  slopes.forEach((slope, i) => {
    const factor = weights[i] * length;
    if (factor) for (let j = 0; j < sum.length; j++) sum[j] += factor * slope[j];
  });
  return sum;
}

// Return red, green, blue and opacity of each pixel from channels in [-1, 1], one or three.
export function toPixels(x, channels) {
  const area = x.length / channels;
  const pixels = new Uint8ClampedArray(4 * area).fill(255);
  for (let i = 0; i < area; i++) {
    for (let c = 0; c < 3; c++) {
      pixels[4 * i + c] = x[(channels === 1 ? 0 : c) * area + i] * 127.5 + 127.5; // nearest level
    }
  }
  return pixels;
}
