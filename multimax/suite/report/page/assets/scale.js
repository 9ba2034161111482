// Axes: from values to pixels and back, and where the ticks are.

function niceTicks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((k) => k * power).find((k) => k >= rough * 0.75);
  const [first, last] = [Math.ceil(low / step - 1e-9), Math.floor(high / step + 1e-9)];
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

function logTicks(low, high, count) {
  const decades = Math.log10(high / low);
  if (decades < 1) return niceTicks(low, high, count);
  const wanted = decades > 3 ? [1] : [1, 2, 5];
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += Math.ceil(decades / 8)) {
    ticks.push(...wanted.map((k) => k * 10 ** power));
  }
  return ticks.filter((tick) => tick >= low * 0.999 && tick <= high * 1.001);
}

class Scale {
  constructor(low, high, from, to, log) {
    Object.assign(this, { low, high, from, to, log });
    this.of = log ? Math.log : (value) => value;
    this.back = log ? Math.exp : (value) => value;
  }

  at(value) {
    const [a, b] = [this.of(this.low), this.of(this.high)];
    return this.from + ((this.of(value) - a) / (b - a)) * (this.to - this.from);
  }

  invert(pixel) {
    const [a, b] = [this.of(this.low), this.of(this.high)];
    return this.back(a + ((pixel - this.from) / (this.to - this.from)) * (b - a));
  }

  ticks(count) {
    return this.log ? logTicks(this.low, this.high, count) : niceTicks(this.low, this.high, count);
  }
}

// The least and the greatest of values, Infinity and -Infinity of none.
function extent(values) {
  return values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
}
