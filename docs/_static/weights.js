// The functions of the library on one row of scores, in double precision, for the pages that let a reader move them.
// tests/test_docs.py compares each with multimax.reweight on random rows.
"use strict";

const sum = (values) => values.reduce((total, value) => total + value, 0);
const normalised = (values) => values.map((value) => value / sum(values));

function softmax(x) {
  const largest = Math.max(...x);
  return normalised(x.map((value) => Math.exp(value - largest)));
}

// [(alpha - 1) x - tau]_+ ^ (1 / (alpha - 1)), with the tau at which the weights sum to one, by bisection.
function entmax(x, alpha) {
  const scaled = x.map((value) => (alpha - 1) * value);
  const at = (tau) => scaled.map((value) => Math.max(value - tau, 0) ** (1 / (alpha - 1)));
  let high = Math.max(...scaled);
  let low = high - 1; // there the largest entry alone weighs one
  for (let i = 0; i < 80; i++) {
    const middle = (low + high) / 2;
    if (sum(at(middle)) >= 1) low = middle;
    else high = middle;
  }
  return normalised(at(low));
}

function evsoftmax(x) {
  const largest = Math.max(...x);
  const below = x.map((value) => value - largest);
  const mean = sum(below) / x.length;
  const kept = below.map((value) => (value >= mean * (1 + 1e-14) ? Math.exp(value) : 0));
  return normalised(kept);
}

function seglu(x, [r0, r1, r2, r3], [t0, t1, t2, t3]) {
  const relu = (value) => Math.max(value, 0);
  return x + t0 * relu(r0 - x) + t1 * relu(x - r1) + t2 * relu(r2 - x) ** 2 + t3 * relu(x - r3) ** 2;
}

// By registered name. What a function is told beside the scores: {temperature, alpha, ranges, ts}.
const WEIGHTS = {
  softmax: (x) => softmax(x),
  temperature: (x, { temperature }) => softmax(x.map((value) => value / temperature)),
  sparsemax: (x) => entmax(x, 2),
  entmax15: (x) => entmax(x, 1.5),
  entmax: (x, { alpha }) => entmax(x, alpha),
  evsoftmax: (x) => evsoftmax(x),
  multimax: (x, { ranges, ts }) => softmax(x.map((value) => seglu(value, ranges, ts))),
};

// Definitions 3.2 and 3.3 of the paper, as its Figure 1 has them; NaN where nothing is relevant, or nothing is not.
function multiModality(x, p, threshold) {
  const relevant = p.filter((_, i) => x[i] > threshold);
  const largest = Math.max(...p);
  return relevant.length > 1 ? 1 - sum(relevant.map((value) => largest - value)) / (relevant.length - 1) : NaN;
}

function sparsity(x, p, threshold) {
  const smallest = Math.min(...softmax(x));
  const irrelevant = p.filter((_, i) => x[i] < threshold);
  return irrelevant.length ? sum(irrelevant.map((value) => Math.exp(-value / smallest))) / irrelevant.length : NaN;
}
