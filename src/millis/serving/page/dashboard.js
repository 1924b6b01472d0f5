// The dashboard's behaviour: read the server's counters every second, show what they did in the last minute.
//
// Border: reads /metrics, /v1/models and, where the key allows it, /v1/admin/models and /v1/admin/slowest of its own server.
// Everything shown is made from `state` by `show`; names enter the page as text nodes only.
// Limits: counts begin when the page is opened; a percentile lies somewhere between two edges of the histogram, and is
// taken as if answers were spread evenly between them.

import { firstLanguage, otherLanguage } from "./language.js";

const EVERY_MS = 1000;
const KEPT = 61; // snapshots: a minute
const ADMIN_EVERY = 5;

const WORDS = {
  en: {
    title: "millis dashboard", skip: "Skip to the figures", tagline: "What was promised, and what is kept.", model: "Model",
    latency: "Latency against the contract", median: "median", within: "within the bound",
    rate: "Requests a second, the last minute", goodput: "in time (goodput)", late: "late", refused: "refused, all models",
    queue: "waiting now", calibration: "of promises kept, since the start", mix: "Which rung answered",
    refusals: "Refusals, since the start", causes: "Late answers by cause, since the start", versions: "Versions",
    slowest: "The slowest of the last ten minutes", private: "This page reads this server's own counters, once a second.",
    playground: "Playground", none: "none",
    promise: (p, ms, rate) => `promised: p${p} within ${ms} at ${rate} requests/s`,
    later: (ms) => `, each later token within ${ms}`,
    percentile: (p, n) => `p${p} of ${n} answers in the server, the last minute`,
    first: (p, n) => `p${p} to the first token of ${n} answers in the server, the last minute`,
    each: (p) => `p${p} of each later token`,
    unreachable: "The server does not answer: it may have stopped.",
    limited: "The server refuses to answer this page now: the rate or the quota of the key may be used up.",
    forbidden: "This key may not read the metrics: use one with the scope metrics or admin.",
    histogram: (n, over) => `${n} answers, ${over} of them over the bound`,
    rates: (good, late, refused) => `${good} in time, ${late} late, ${refused} refused, each second`,
    other: "中文", otherCode: "zh",
  },
  zh: {
    title: "millis 仪表盘", skip: "跳到数据", tagline: "承诺了什么，做到了什么。", model: "模型",
    latency: "延迟与合约", median: "中位数", within: "在限值之内",
    rate: "每秒请求数（最近一分钟）", goodput: "按时（有效吞吐）", late: "超时", refused: "拒绝（所有模型）",
    queue: "正在等待", calibration: "的承诺做到了（自启动以来）", mix: "由哪一级回答",
    refusals: "拒绝（自启动以来）", causes: "超时回答的原因（自启动以来）", versions: "版本",
    slowest: "最近十分钟最慢的回答", private: "此页面每秒读取一次本服务器自己的计数。",
    playground: "试用页", none: "无",
    promise: (p, ms, rate) => `承诺：每秒 ${rate} 个请求时 p${p} 不超过 ${ms}`,
    later: (ms) => `，此后每个词元不超过 ${ms}`,
    percentile: (p, n) => `p${p}（服务器内，最近一分钟 ${n} 个回答）`,
    first: (p, n) => `首个词元 p${p}（服务器内，最近一分钟 ${n} 个回答）`,
    each: (p) => `此后每个词元 p${p}`,
    unreachable: "服务器没有回应：可能已停止。",
    limited: "服务器现在拒绝回答此页面：密钥的速率或配额可能已用完。",
    forbidden: "此密钥不能读取指标：请使用带 metrics 或 admin 权限的密钥。",
    histogram: (n, over) => `${n} 个回答，其中 ${over} 个超过限值`,
    rates: (good, late, refused) => `每秒按时 ${good}，超时 ${late}，拒绝 ${refused}`,
    other: "English", otherCode: "en",
  },
};

const state = {
  language: firstLanguage(),
  model: null,
  models: new Map(), // model id -> what /v1/models says of it
  snapshots: [], // {at, rows: [{name, labels, value}]}
  versions: null, // null where the key does not allow it
  slowest: null,
  problem: null, // "unreachable" | "limited" | "forbidden"
};

