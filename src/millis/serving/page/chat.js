// The chat page's behaviour: send the talk so far, show the answer as it comes, time its pieces, stop when told.
//
// Border: speaks to /v1/models and /v1/chat/completions of its own server. Text from the server or the user enters the page
// as text nodes only. The language is kept in this browser, nothing else is kept anywhere.

import { firstLanguage, otherLanguage } from "./language.js";

const WORDS = {
  en: {
    title: "millis chat",
    skip: "Skip to your message",
    tagline: "Says what it can, in the time there is.",
    model: "Model",
    text: "Your message",
    first: "to the first piece",
    each: "for each later token",
    count: "tokens",
    deadline: "Within ms (empty: as long as it takes)",
    again: "New chat",
    stop: "Stop",
    send: "Send",
    private: "What you type goes to this server and nowhere else.",
    playground: "Playground",
    noModel: "No model that chats is served here. Start the server with one: millis serve NAME.millis.",
    unreachable: "The server did not answer. Is it still running? Send again once it is.",
    refused: (status, sentence) => `The server refused (${status}): ${sentence}`,
    endings: {
      length: "Ended where the context, or what was allowed, ends.",
      deadline: "Ended by the deadline.",
      stopped: "Stopped by you.",
    },
  },
  zh: {
    title: "millis 对话",
    skip: "跳到输入框",
    tagline: "在给定的时间里，把能说的说完。",
    model: "模型",
    text: "你的消息",
    first: "第一个字之前",
    each: "此后每个词元",
    count: "个词元",
    deadline: "限时（毫秒，空则不限）",
    again: "新对话",
    stop: "停止",
    send: "发送",
    private: "你输入的内容只发给这台服务器。",
    playground: "试验场",
    noModel: "这里没有会对话的模型。请带上一个启动服务器：millis serve NAME.millis。",
    unreachable: "服务器没有回答。它还在运行吗？等它恢复后再发一次。",
    refused: (status, sentence) => `服务器拒绝了（${status}）：${sentence}`,
    endings: { length: "到了上下文或允许长度的尽头。", deadline: "到了时限。", stopped: "由你停止。" },
  },
};

const NEAR_PX = 40; // so near to the end the page goes along with an answer that grows
const COMPOSING = 229; // the key code of an Enter that ends a composition, which Safari does not call one any more

const state = {
  language: firstLanguage(),
  models: [],
  talk: [], // {role, content, ending}
  times: null, // {firstMs, eachMs, n} of the newest answer
  problem: null, // (words) => sentence
};
let asking = null; // AbortController of the answer under way

const at = (id) => document.getElementById(id);
const words = () => WORDS[state.language];

function switchLanguage() {
  state.language = otherLanguage(state.language);
  show();
}

async function load() {
  try {
    const listed = await (await fetch("/v1/models")).json();
    state.models = listed.data.filter((model) => model.task === "chat");
    state.problem = state.models.length ? null : (said) => said.noModel;
    if (state.models.length && !at("text").value) at("text").value = state.models[0].example;
  } catch {
    state.problem = (said) => said.unreachable;
  }
  at("model").replaceChildren(...state.models.map(({ id }) => Object.assign(document.createElement("option"), { value: id, textContent: id })));
  show();
}

async function send() {
  const content = at("text").value.trim();
  if (!content || asking) return;
  const answer = { role: "assistant", content: "", ending: null };
  const messages = [...state.talk, { role: "user", content }].map(({ role, content }) => ({ role, content }));
  state.talk.push({ role: "user", content }, answer);
  Object.assign(state, { problem: null, times: null });
  at("text").value = "";
  const mine = (asking = new AbortController());
  show();
  goToEnd();
  const headers = { "content-type": "application/json" };
  if (at("deadline").value) headers["x-deadline-ms"] = at("deadline").value;
  const began = performance.now();
  try {
    const response = await fetch("/v1/chat/completions", {
      method: "POST",
      headers,
      signal: mine.signal,
      body: JSON.stringify({ model: at("model").value, messages, stream: true, stream_options: { include_usage: true } }),
    });
    if (!response.ok) {
      const { error } = await response.json();
      throw { sentence: (said) => said.refused(response.status, error.message) };
    }
    await listen(response.body, answer, began);
  } catch (problem) {
    if (mine.signal.aborted) answer.ending = "stopped";
    else state.problem = problem.sentence ?? ((said) => said.unreachable);
    if (!answer.content) {
      state.talk.splice(state.talk.indexOf(answer) - 1, 2); // nothing was said: the message goes back to be sent again
      at("text").value ||= content;
    }
  }
  if (asking === mine) asking = null;
  show();
}

