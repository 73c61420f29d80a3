// The noise that convflow draws: numpy's SeedSequence, PCG64 and normal numbers in float32.
//
// SeedSequence: O'Neill 2015, "Developing a seed_seq alternative". PCG64 is XSL-RR of O'Neill 2014.
// Normal numbers: the ziggurat of Marsaglia & Tsang 2000 with 256 layers.

const MASK64 = (1n << 64n) - 1n;
const MASK128 = (1n << 128n) - 1n;
const MULTIPLIER = 0x2360ed051fc65da44385df649fccf645n;
const POOL = 4;
const INVALID = "expected a whole number of at least 0 as the seed";

// Return a hash of 32-bit words whose constant changes at every call.
function hasher(start, multiplier) {
  let constant = start;
  return (value) => {
    value = (value ^ constant) >>> 0;
    constant = Math.imul(constant, multiplier) >>> 0;
    value = Math.imul(value, constant) >>> 0;
    return (value ^ (value >>> 16)) >>> 0;
  };
}

function mix(one, other) {
  const mixed = (Math.imul(0xca01f9dd, one) - Math.imul(0x4973f715, other)) >>> 0;
  return (mixed ^ (mixed >>> 16)) >>> 0;
}

// Return a whole number as 32-bit words, the lowest first.
function words(number) {
  const found = [];
  do {
    found.push(Number(number & 0xffffffffn));
    number >>= 32n;
  } while (number > 0n);
  return found;
}

// Return four 64-bit numbers from a seed and the number of a picture.
function seedState(seed, index) {
  const entropy = words(seed);
  while (entropy.length < POOL) entropy.push(0);
  entropy.push(...words(index));
  const hash = hasher(0x43b0d7e5, 0x931e8875);
  const pool = Array.from({ length: POOL }, (_, i) => hash(entropy[i]));
  for (let from = 0; from < POOL; from++) {
    for (let to = 0; to < POOL; to++) {
      if (from !== to) pool[to] = mix(pool[to], hash(pool[from]));
    }
  }
  for (const word of entropy.slice(POOL)) {
    for (let to = 0; to < POOL; to++) pool[to] = mix(pool[to], hash(word));
  }
  const out = hasher(0x8b51f9dd, 0x58f38ded);
  const halves = Array.from({ length: 8 }, (_, i) => BigInt(out(pool[i % POOL])));
  return [0, 2, 4, 6].map((i) => halves[i] | (halves[i + 1] << 32n));
}

// A stream of random 32-bit words.
class PCG64 {
  constructor(seed, index) {
    const [high, low, incrementHigh, incrementLow] = seedState(BigInt(seed), BigInt(index));
    this.increment = ((((incrementHigh << 64n) | incrementLow) << 1n) | 1n) & MASK128;
    this.state = this.increment;
    this.state = (this.state + ((high << 64n) | low)) & MASK128;
    this.step();
    this.rest = null;
  }

  step() {
    this.state = (this.state * MULTIPLIER + this.increment) & MASK128;
  }

  // The lower half of a 64-bit number, then its upper half.
  next() {
    if (this.rest !== null) {
      const word = this.rest;
      this.rest = null;
      return word;
    }
    this.step();
    const folded = (this.state >> 64n) ^ (this.state & MASK64);
    const turn = this.state >> 122n;
    const number = ((folded >> turn) | (folded << (64n - turn))) & MASK64;
    this.rest = Number(number >> 32n);
    return Number(number & 0xffffffffn);
  }

  // A number in [0, 1).
  uniform() {
    return (this.next() >>> 8) / 2 ** 24;
  }
}

const LAST = 3.6541528853610088; // where the lowest layer ends and the tail begins
const AREA = 0.00492867323399; // of each layer
const density = (x) => Math.exp(-0.5 * x * x);

// Return the widths, the certain parts and the heights of the layers of the ziggurat.
function layers() {
  const edges = new Float64Array(256);
  edges[255] = LAST;
  for (let i = 254; i > 0; i--) {
    edges[i] = Math.sqrt(-2 * Math.log(AREA / edges[i + 1] + density(edges[i + 1])));
  }
  const base = AREA / density(LAST);
  const widths = Float32Array.from(edges, (x, i) => (i ? x : base) / 2 ** 23);
  const certain = edges.map((x, i) => Math.round((i ? edges[i - 1] / x : LAST / base) * 2 ** 23));
  const heights = Float32Array.from(edges, density);
  return { widths, certain, heights };
}

const { widths, certain, heights } = layers();

// numpy computes the rare ways in float32, so each step of theirs is rounded here too.
const { fround } = Math;
const [END, INVERSE] = [fround(LAST), fround(1 / LAST)];
const exponential = (stream) => -fround(Math.log1p(-stream.uniform()));

function tail(stream, negative) {
  for (;;) {
    const x = fround(INVERSE * exponential(stream));
    const y = exponential(stream);
    if (fround(y + y) > fround(x * x)) return negative ? -fround(END + x) : fround(END + x);
  }
}

function normal(stream) {
  for (;;) {
    const word = stream.next();
    const layer = word & 0xff;
    const place = (word >>> 9) & 0x7fffff;
    const x = fround(place * widths[layer]) * ((word >>> 8) & 1 ? -1 : 1);
    if (place < certain[layer]) return x;
    if (layer === 0) return tail(stream, (place >>> 8) & 1);
    const step = fround(heights[layer - 1] - heights[layer]);
    if (fround(fround(step * stream.uniform()) + heights[layer]) < density(x)) return x;
  }
}

// Return standard normal numbers: those of picture `index` of convflow's seed `seed`.
export function drawNoise(seed, index, length) {
  if (!(Number.isSafeInteger(seed) && seed >= 0)) throw new RangeError(INVALID);
  const stream = new PCG64(seed, index);
  return Float32Array.from({ length }, () => normal(stream));
}
