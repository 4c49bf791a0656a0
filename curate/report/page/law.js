// Evaluates fitted laws, which curate/laws/formula.py writes as compositions of a few operations.
"use strict";

const Law = (() => {
  /** Read float64 numbers, little-endian, from base64. */
  function decode(array) {
    const bytes = Uint8Array.from(atob(array.float64), (letter) => letter.charCodeAt(0));
    const view = new DataView(bytes.buffer);
    const values = new Float64Array(bytes.length / 8);
    for (let i = 0; i < values.length; i++) values[i] = view.getFloat64(8 * i, true);
    return values;
  }

  /** Combine values one by one; a single value goes with all values of the others. */
  function each(first, second, combine) {
    const length = Math.max(first.length, second.length);
    const result = new Float64Array(length);
    const a = first.length > 1 ? 1 : 0, b = second.length > 1 ? 1 : 0;
    for (let i = 0; i < length; i++) result[i] = combine(first[a * i], second[b * i]);
    return result;
  }

  /** Matern 5/2 correlation of a squared distance in units of the length scale. */
  function matern(square) {
    const distance = Math.sqrt(5 * square);
    return (1 + distance + (distance * distance) / 3) * Math.exp(-distance);
  }

  const OPERATIONS = {
    shares: (_, values, shares) => shares,
    constant: (node) => node.values,
    add: (_, values) => values.reduce((sum, next) => each(sum, next, (a, b) => a + b)),
    multiply: (_, values) => values.reduce((product, next) => each(product, next, (a, b) => a * b)),
    maximum: (_, [first, second]) => each(first, second, Math.max),
    minimum: (_, [first, second]) => each(first, second, Math.min),
    power: (_, [base, exponent]) => each(base, exponent, Math.pow),
    exp: (_, [values]) => values.map(Math.exp),
    log: (_, [values]) => values.map(Math.log),
    softplus: (_, [values]) => values.map((x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)))),
    pick: (node, [values]) => node.places.map((place) => values[place]),
    linear: (node, [values]) => {
      const width = values.length;
      const result = new Float64Array(node.matrix.length / width);
      for (let t = 0; t < result.length; t++) {
        let sum = 0;
        for (let j = 0; j < width; j++) sum += node.matrix[t * width + j] * values[j];
        result[t] = sum;
      }
      return result;
    },
    power_sum: (node, [values]) => {
      const { scale, rate, shift, exponent } = node, width = values.length;
      const result = new Float64Array(scale.length / width);
      for (let t = 0, at = 0; t < result.length; t++) {
        let sum = 0;
        for (let j = 0; j < width; j++, at++) {
          sum += scale[at] * Math.pow(rate[at] * values[j] + shift[at], exponent[at]);
        }
        result[t] = sum;
      }
      return result;
    },
    matern_sum: (node, [values]) => {
      const { points, rates, weights } = node, width = values.length;
      const targets = rates.length / width, count = points.length / width;
      const squares = new Float64Array(count * width);
      for (let at = 0; at < squares.length; at++) {
        squares[at] = (points[at] - values[at % width]) ** 2;
      }
      const result = new Float64Array(targets);
      for (let t = 0; t < targets; t++) {
        const scales = rates.subarray(t * width, (t + 1) * width).map((rate) => rate * rate);
        let sum = 0;
        for (let p = 0, at = 0; p < count; p++) {
          let square = 0;
          for (let j = 0; j < width; j++, at++) square += squares[at] * scales[j];
          sum += weights[t * count + p] * matern(square);
        }
        result[t] = sum;
      }
      return result;
    },
  };

  /** Put the arrays in the places of their numbers. */
  function link(node, arrays) {
    if (!Object.hasOwn(OPERATIONS, node.operation)) throw new Error("an unknown operation");
    const linked = { run: OPERATIONS[node.operation], of: node.of.map((of) => link(of, arrays)) };
    for (const name of Object.keys(node)) {
      if (name !== "operation" && name !== "of") linked[name] = arrays[node[name]];
    }
    return linked;
  }

  function evaluate(node, shares) {
    return node.run(node, node.of.map((of) => evaluate(of, shares)), shares);
  }

  /** Return the function from shares of all domains to the losses of all targets. */
  function compile(exported) {
    const formula = link(exported.formula, exported.arrays.map(decode));
    return (shares) => evaluate(formula, Float64Array.from(shares));
  }

  return { compile, decode };
})();
