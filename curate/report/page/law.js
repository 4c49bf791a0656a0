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

  /** Chebyshev polynomials of a piece of a curve, as in formula.py. */
  const CURVE_TERMS = 20;

  /** Matern 5/2 correlation of a squared distance in units of the length scale. */
  function matern(square) {
    const distance = Math.sqrt(5 * square);
    return (1 + distance + (distance * distance) / 3) * Math.exp(-distance);
  }

  const OPERATIONS = {
    shares: (_, values, run) => run.shares,
    tokens: (_, values, run) => Float64Array.of(run.tokens),
    constant: (node) => node.values,
    join: (_, values) => Float64Array.from(values.flatMap((part) => [...part])),
    below: (node, [value], run) => evaluate(node.of[value[0] < node.limit[0] ? 1 : 2], run),
    at_tokens: (node, [tokens], run) => evaluate(node.of[0], { ...run, tokens: tokens[0] }),
    mean_over: (node, _, run) => {
      const { mixtures } = node, width = run.shares.length, count = mixtures.length / width;
      let total = null;
      for (let at = 0; at < mixtures.length; at += width) {
        const value = evaluate(node.of[0], { ...run, shares: mixtures.subarray(at, at + width) });
        total = total === null ? value : each(total, value, (a, b) => a + b);
      }
      return total.map((sum) => sum / count);
    },
    interpolate: (node, [[value]]) => {
      const { places, heights } = node, last = places.length - 1;
      let right = 1;
      while (right < last && places[right] < value) right++;
      const left = Math.max(0, right - 1), gap = places[Math.min(right, last)] - places[left];
      const part = gap > 0 ? Math.min(Math.max((value - places[left]) / gap, 0), 1) : 0;
      const result = new Float64Array(heights.length / places.length);
      for (let t = 0; t < result.length; t++) {
        const row = t * places.length, low = heights[row + left];
        result[t] = low + part * (heights[row + Math.min(right, last)] - low);
      }
      return result;
    },
    nearest: (node, [[value]]) => {
      const { places, away, heights } = node, targets = heights.length / places.length;
      let best = 0;
      const far = (at) => Math.abs(places[at] - value) + away[at];
      for (let at = 1; at < places.length; at++) if (far(at) < far(best)) best = at;
      return heights.slice(best * targets, (best + 1) * targets);
    },
    curve: (node, [[value]]) => {
      const { ends, coefficients } = node, pieces = ends.length - 1;
      let piece = 0;
      while (piece < pieces - 1 && ends[piece + 1] < value) piece++;
      const low = ends[piece], high = ends[piece + 1];
      const x = (2 * Math.min(Math.max(value, low), high) - low - high) / (high - low);
      const size = coefficients.length / pieces, targets = size / CURVE_TERMS;
      const result = new Float64Array(targets);
      for (let t = 0; t < targets; t++) { // Clenshaw's recurrence
        let next = 0, after = 0;
        for (let k = CURVE_TERMS - 1; k > 0; k--) {
          [next, after] = [2 * x * next - after + coefficients[piece * size + k * targets + t], next];
        }
        result[t] = x * next - after + coefficients[piece * size + t];
      }
      return result;
    },
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
    point_weights: (node, [values]) => {
      const { scale, places, rates, level, height, point } = node, width = values.length;
      const rows = point.length, count = Math.max(...point) + 1;
      const result = new Float64Array(level.length * count);
      for (let t = 0; t < level.length; t++) {
        for (let row = 0; row < rows; row++) {
          let square = 0;
          for (let j = 0; j < width; j++) {
            square += ((places[row * width + j] - values[j]) * rates[t * width + j]) ** 2;
          }
          result[t * count + point[row]] += scale[t * rows + row] * (level[t] + height[t] * matern(square));
        }
      }
      return result;
    },
    matern_sum: (node, [values, weights]) => {
      const { points, rates } = node, width = values.length;
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

  /** Parts of these that the operation evaluates itself, as far as it needs them. */
  const LAZY = { below: [1, 2], at_tokens: [0], mean_over: [0] };

  /** Put the arrays in the places of their numbers, and note what a value depends on. */
  function link(node, arrays) {
    const { operation } = node;
    if (!Object.hasOwn(OPERATIONS, operation)) throw new Error("an unknown operation");
    const of = node.of.map((part) => link(part, arrays));
    const linked = { run: OPERATIONS[operation], of, lazy: LAZY[operation] ?? [] };
    linked.hasShares = operation === "shares"
      || (operation !== "mean_over" && of.some((part) => part.hasShares));
    linked.hasTokens = operation === "tokens"
      || (operation === "at_tokens" ? of[1].hasTokens : of.some((part) => part.hasTokens));
    for (const name of Object.keys(node)) {
      if (name !== "operation" && name !== "of") linked[name] = arrays[node[name]];
    }
    return linked;
  }

  /** Evaluate a formula; values that depend on tokens alone are kept until those change. */
  function evaluate(node, run) {
    if (!node.hasShares && node.kept && Object.is(node.keptAt, run.tokens)) return node.kept;
    const values = [];
    node.of.forEach((part, at) => { if (!node.lazy.includes(at)) values.push(evaluate(part, run)); });
    const value = node.run(node, values, run);
    if (!node.hasShares) [node.kept, node.keptAt] = [value, run.tokens];
    return value;
  }

  /** Return the function from shares of all domains, and tokens, to the losses of all targets. */
  function compile(exported) {
    const formula = link(exported.formula, exported.arrays.map(decode));
    const losses = (shares, tokens) => evaluate(formula, { shares: Float64Array.from(shares), tokens });
    return Object.assign(losses, { hasTokens: formula.hasTokens });
  }

  /** Repetitions after which the value of one more has fallen to 1/e: arXiv:2305.16264, Eq. 5. */
  const TOKEN_DECAY_EPOCHS = 15.387756;

  /**
   * Return shares and the part of the tokens that count, with repeated tokens discounted, as
   * curate/mixture/search/repetition.py does. `unique` is the supply of each domain over the budget.
   */
  function exposure(shares, unique) {
    const worth = shares.map((share, at) => {
      if (!(share > unique[at])) return share;
      const again = (share / unique[at] - 1) / TOKEN_DECAY_EPOCHS;
      return unique[at] * (1 - Math.expm1(-again) * TOKEN_DECAY_EPOCHS);
    });
    const part = worth.reduce((total, value) => total + value, 0);
    return { shares: worth.map((value) => value / part), part };
  }

  return { compile, decode, exposure };
})();
