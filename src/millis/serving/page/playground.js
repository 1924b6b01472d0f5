// The playground's behaviour: ask as the user types, mark entities or the answer, rank labels, draw the milliseconds.
//
// Border: speaks to /v1/models, /contract and the task routes of its own server. Everything shown is made from `state` by `show`;
// text from the server or the user enters the page as text nodes only. The language is kept in this browser, nowhere else.
// Limits: one text at a time; a text of some 10,000 characters and more is slow to mark in a browser.

import { firstLanguage, otherLanguage } from "./language.js";
import { WORDS } from "./words.js";

const DEBOUNCE_MS = 120;
const STAGES = ["parse", "queue", "tokenize", "run", "decode", "filter", "vectors", "words", "fuse", "rerank", "write"];

const TASKS = ["ner", "classify", "qa", "rerank", "embedding", "search", "translate", "summarise"]; // those whose answers this page can show

const state = {
  language: firstLanguage(),
  models: [],
  hasReranker: false,
  contracts: new Map(), // model id -> {contract, verdict}
  model: null,
  answer: null, // {text, entities and which of them are marked, or chosen and scores; stages, roundTripMs, rung}
  problem: null, // {kind: "problem" | "unreachable" | "odd" | "noModel", ...}
  isBusy: false,
};

let newest = 0; // number of the newest question; answers to older ones are dropped
let asking = null; // AbortController of the question under way
let timer = 0;

const at = (id) => document.getElementById(id);
const route = () => `/v1/${state.model?.task ?? TASKS[0]}`;
const ofTask = () => WORDS[state.language].tasks[state.model?.task ?? TASKS[0]];
const words = () => ({ ...WORDS[state.language], ...ofTask() });

function make(tag, { text, data = {}, ...properties } = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  Object.assign(element.dataset, data);
  if (text !== undefined) element.textContent = text;
  element.append(...children);
  return element;
}

// ---- language and numbers

function switchLanguage() {
  state.language = otherLanguage(state.language);
  show();
}

function writeNumber(value, digits) {
  const format = { minimumFractionDigits: digits, maximumFractionDigits: digits };
  return new Intl.NumberFormat(state.language, format).format(value);
}

function writeMs(ms) {
  return ms > 0 && ms < 0.005 ? "<0.01 ms" : `${writeNumber(ms, ms < 10 ? 2 : ms < 100 ? 1 : 0)} ms`;
}

const writeBound = (ms) => `${new Intl.NumberFormat(state.language).format(ms)} ms`;
const writeScore = (score) => `${writeNumber(100 * score, 1)} %`;

// ---- talking to the server

async function load() {
  try {
    const listed = await read("/v1/models");
    state.models = listed.data.filter((model) => TASKS.includes(model.task)).flatMap(withIndexes);
    state.hasReranker = listed.data.some((model) => model.task === "rerank");
    at("chat").hidden = !listed.data.some((model) => model.task === "chat");
    if (!state.models.length && !at("chat").hidden) return location.replace("/chat");
    state.contracts = new Map((await read("/contract")).data.map((row) => [row.model, row]));
    state.problem = state.models.length ? null : { kind: "noModel" };
  } catch (problem) {
    state.problem = asProblem(problem);
  }
  if (state.models.length) choose(state.models[0].id);
  show();
}

// An index is a choice of its own, searched by way of its model.
const withIndexes = (model) => [
  model, ...(model.indexes ?? []).map((id) => ({ ...model, id, by: model.id, task: "search" })),
];

async function read(path, options) {
  const response = await fetch(path, options);
  const body = await response.text();
  let document_;
  try {
    document_ = JSON.parse(body);
  } catch {
    throw { kind: "odd", status: response.status };
  }
  if (!response.ok) {
    throw {
      kind: "problem",
      status: response.status,
      sentence: document_.detail || document_.title || response.statusText,
      wait: response.headers.get("retry-after"),
    };
  }
  return options ? { document: document_, timing: response.headers.get("server-timing") } : document_;
}

const asProblem = (problem) => (problem.kind ? problem : { kind: "unreachable" });

