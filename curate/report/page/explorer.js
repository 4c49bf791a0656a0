// The mixture explorer: shares and budget on sliders, predicted losses, passes, and the recipe.
"use strict";

const Explorer = (() => {
  const STEPS = 1000;
  const LEAST_SHARE = 1e-5; // left end of a logarithmic slider, but for 0
  const MANY = 12; // domains from which sliders start logarithmic
  const BUDGET_FACTOR = 100; // how far the budget slider goes in both directions
  const TOKENS_FACTOR = 10; // how far the slider of tokens goes beyond the runs and the budget
  const NATS_TO_BITS = 1 / Math.LN2;
  const PRESETS = ["recommended", "natural", "uniform", "yours"];

  const element = (id) => document.getElementById(`explorer-${id}`);

  /** Make an element; text goes in as text, never as markup. */
  function make(name, properties = {}, ...children) {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  }

  const percent = (share, digits = 2) => `${(100 * share).toFixed(digits)} %`;
  const sum = (values) => values.reduce((total, value) => total + value, 0);

  /** Show characters that are invisible or change the direction of writing as escapes. */
  function visible(text) {
    return text.replace(/[\p{Cc}\p{Cf}\p{Co}\p{Cn}\p{Zl}\p{Zp}]/gu,
      (letter) => `\\u{${letter.codePointAt(0).toString(16)}}`);
  }

  /** Write text as a YAML string: JSON in ASCII. */
  function quoted(text) {
    return JSON.stringify(text).replace(/[^\x20-\x7e]/g,
      (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`);
  }

  /** The pull to the prior, as curate/mixture/search/objective.py has it. */
  function kullback(shares, prior) {
    const tiny = 1e-12;
    return sum(shares.map((share, at) =>
      Math.max(share, 0) * Math.log(Math.max(share, tiny) / Math.max(prior[at], tiny))));
  }

  /** Group domains by the part of their names before : or /. */
  function grouped(domains) {
    const groups = new Map();
    domains.forEach((domain, at) => {
      const name = domain.name.split(/[:/]/, 1)[0];
      groups.set(name, [...(groups.get(name) ?? []), at]);
    });
    return [...groups].map(([name, members]) => ({ name, members }));
  }

  /**
   * Everything that the law says of a mixture, as functions of shares in the recipe's order.
   * `supply` and budget are for recipes that discount repeated tokens.
   */
  function judge(law, supply) {
    const losses = Law.compile(law.formula), widths = law.widths ? Law.compile(law.widths) : null;
    const mixtures = Law.decode(law.mixtures), width = law.domains;
    const roots = mixtures.map(Math.sqrt);
    const whole = (shares) => {
      const every = new Float64Array(width);
      law.places.forEach((place, at) => { every[place] = shares[at]; });
      return every;
    };
    const distance = (shares) => {
      const mine = whole(shares).map(Math.sqrt);
      let nearest = 1;
      for (let start = 0; start < roots.length; start += width) {
        let overlap = 0;
        for (let j = 0; j < width; j++) overlap += mine[j] * roots[start + j];
        nearest = Math.min(nearest, Math.sqrt(Math.max(0, 1 - overlap)));
      }
      return nearest;
    };
    const objective = (shares, predicted) => {
      const value = Math.max(...law.goals.map((goal) => sum(goal.map((weight, at) => weight * predicted[at]))));
      return law.kl ? value + law.kl * kullback(Array.from(whole(shares)), law.prior) : value;
    };
    const unique = new Float64Array(width).fill(Infinity);
    const seen = (shares, run) => {
      if (!law.discount_repeats || !run.budget) return { shares: whole(shares), part: 1 };
      law.places.forEach((place, at) => { unique[place] = supply[at] / run.budget; });
      return Law.exposure(whole(shares), unique);
    };
    return {
      losses: (shares, run) => {
        const exposed = seen(shares, run);
        return losses(exposed.shares, run.tokens * exposed.part);
      },
      halfWidths: (run) => widths ? widths(run.even, run.tokens) : law.half_widths,
      hasTokens: losses.hasTokens && law.tokens > 0,
      distance, objective,
    };
  }

  /** Return null for a law that is not as curate writes it: a dataset may come from a stranger. */
  function judged(law, supply, budget) {
    try {
      const made = judge(law, supply), even = law.places.map(() => 1 / law.places.length);
      const run = { tokens: law.tokens ?? NaN, budget, even };
      const losses = made.losses(even, run), count = law.targets.length;
      const isWhole = losses.length === count && made.halfWidths(run).length === count
        && Number.isFinite(made.objective(even, losses));
      return isWhole ? made : null;
    } catch {
      return null;
    }
  }

  function start(data) {
    const domains = data.domains, count = domains.length;
    const groups = grouped(domains).some((group) => group.members.length > 1) ? grouped(domains) : [];
    const supply = domains.map((domain) => domain.supply);
    const law = data.law?.formula ? judged(data.law, supply, data.budget) : null;
    const presets = data.presets;
    let shares = [...(presets.recommended ?? presets.yours ?? presets.natural)];
    let budget = data.budget, tokens = data.law?.tokens ?? NaN;
    const runs = data.law?.runs_tokens ?? null;
    const inBits = data.law?.unit === "nats per token";
    const unitName = inBits ? "bits a token" : "in the unit of the runs";
    const locked = new Array(count).fill(false);
    let logarithmic = count > MANY || shares.some((share) => share < 0.005);
    const best = presets.recommended ?? null;
    const run = () => ({ tokens, budget, even: shares.map(() => 1 / count) });

    const toSlider = (share) => {
      if (!logarithmic) return STEPS * share;
      if (share < LEAST_SHARE) return 0;
      return 1 + (STEPS - 1) * (1 - Math.log(share) / Math.log(LEAST_SHARE));
    };
    const fromSlider = (place) => {
      if (!logarithmic) return place / STEPS;
      return place < 1 ? 0 : Math.pow(LEAST_SHARE, 1 - (place - 1) / (STEPS - 1));
    };

    /** Give some domains a share together, and scale the others that are not locked. */
    function move(members, share) {
      const free = members.filter((at) => !locked[at]);
      const others = shares.map((_, at) => at).filter((at) => !locked[at] && !members.includes(at));
      if (!free.length || !others.length) return;
      const fixed = sum(shares.filter((_, at) => locked[at]));
      const stuck = sum(members.filter((at) => locked[at]).map((at) => shares[at]));
      const room = Math.max(0, 1 - fixed);
      const mine = Math.min(Math.max(share - stuck, 0), room);
      scale(free, mine);
      scale(others, room - mine);
      presets.yours = [...shares];
      refresh();
    }

    function scale(members, total) {
      const before = sum(members.map((at) => shares[at]));
      for (const at of members) {
        shares[at] = before > 0 ? (shares[at] * total) / before : total / members.length;
      }
    }

    // ---- sliders

    function row(label, members, isGroup) {
      const name = visible(label);
      const share = () => sum(members.map((at) => shares[at]));
      const slider = make("input", { type: "range", min: 0, max: STEPS, step: "any", ariaLabel: `Share of ${name}` });
      const exact = make("input", { type: "text", inputMode: "decimal", size: 8, ariaLabel: `Share of ${name}, %` });
      const lock = make("input", { type: "checkbox", ariaLabel: `Lock the share of ${name}` });
      const passes = make("span", { className: "passes" });
      slider.addEventListener("input", () => move(members, fromSlider(Number(slider.value))));
      exact.addEventListener("change", () => {
        const value = Number(exact.value.replace("%", "").trim());
        if (Number.isFinite(value) && value >= 0 && value <= 100) move(members, value / 100);
        else refresh();
      });
      lock.addEventListener("change", () => {
        for (const at of members) locked[at] = lock.checked;
        refresh();
      });
      const made = make("div", { className: isGroup ? "domain group" : "domain" },
        make("span", { className: "name", textContent: name, title: name }),
        slider, exact, make("label", { className: "lock" }, lock, " lock"), passes);
      made.dataset.name = label.toLowerCase();
      return { made, refresh: () => {
        slider.value = toSlider(share());
        slider.setAttribute("aria-valuetext", percent(share(), 3));
        if (document.activeElement !== exact) exact.value = (100 * share()).toFixed(3);
        lock.checked = members.every((at) => locked[at]);
        slider.disabled = exact.disabled = lock.checked;
        const supply = sum(members.map((at) => domains[at].supply ?? NaN));
        const seen = (share() * budget) / supply;
        const most = isGroup ? null : domains[members[0]].maxEpochs;
        const over = most !== null && seen > most * (1 + 1e-9);
        passes.textContent = budget && supply > 0
          ? `${seen < 0.01 && seen > 1e-6 ? seen.toPrecision(2) : seen.toFixed(2)} passes${over ? ` ! over ${most}` : ""}` : "";
        passes.classList.toggle("over", over);
      } };
    }

    const rows = [], blocks = [];
    const holder = element("shares");
    const parts = groups.length ? groups : [{ name: "", members: domains.map((_, at) => at) }];
    for (const group of parts) {
      const inside = group.members.map((at) => row(domains[at].name, [at], false));
      const isShown = groups.length > 0 && group.members.length > 1;
      if (isShown) {
        const head = row(`${group.name} (${group.members.length})`, group.members, true);
        const body = make("details", { open: count <= 40 }, make("summary", { textContent: `${visible(group.name)}: ${group.members.length} domains` }),
          ...inside.map((each) => each.made));
        holder.append(make("div", { className: "block" }, head.made, body));
        rows.push(head, ...inside);
        blocks.push({ head: head.made, body, inside });
      } else {
        holder.append(...inside.map((each) => each.made));
        rows.push(...inside);
        blocks.push({ head: null, body: null, inside });
      }
    }

    element("search").addEventListener("input", (event) => {
      const words = event.target.value.toLowerCase().trim();
      for (const block of blocks) {
        let any = false;
        for (const each of block.inside) {
          const hit = each.made.dataset.name.includes(words);
          each.made.hidden = !hit;
          any ||= hit;
        }
        if (block.head) {
          block.head.parentElement.hidden = !any;
          if (words) block.body.open = true;
        }
      }
    });

    const logarithmicBox = element("logarithmic");
    logarithmicBox.checked = logarithmic;
    logarithmicBox.addEventListener("change", () => { logarithmic = logarithmicBox.checked; refresh(); });

    // ---- budget

    const budgetSlider = element("budget-slider"), budgetBox = element("budget");
    element("budget-row").hidden = !budget;
    const toBudget = (place) =>
      Math.round(data.budget * Math.pow(BUDGET_FACTOR, (2 * place) / STEPS - 1));
    budgetSlider.addEventListener("input", () => {
      const exact = toBudget(Number(budgetSlider.value));
      budget = Math.max(1, Number(exact.toPrecision(3)));
      refresh();
    });
    budgetBox.addEventListener("change", () => {
      const value = Number(budgetBox.value.replaceAll(/[,_\s]/g, ""));
      if (value >= 1 && value < Number.MAX_SAFE_INTEGER) budget = Math.round(value);
      refresh();
    });

    // ---- tokens of the run whose losses are predicted

    const tokensSlider = element("tokens-slider"), tokensBox = element("tokens"), follows = element("tokens-follow");
    const hasTokens = Boolean(law?.hasTokens);
    element("tokens-row").hidden = !hasTokens;
    element("tokens-follow-label").hidden = !budget;
    follows.checked = hasTokens && budget === tokens;
    const ends = hasTokens ? [Math.min(runs[0], tokens) / TOKENS_FACTOR,
      Math.max(runs[1], tokens, budget ?? 0) * TOKENS_FACTOR].map(Math.log) : [0, 1];
    function setTokens(value) {
      tokens = value;
      follows.checked = false;
      refresh();
    }
    tokensSlider.addEventListener("input", () =>
      setTokens(Number(Math.exp(ends[0] + (Number(tokensSlider.value) / STEPS) * (ends[1] - ends[0])).toPrecision(3))));
    tokensBox.addEventListener("change", () => {
      const value = Number(tokensBox.value.replaceAll(/[,_\s]/g, ""));
      if (value >= 1 && value < Number.MAX_SAFE_INTEGER) setTokens(Math.round(value));
      else refresh();
    });
    follows.addEventListener("change", () => {
      if (!follows.checked) tokens = data.law.tokens;
      refresh();
    });

    // ---- presets

    for (const name of PRESETS) {
      const button = make("button", { type: "button", textContent: name, id: `explorer-preset-${name}` });
      button.addEventListener("click", () => {
        shares = [...presets[name]];
        refresh();
      });
      element("presets").append(button);
    }

    // ---- answers

    const answers = new Map();
    function answer(name, text, tone = "") {
      if (!answers.has(name)) {
        const value = make("dd");
        element("answers").append(make("div", {}, make("dt", { textContent: name }), value));
        answers.set(name, value);
      }
      answers.get(name).textContent = text;
      answers.get(name).className = tone;
    }

    const cells = [];
    if (law) {
      const head = make("tr", {}, ...["target", inBits ? "predicted, bits" : "predicted", "95 % interval", "change"].map((text, at) =>
        make("th", { scope: "col", className: at ? "number" : "text", textContent: text })));
      const body = make("tbody");
      for (const target of data.law.targets) {
        const values = [0, 1, 2].map(() => make("td", { className: "number" }));
        body.append(make("tr", {}, make("th", { scope: "row", textContent: visible(target) }), ...values));
        cells.push(values);
      }
      element("losses").append(make("table", {}, make("thead", {}, head), body));
      element("losses").hidden = false;
    }
    const note = element("law-note");
    const lines = data.law?.formula ? [] : [data.lawMissing];
    if (data.law?.formula && !law) lines.push("The law of this page cannot be evaluated: run curate mix again.");
    if (law && data.law.discount_repeats && !budget) {
      lines.push("The recipe discounts repeated tokens (mixture.discount_repeats); without a budget, the losses here do not.");
    }
    if (lines.length) {
      note.hidden = false;
      note.classList.add("missing");
      note.append(...lines.map((line) => make("p", { textContent: visible(line) })));
    }

    function showLaw() {
      const at = run(), predicted = law.losses(shares, at), value = law.objective(shares, predicted);
      const bestLosses = best && law.losses(best, at), bestValue = best && law.objective(best, bestLosses);
      const halves = law.halfWidths(at);
      const shown = (loss) => (inBits ? loss * NATS_TO_BITS : loss).toFixed(4);
      const change = (gap, format = shown) => `${gap >= 0 ? "+" : "−"}${format(Math.abs(gap))}`;
      // The objective of a worst case is a ratio to the reference, without unit.
      const worth = (number) => data.law.relative ? number.toFixed(4) : shown(number);
      answer("objective", `${worth(value)} ${data.law.relative ? "of the reference" : unitName}`);
      const size = [tokens > 0 && `${tokens.toLocaleString("en")} tokens`,
        data.law.params && `${data.law.params.toLocaleString("en")} parameters`].filter(Boolean);
      if (size.length) {
        const [least, most] = runs ?? [0, Infinity];
        const isFar = tokens > most * (1 + 1e-9) || tokens < least * (1 - 1e-9);
        const far = isFar ? `: the runs have ${least.toLocaleString("en")}${least < most ? ` to ${most.toLocaleString("en")}` : ""}` : "";
        answer("for a run of", `${size.join(", ")}${far}`, isFar ? "over" : "");
      }
      if (best) {
        const cost = value - bestValue, within = Math.abs(cost) <= (data.law.misfit ?? 0);
        const words = `${change(cost, worth)} (${((100 * cost) / bestValue).toFixed(2)} %)`;
        answer("cost against recommended", within ? `${words}, within the law's error of ${worth(data.law.misfit)}` : words,
          !within && cost > 0 ? "over" : "");
      }
      const away = law.distance(shares), inside = away <= data.law.radius + 1e-6;
      answer("distance from the runs", `${away.toFixed(3)} of ${data.law.radius.toFixed(3)}${inside ? "" : ": outside, predictions are guesses"}`,
        inside ? "" : "over");
      cells.forEach((values, t) => {
        values[0].textContent = shown(predicted[t]);
        values[1].textContent = `${shown(predicted[t] * Math.exp(-halves[t]))} to ${shown(predicted[t] * Math.exp(halves[t]))}`;
        values[2].textContent = best ? change(predicted[t] - bestLosses[t]) : "";
      });
    }

    // ---- recipe

    function recipe() {
      const total = sum(shares);
      const weights = domains.map((domain, at) => `    ${quoted(domain.name)}: ${Number((shares[at] / total).toPrecision(10))}`);
      const lines = ["mixture:", "  method: manual", "  weights:", ...weights];
      if (budget) lines.push(`budget_tokens: ${budget}`);
      return `${data.recipe}${lines.join("\n")}\n`;
    }

    element("yaml-hint").textContent = data.recipe
      ? "A whole recipe: save it as a file, and plan it with curate plan FILE."
      : "Put this in your recipe, in place of its mixture and budget_tokens.";
    element("copy").addEventListener("click", async () => {
      element("yaml").select();
      try {
        await navigator.clipboard.writeText(element("yaml").value);
      } catch {
        document.execCommand("copy"); // where a page from disk has no clipboard of its own
      }
      element("copied").textContent = "Copied.";
    });

    function refresh() {
      for (const each of rows) each.refresh();
      if (budget) {
        budgetSlider.value = (STEPS / 2) * (1 + Math.log(budget / data.budget) / Math.log(BUDGET_FACTOR));
        if (document.activeElement !== budgetBox) budgetBox.value = budget.toLocaleString("en");
        const passes = domains.map((domain, at) => (shares[at] * budget) / domain.supply);
        const most = passes.indexOf(Math.max(...passes.filter(Number.isFinite)));
        if (most >= 0) answer("most passes", `${passes[most].toFixed(2)} of ${visible(domains[most].name)}`);
        const over = domains.filter((domain, at) => domain.maxEpochs !== null && passes[at] > domain.maxEpochs * (1 + 1e-9));
        answer("beyond max_epochs", over.length ? `${over.length} domains` : "none", over.length ? "over" : "");
      }
      if (hasTokens) {
        if (follows.checked) tokens = budget;
        tokensSlider.value = (STEPS * (Math.log(tokens) - ends[0])) / (ends[1] - ends[0]);
        tokensSlider.setAttribute("aria-valuetext", `${tokens.toLocaleString("en")} tokens`);
        if (document.activeElement !== tokensBox) tokensBox.value = tokens.toLocaleString("en");
      }
      if (law) showLaw();
      for (const name of PRESETS) {
        const button = element(`preset-${name}`), preset = presets[name];
        button.disabled = !preset;
        const same = preset && preset.every((share, at) => Math.abs(share - shares[at]) < 1e-9);
        button.setAttribute("aria-pressed", same ? "true" : "false");
      }
      element("yaml").value = recipe();
      element("copied").textContent = "";
    }

    element("tool").hidden = false;
    refresh();
  }

  return { start, judge };
})();
