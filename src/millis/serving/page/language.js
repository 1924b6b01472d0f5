// The language of a page: the one that was chosen in this browser before, else the browser's own.
//
// Border: reads and keeps one word in the browser's storage; what is said in a language is each page's own matter.

const KEY = "millis-language";

export function firstLanguage() {
  let kept = null;
  try {
    kept = localStorage.getItem(KEY);
  } catch {
    // Storage may be forbidden; the browser's language decides then.
  }
  if (["en", "zh"].includes(kept)) return kept;
  return (navigator.language || "en").toLowerCase().startsWith("zh") ? "zh" : "en";
}

export function otherLanguage(language) {
  const other = language === "en" ? "zh" : "en";
  try {
    localStorage.setItem(KEY, other);
  } catch {
    // Not kept then; the switch still works.
  }
  return other;
}