function choose(id) {
  const before = state.model?.example;
  state.model = state.models.find((model) => model.id === id);
  for (const part of ["text", "question"]) {
    const field = at(part);
    if (field === document.activeElement) continue; // someone begins to type
    if (!field.value || field.value === shown(before, part)) field.value = shown(state.model.example, part);
  }
  ask();
}

// A model's example is a text, {question, context} or {query, documents}; documents stand one a line.
function shown(example, part) {
  if (part === "question") return example?.question ?? example?.query ?? "";
  return (typeof example === "string" ? example : example?.context ?? example?.documents?.join("\n")) ?? "";
}

const readLines = (text) => text.split("\n").filter((line) => line.trim());

function readInput() {
  const [text, question] = [at("text").value, at("question").value];
  if (state.model?.task === "qa") return { question, context: text };
  if (state.model?.task === "rerank") return { query: question, documents: readLines(text) };
  if (isSearch()) return { query: text, index: state.model.id, ...readFilter(question), ...(isReranked() ? { rerank: true } : {}) };
  return state.model?.task === "embedding" && readLines(text).length ? readLines(text) : text; // the first with the others
}

const needsQuestion = () => ["qa", "rerank"].includes(state.model?.task);
const isSearch = () => state.model?.task === "search";
const isReranked = () => isSearch() && state.hasReranker && at("reranks").checked;

function readFilter(text) {
  if (!text.trim()) return {};
  try {
    return { filter: JSON.parse(text) };
  } catch {
    throw { kind: "notJson" };
  }
}

function readBody() {
  return JSON.stringify(isSearch() ? readInput() : { model: state.model?.id, input: readInput() });
}

async function ask() {
  clearTimeout(timer);
  asking?.abort();
  const number = ++newest;
  if (!state.model) return load();
  const text = at("text").value;
  if (!text.trim() || (needsQuestion() && !at("question").value.trim())) {
    Object.assign(state, { answer: null, problem: null, isBusy: false });
    return show();
  }
  asking = new AbortController();
  state.isBusy = true;
  at("answer").setAttribute("aria-busy", "true");
  const began = performance.now();
  try {
    const answer = await read(route(), {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: readBody(),
      signal: asking.signal,
    });
    const roundTripMs = performance.now() - began;
    if (number !== newest) return;
    state.answer = { text, roundTripMs, stages: readTiming(answer.timing), ...readAnswer(answer.document, text) };
    state.problem = null;
  } catch (problem) {
    if (number !== newest) return;
    Object.assign(state, { answer: null, problem: asProblem(problem) });
  }
  state.isBusy = false;
  show();
}

function askSoon(event) {
  clearTimeout(timer);
  if (!event.isComposing) timer = setTimeout(ask, DEBOUNCE_MS); // a half-typed Chinese word is no question yet
}

function readAnswer(document_, asked) {
  if (isSearch()) {
    const found = (document_.results ?? []).map(({ id, text, cosine, relevance_score: relevance }, place) => (
      { text, label: `${place + 1}`, score: (document_.reranked ? relevance : cosine) ?? undefined, where: id }));
    return { entities: found, best: found[0]?.text ?? "", rung: document_.rung };
  }
  const { answer, answers, entities, text, label, labels, ranking, scores, embedding } = document_.results?.[0] ?? {};
  if (Array.isArray(ranking)) {
    const texts = readLines(asked);
    const found = ranking.map(({ index, relevance_score: score }, place) => (
      { text: texts[index], label: `${place + 1}`, score, where: `${index + 1}` }));
    return { entities: found, best: found[0]?.text ?? "", rung: document_.rung };
  }
  if (Array.isArray(answers)) {
    const found = answers.map((one, place) => ({ ...one, text: one.answer, label: `${place + 1}` }));
    return { entities: found, marked: answer === null ? [] : found.slice(0, 1), rung: document_.rung };
  }
  if (Array.isArray(entities)) return { entities, rung: document_.rung };
  if (typeof text === "string") return { entities: [], best: text, rung: document_.rung };
  if (Array.isArray(embedding)) return compareLines(document_, readLines(asked));
  if (!Array.isArray(scores)) throw { kind: "odd", status: 200 };
  return { chosen: labels ?? (label ? [label] : []), scores, rung: document_.rung };
}

