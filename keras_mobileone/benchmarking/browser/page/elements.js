// Short ways to the elements of the page.

/** Returns the element with an id. */
export const element = (id) => document.getElementById(id);

/** Makes an element with attributes and children; texts are never read as HTML. */
export function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/** Fills a list with one entry for each text, and hides it if there is none. */
export function list(id, texts) {
  element(id).replaceChildren(...texts.map((text) => make("li", {}, text)));
  element(id).hidden = texts.length === 0;
}

/** Returns the name of a file without its suffix, as parts between which a line may break. */
export function named(file) {
  const words = file.replace(/\.tflite$/, "").split(/(?<=[_.-])/);
  return words.flatMap((word, index) => (index ? [make("wbr"), word] : [word]));
}