const at = (id) => document.getElementById(id);
const words = () => WORDS[state.language];

function switchLanguage() {
  state.language = otherLanguage(state.language);
  show();
}

// ---- reading the server

async function read(route) {
  const answer = await fetch(route, { cache: "no-store" });
  if (answer.status === 401 || answer.status === 403) return null;
  if (!answer.ok) throw "limited";
  return answer;
}

function parse(text) {
  const rows = [];
  for (const line of text.split("\n")) {
    const found = /^(millis_\w+)(?:\{(.*)\})? (\S+)$/.exec(line);
    if (!found) continue;
    const labels = {};
    for (const [, name, value] of (found[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) {
      labels[name] = value.replace(/\\(.)/g, (_, sign) => (sign === "n" ? "\n" : sign));
    }
    rows.push({ name: found[1], labels, value: Number(found[3]) });
  }
  return rows;
}

async function look(round) {
  try {
    const metrics = await read("/metrics");
    state.problem = metrics === null ? "forbidden" : null;
    if (metrics !== null) {
      state.snapshots.push({ at: performance.now(), rows: parse(await metrics.text()) });
      state.snapshots.splice(0, state.snapshots.length - KEPT);
    }
    if (metrics !== null && round % ADMIN_EVERY === 0) {
      const listed = await (await read("/v1/models")).json();
      state.models = new Map(listed.data.map((one) => [one.id, one]));
      if (!state.models.has(state.model)) state.model = listed.data[0]?.id ?? null;
      if (round === 0 || state.versions) readAdmin("versions", "/v1/admin/models");
      if (round === 0 || state.slowest) readAdmin("slowest", "/v1/admin/slowest");
    }
  } catch (problem) {
    state.problem = problem === "limited" ? problem : "unreachable";
  }
  show();
  setTimeout(look, EVERY_MS, round + 1);
}

async function readAdmin(name, route) {
  try {
    const answer = await read(route);
    state[name] = answer === null ? null : (await answer.json()).data;
  } catch {
    // What is shown stays; the metrics say whether the server answers.
  }
}

// ---- sums and differences

// A model that speaks promises its first token, any other a whole answer.
const speaks = () => Boolean(state.models.get(state.model)?.engine);
const promised = () => (speaks() ? "millis_first_token_seconds" : "millis_request_seconds");

const newest = () => state.snapshots.at(-1) ?? { at: 0, rows: [] };

function sum(snapshot, name, labels = {}) {
  const wanted = Object.entries(labels);
  return snapshot.rows
    .filter((row) => row.name === name && wanted.every(([key, value]) => row.labels[key] === value))
    .reduce((total, row) => total + row.value, 0);
}

function grown(name, labels, from = state.snapshots[0] ?? newest(), to = newest()) {
  return Math.max(sum(to, name, labels) - sum(from, name, labels), 0);
}

function groups(name, label, labels = {}) {
  const found = new Map();
  for (const row of newest().rows) {
    if (row.name !== name || Object.entries(labels).some(([key, value]) => row.labels[key] !== value)) continue;
    found.set(row.labels[label], (found.get(row.labels[label]) ?? 0) + row.value);
  }
  return found;
}

function buckets(name) {
  // [{low, high, n}] of the last minute, for the model that is shown, all its rungs together.
  const edges = new Set(newest().rows
    .filter((row) => row.name === `${name}_bucket` && row.labels.model === state.model)
    .map((row) => row.labels.le));
  const sorted = [...edges].sort((a, b) => edge(a) - edge(b));
  let before = 0;
  let low = 0;
  return sorted.map((le) => {
    const below = grown(`${name}_bucket`, { model: state.model, le });
    const one = { low, high: edge(le), n: Math.max(below - before, 0) };
    before = below;
    low = one.high;
    return one;
  });
}

const edge = (le) => (le === "+Inf" ? Infinity : Number(le));

function percentile(all, share) {
  const total = all.reduce((sum, one) => sum + one.n, 0);
  let left = share * total;
  for (const one of all) {
    if (left <= one.n && one.n) return one.high === Infinity ? one.low : one.low + (one.high - one.low) * (left / one.n);
    left -= one.n;
  }
  return null;
}

// ---- writing

const number = (value, digits = 0) =>
  new Intl.NumberFormat(state.language, { minimumFractionDigits: digits, maximumFractionDigits: digits }).format(value);
const ms = (value) => `${number(value, value < 10 ? 2 : value < 100 ? 1 : 0)} ms`;
const seconds = (value) => (value === null ? "–" : ms(1000 * value));
const perSecond = (value) => `${number(value, value < 10 ? 1 : 0)}/s`;
const percent = (value) => `${number(100 * value, 1)} %`;

function put(id, text) {
  if (at(id).textContent !== text) at(id).textContent = text;
}

function svg(tag, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function row(...cells) {
  const made = document.createElement("tr");
  for (const [place, text] of cells.entries()) {
    const cell = document.createElement("td");
    cell.textContent = text;
    if (place) cell.className = "number";
    made.append(cell);
  }
  return made;
}

function table(id, rows) {
  at(id).replaceChildren(...(rows.length ? rows : [row(words().none)]));
}

function show() {
  document.documentElement.lang = state.language;
  document.title = words().title;
  for (const element of document.querySelectorAll("[data-words]")) element.textContent = words()[element.dataset.words];
  put("language", words().other);
  at("language").lang = words().otherCode;
  at("error").hidden = state.problem === null;
  put("error", state.problem ? words()[state.problem] : "");
  showModels();
  showLatency();
  showRates();
  showMix();
  table("refusals", [...groups("millis_refusals_total", "reason")].map(([reason, n]) => row(reason, number(n))));
  at("late-causes").hidden = speaks();
  table("causes", [...groups("millis_late_answers_total", "cause", { model: state.model })]
    .map(([cause, n]) => row(cause, number(n))));
  at("versions").hidden = state.versions === null;
  table("states", (state.versions ?? []).map((one) => row(
    `${one.name} ${one.serving.number}${one.trial ? ` → ${one.trial.number}` : ""}`, one.history.at(-1) ?? "", one.state)));
  at("slow").hidden = state.slowest === null;
  table("slowest", (state.slowest ?? []).slice(0, 8).map((one) => row(
    `${new Date(1000 * one.at).toLocaleTimeString(state.language)} ${one.model} ${one.rung}`,
    Object.entries({ ...one.stages_ms, ...one.causes_ms }).sort((a, b) => b[1] - a[1]).slice(0, 2)
      .map(([name, value]) => `${name} ${ms(value)}`).join(", "),
    ms(one.total_ms))));
}

function showModels() {
  const names = [...state.models.keys()];
  if (names.join("\n") === [...at("model").options].map((one) => one.value).join("\n")) return;
  at("model").replaceChildren(...names.map((name) => new Option(name, name, false, name === state.model)));
}

function showLatency() {
  const contract = state.models.get(state.model)?.contract;
  const all = buckets(promised());
  const n = all.reduce((total, one) => total + one.n, 0);
  if (!contract) return;
  const bound = contract.bound_ms / 1000;
  put("promise", words().promise(contract.percentile, ms(contract.bound_ms), number(contract.rate_per_s))
    + (contract.per_token_ms ? words().later(ms(contract.per_token_ms)) : ""));
  put("percentile-name", words()[speaks() ? "first" : "percentile"](contract.percentile, number(n)));
  at("later").hidden = !speaks();
  put("each", seconds(percentile(buckets("millis_output_token_seconds"), contract.percentile / 100)));
  put("each-name", words().each(contract.percentile));
  put("percentile", seconds(percentile(all, contract.percentile / 100)));
  put("median", seconds(percentile(all, 0.5)));
  const over = all.filter((one) => one.high > bound * 1.0000001).reduce((total, one) => total + one.n, 0);
  const share = n ? 1 - over / n : null;
  put("within", share === null ? "–" : percent(share));
  at("within").dataset.status = share === null ? "" : share >= contract.percentile / 100 ? "kept" : "broken";
  // Columns of one width, from edge to edge, as far as there are answers, and to the bound at least.
  const last = Math.max(all.findLastIndex((one) => one.n), all.findIndex((one) => one.high >= bound * 0.9999999));
  const shown = all.slice(0, last + 2);
  const most = Math.max(...shown.map((one) => one.n), 1);
  const chart = at("histogram");
  chart.setAttribute("viewBox", `0 0 ${Math.max(shown.length, 1)} 1`);
  chart.setAttribute("aria-label", words().histogram(number(n), number(over)));
  const columns = shown.map((one, place) => svg("rect", {
    x: place + 0.04, width: 0.92, y: 1 - one.n / most, height: one.n / most, class: one.high > bound * 1.0000001 ? "over" : "in",
  }));
  const line = shown.findIndex((one) => one.high >= bound * 0.9999999) + 1;
  at("edges").replaceChildren(...shown.map((one, place) => {
    const made = document.createElement("span");
    const value = new Intl.NumberFormat(state.language).format(1000 * one.high);
    made.textContent = one.high === Infinity ? "" : place + 1 === line ? `${value} ms` : value;
    made.className = place + 1 === line ? "bound" : "";
    return made;
  }));
  chart.replaceChildren(...columns, svg("line", { x1: line, x2: line, y1: 0, y2: 1 }));
}

function showRates() {
  const points = { goodput: [], late: [], refused: [] };
  for (let place = 1; place < state.snapshots.length; place += 1) {
    const [from, to] = [state.snapshots[place - 1], state.snapshots[place]];
    const per = (n) => (1000 * n) / Math.max(to.at - from.at, 1);
    const good = grown("millis_within_contract_total", { model: state.model }, from, to);
    points.goodput.push(per(good));
    points.late.push(per(Math.max(grown(`${promised()}_count`, { model: state.model }, from, to) - good, 0)));
    points.refused.push(per(grown("millis_refusals_total", {}, from, to)));
  }
  const most = Math.max(...Object.values(points).flat(), 1);
  const now = (name) => points[name].at(-1) ?? 0;
  for (const name of Object.keys(points)) put(name, perSecond(now(name)));
  put("queue", number(sum(newest(), "millis_queue_length")));
  const kept = sum(newest(), "millis_promises_total", { model: state.model, kept: "true" });
  const broken = sum(newest(), "millis_promises_total", { model: state.model, kept: "false" });
  put("calibration", kept + broken ? percent(kept / (kept + broken)) : "–");
  const chart = at("rates");
  chart.setAttribute("viewBox", `0 0 ${KEPT - 2} 1`);
  chart.setAttribute("aria-label", words().rates(...Object.keys(points).map((name) => perSecond(now(name)))));
  chart.replaceChildren(...Object.entries(points).map(([name, all]) => {
    const begin = KEPT - 1 - all.length;
    return svg("path", { class: name, d: all.map((value, place) => `${place ? "L" : "M"}${begin + place} ${1 - value / most}`).join("") || "M0 1" });
  }));
}

function showMix() {
  const rungs = [...groups("millis_request_seconds_count", "rung", { model: state.model }).keys()].sort();
  const counts = rungs.map((rung) => grown("millis_request_seconds_count", { model: state.model, rung }));
  const total = counts.reduce((a, b) => a + b, 0);
  at("rungs").hidden = speaks();
  at("mix").replaceChildren(...rungs.map((rung, place) => {
    const part = document.createElement("i");
    part.dataset.place = place;
    part.style.flexGrow = counts[place];
    part.hidden = !counts[place];
    return part;
  }));
  at("mix-legend").replaceChildren(...rungs.map((rung, place) => {
    const group = document.createElement("div");
    const [name, key, value] = ["dt", "span", "dd"].map((tag) => document.createElement(tag));
    group.dataset.place = place;
    key.className = "key";
    name.append(key, rung);
    value.textContent = total ? percent(counts[place] / total) : "–";
    group.append(name, value);
    return group;
  }));
}

at("language").addEventListener("click", switchLanguage);
at("model").addEventListener("change", () => {
  state.model = at("model").value;
  show();
});
show();
look(0);