async function listen(body, answer, began) {
  let [rest, firstMs, lastMs, nSeen, nTold] = ["", 0, 0, 0, 0];
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
      const event = JSON.parse(line.slice(6));
      if (event.error) throw { sentence: (said) => said.refused(500, event.error.message) };
      const choice = event.choices[0];
      if (choice?.delta.content) {
        lastMs = performance.now() - began;
        firstMs ||= lastMs;
        nSeen += 1;
        answer.content += choice.delta.content;
      }
      answer.ending = choice?.finish_reason ?? answer.ending;
      nTold = event.usage?.completion_tokens ?? nTold;
    }
    const n = Math.max(nTold, nSeen);
    state.times = firstMs ? { firstMs, eachMs: nSeen > 1 ? (lastMs - firstMs) / (n - 1) : null, n } : null;
    show();
  }
}

const hiddenPx = () => at("talk").getBoundingClientRect().bottom - (innerHeight - at("text").form.offsetHeight); // below the form's upper edge, where it sticks
const isAtEnd = () => hiddenPx() <= NEAR_PX;
const goToEnd = () => scrollBy(0, hiddenPx());

function show() {
  const follows = asking && isAtEnd();
  document.documentElement.lang = state.language === "zh" ? "zh-Hans" : "en";
  document.title = words().title;
  for (const element of document.querySelectorAll("[data-words]")) element.textContent = words()[element.dataset.words];
  const other = state.language === "en" ? "zh" : "en";
  Object.assign(at("language"), { textContent: other === "zh" ? "中文" : "English", lang: other });
  at("error").hidden = !state.problem;
  at("error").textContent = state.problem?.(words()) ?? "";
  at("stop").hidden = !asking;
  at("send").disabled = Boolean(asking) || !state.models.length;
  at("talk").replaceChildren(...state.talk.map(writeMessage));
  const { firstMs, eachMs, n } = state.times ?? {};
  at("first").textContent = writeMs(firstMs);
  at("each").textContent = writeMs(eachMs);
  at("count").textContent = n ?? "–";
  if (follows) goToEnd();
}

function writeMessage({ role, content, ending }, place) {
  const item = Object.assign(document.createElement("li"), { textContent: content, dir: "auto" });
  item.dataset.role = role;
  if (asking && place === state.talk.length - 1) item.setAttribute("aria-busy", "true");
  const why = words().endings[ending];
  if (why) item.append(Object.assign(document.createElement("small"), { textContent: why }));
  return item;
}

function writeMs(ms) {
  if (!(ms >= 0)) return "–";
  const digits = ms < 10 ? 2 : ms < 100 ? 1 : 0;
  return `${new Intl.NumberFormat(state.language, { minimumFractionDigits: digits, maximumFractionDigits: digits }).format(ms)} ms`;
}

at("text").form.addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
at("text").addEventListener("keydown", (event) => {
  const isComposing = event.isComposing || event.keyCode === COMPOSING;
  if (event.key === "Enter" && !event.shiftKey && !isComposing) {
    event.preventDefault();
    send();
  }
});
at("stop").addEventListener("click", () => asking?.abort());
at("again").addEventListener("click", () => {
  asking?.abort();
  Object.assign(state, { talk: [], times: null, problem: null });
  show();
});
at("language").addEventListener("click", switchLanguage);
show();
load();