function compareLines(document_, lines) {
  const [first, ...others] = document_.results.map((result) => result.embedding);
  const scores = others.map((vector, i) => ({
    label: lines[i + 1], score: vector.reduce((sum, number, place) => sum + number * first[place], 0),
  }));
  scores.sort((a, b) => b.score - a.score);
  return { chosen: scores.slice(0, 1).map((one) => one.label), scores, rung: document_.rung };
}

function readTiming(header) {
  const stages = new Map();
  for (const entry of (header || "").match(/(?:[^,"]|"[^"]*")+/g) || []) {
    const name = entry.trim().match(/^[^;\s]+/)?.[0];
    const duration = entry.match(/;\s*dur\s*=\s*"?([0-9.]+)/i)?.[1];
    if (name && duration) stages.set(name, Number(duration));
  }
  return new Map([...stages].sort(([a], [b]) => place(a) - place(b)));
}

const place = (stage) => (STAGES.includes(stage) ? STAGES.indexOf(stage) : STAGES.length);

// ---- showing

function show() {
  showWords();
  showModels();
  showProblem();
  showAnswer();
  showVerdict();
  showTime();
  showCommand();
}

function showWords() {
  document.documentElement.lang = state.language === "zh" ? "zh-Hans" : "en";
  document.title = words().title;
  for (const element of document.querySelectorAll("[data-words]")) element.textContent = words()[element.dataset.words];
  for (const element of document.querySelectorAll("[data-label='routes']")) element.ariaLabel = words().routes;
  const other = state.language === "en" ? "zh" : "en";
  Object.assign(at("language"), { textContent: other === "zh" ? "中文" : "English", lang: other });
  at("question").hidden = !needsQuestion() && !isSearch();
  at("question").placeholder = at("question").ariaLabel = words().question;
  at("rerank").hidden = !(isSearch() && state.hasReranker);
  if (isReranked()) document.querySelector("#entities [data-words='score']").textContent = words().relevance;
  at("keys").textContent = /Mac|iPhone|iPad/.test(navigator.platform) ? "⌘ ↵" : "Ctrl ↵";
}

function showModels() {
  const isChoice = state.models.length > 1;
  at("model").hidden = !isChoice;
  at("model-name").hidden = isChoice;
  at("model-name").textContent = state.model?.id ?? "";
  const ids = state.models.map((model) => model.id);
  if (ids.join("\n") !== [...at("model").options].map((option) => option.value).join("\n")) {
    at("model").replaceChildren(...ids.map((id) => make("option", { value: id, text: id })));
  }
  if (state.model) at("model").value = state.model.id;
}

function showProblem() {
  const { problem } = state;
  at("error").hidden = !problem;
  at("error").textContent = problem ? writeProblem(problem) : "";
}

function writeProblem(problem) {
  if (problem.kind === "problem") {
    const wait = problem.wait ? words().wait(problem.wait) : "";
    return words().problem(problem.status, problem.sentence) + wait;
  }
  return problem.kind === "odd" ? words().odd(problem.status) : words()[problem.kind];
}

function showAnswer() {
  const { answer } = state;
  hideTip();
  at("answer").setAttribute("aria-busy", String(state.isBusy));
  const found = answer?.entities ?? answer?.scores ?? [];
  at("answer").replaceChildren(...(answer ? writeAnswer(answer, found) : []));
  at("found").hidden = !found.length;
  at("entities").hidden = !answer?.entities;
  at("scores").hidden = !answer?.scores;
  at("entities").tBodies[0].replaceChildren(...(answer?.entities ?? []).map(makeRow));
  at("scores").tBodies[0].replaceChildren(...(answer?.scores ?? []).map(makeScore));
  at("summary").textContent = state.problem ? "" : writeSummary(answer);
}

function writeAnswer(answer, found) {
  if (answer.best !== undefined) return [answer.best];
  return answer.entities ? markEntities(answer.text, answer.marked ?? found) : nameLabels(answer);
}

function writeSummary(answer) {
  if (!answer) return at("text").value.trim() ? "" : words().empty;
  const n = (answer.marked ?? answer.entities ?? answer.chosen).length;
  if (!n && answer.best === undefined) return words().none;
  const rung = answer.rung ? words().rung(answer.rung) : "";
  return words().count(n, writeMs(answer.roundTripMs)) + rung;
}

// Offsets count Unicode code points; JavaScript strings count UTF-16 units, two for an emoji.
function unitOffsets(text) {
  const offsets = [0];
  for (const point of text) offsets.push(offsets.at(-1) + point.length);
  return offsets;
}

function markEntities(text, entities) {
  const offsets = unitOffsets(text);
  const pieces = [];
  let done = 0;
  entities.forEach((entity, row) => {
    const [start, end] = [offsets[entity.start], offsets[entity.end]];
    if (!(start >= done && end > start)) return; // entities do not nest; one that would stays in the table
    const mark = make("mark", {
      className: "entity", tabIndex: 0, text: text.slice(start, end), data: { row, label: entity.label, testid: "entity" },
    });
    mark.style.setProperty("--hue", hueOf(entity.label));
    mark.setAttribute("aria-describedby", "tip");
    pieces.push(text.slice(done, start), mark);
    done = end;
  });
  return [...pieces, text.slice(done)];
}

const nameLabels = (answer) => answer.chosen.flatMap((label) => [makeTag(label), " "]);

function makeTag(label) {
  const tag = make("span", { className: "tag", text: label, data: { testid: "label" } });
  tag.style.setProperty("--hue", hueOf(label));
  return tag;
}

function makeGauge(label, score) {
  const gauge = make("span", { className: "gauge" }, make("i"));
  gauge.style.setProperty("--hue", hueOf(label));
  if (score === undefined) return make("td", { className: "score", text: "–" }); // found by its words alone
  gauge.firstChild.style.width = `${Math.max(100 * score, 0)}%`; // a cosine may be below 0
  return make("td", { className: "score" }, gauge, writeScore(score));
}

function makeRow(entity, row) {
  return make("tr", { data: { row } },
    make("td", { text: entity.text, dir: "auto" }), make("td", {}, makeTag(entity.label)),
    makeGauge(entity.label, entity.score),
    make("td", { className: "number", text: entity.where ?? `${entity.start}–${entity.end}` }));
}

const makeScore = ({ label, score }) => make("tr", {}, make("td", {}, makeTag(label)), makeGauge(label, score));

// Labels share the circle of hues evenly, so that few labels are far apart.
function hueOf(label) {
  const labels = state.model.labels ?? [];
  const place = labels.indexOf(label);
  return String(Math.round(250 + (360 * (place < 0 ? labels.length : place)) / (labels.length + (place < 0 ? 1 : 0) || 1)) % 360);
}

function light(event) {
  const row = event.target.closest?.("[data-row]")?.dataset.row;
  for (const element of document.querySelectorAll("[data-row]")) element.classList.toggle("lit", element.dataset.row === row);
  const mark = event.target.closest?.(".entity");
  if (!mark) return hideTip();
  const { label, score } = state.answer.entities[mark.dataset.row];
  const tip = at("tip");
  tip.textContent = words().tip(label, writeScore(score));
  tip.hidden = false;
  const [box, size] = [mark.getClientRects()[0], tip.getBoundingClientRect()];
  const left = Math.min(Math.max(box.left, 8), document.documentElement.clientWidth - size.width - 8);
  const above = box.top - size.height - 6;
  tip.style.left = `${left}px`;
  tip.style.top = `${above > 0 ? above : box.bottom + 6}px`;
}

function hideTip() {
  at("tip").hidden = true;
}

const contractRow = () => state.contracts.get(state.model?.by ?? state.model?.id);

function showVerdict() {
  const row = contractRow();
  const contract = row?.contract ?? state.model?.contract;
  const status = row?.verdict?.status;
  at("verdict").dataset.status = status ?? "";
  if (!contract) return at("verdict").replaceChildren();
  const promise = words().promise({
    percentile: contract.percentile, bound: writeBound(contract.bound_ms), rate: contract.rate_per_s,
  });
  const badge = make("span", { className: "badge", text: words().status[status] ?? words().unproven });
  const clauses = (row?.verdict?.clauses ?? []).map((clause) => make("li", { text: `${clause.name}: ${clause.detail}` }));
  at("verdict").replaceChildren(clauses.length
    ? make("details", {}, make("summary", {}, badge, promise), make("ul", {}, ...clauses))
    : make("p", {}, badge, promise));
}

function showTime() {
  const { answer } = state;
  at("time").hidden = !answer;
  if (!answer) return;
  const serverMs = [...answer.stages.values()].reduce((sum, ms) => sum + ms, 0);
  at("round-trip").textContent = writeMs(answer.roundTripMs);
  at("server").textContent = answer.stages.size ? writeMs(serverMs) : "–";
  showRuler(answer.roundTripMs, serverMs);
  showStages(answer.stages, serverMs);
}

function showRuler(roundTripMs, serverMs) {
  const boundMs = (contractRow()?.contract ?? state.model.contract)?.bound_ms;
  const step = niceStep(Math.max(roundTripMs, serverMs, boundMs ?? 0) * 1.04);
  const scale = Math.ceil((Math.max(roundTripMs, serverMs, boundMs ?? 0) * 1.04) / step) * step;
  const ruler = at("ruler");
  const percent = (ms) => `${(100 * ms) / scale}%`;
  ruler.querySelector(".round").style.width = percent(roundTripMs);
  ruler.querySelector(".inside").style.width = percent(serverMs);
  const bound = ruler.querySelector(".bound");
  bound.hidden = boundMs === undefined;
  if (boundMs !== undefined) {
    bound.style.left = percent(boundMs);
    bound.classList.toggle("flipped", boundMs > scale / 2);
    bound.firstChild.textContent = words().bound(writeBound(boundMs));
  }
  const ticks = [];
  for (let i = 0; i * step < scale * 0.97; i += 1) {
    const tick = make("span", { text: writeBound(Number((i * step).toPrecision(6))) });
    tick.style.left = percent(i * step);
    ticks.push(tick);
  }
  ruler.querySelector(".ticks").replaceChildren(...ticks);
  ruler.querySelector("polygon").setAttribute("points", `0,0 ${(100 * serverMs) / scale},0 100,10 0,10`);
}

function niceStep(span) {
  const rough = span / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  return power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
}

function showStages(stages, serverMs) {
  const bar = make("div", { className: "bar", role: "img" });
  const legend = make("dl", { className: "legend" });
  for (const [stage, ms] of stages) {
    const [name, meaning] = words().stages[stage] ?? [stage, ""];
    const share = make("i", { data: { stage }, title: `${name} ${writeMs(ms)}` });
    share.style.flexGrow = String(serverMs > 0 ? ms / serverMs : 0);
    bar.append(share);
    legend.append(make("div", { data: { stage } },
      make("dt", {}, make("span", { className: "key" }), name),
      make("dd", { text: writeMs(ms) }), make("dd", { text: meaning })));
  }
  bar.ariaLabel = [...stages].map(([stage, ms]) => `${words().stages[stage]?.[0] ?? stage} ${writeMs(ms)}`).join(", ");
  at("stages").replaceChildren(...(stages.size ? [bar, legend] : []));
}

function showCommand() {
  let body = "{}";
  try {
    body = readBody();
  } catch {
    return; // a filter that is still being written: the last command stays
  }
  at("command").textContent = `curl ${location.origin}${route()} -d '${body.replaceAll("'", "'\\''")}'`;
}

// ---- wiring

for (const part of ["text", "question"]) {
  at(part).addEventListener("input", askSoon);
  at(part).addEventListener("input", showCommand);
  at(part).addEventListener("compositionend", askSoon);
}
at("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    ask();
  }
});
at("text").form.addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
at("model").addEventListener("change", (event) => choose(event.target.value));
at("reranks").addEventListener("change", ask);
at("language").addEventListener("click", switchLanguage);
for (const kind of ["pointerover", "focusin"]) document.addEventListener(kind, light);
document.addEventListener("focusout", hideTip);
document.addEventListener("scroll", hideTip, { passive: true });
document.addEventListener("keydown", (event) => event.key === "Escape" && hideTip());
showWords();
load();
