// Builds elements. Whatever comes from data becomes a text node or an attribute, never markup:
// nothing on this page sets innerHTML, and that is all there is to escaping.

const SVG = "http://www.w3.org/2000/svg";

// An element: attributes as given (null and false are left out), `on…` as listeners, `style` as
// custom properties through the CSSOM (the Content-Security-Policy forbids style attributes).
function make(node, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style")
      for (const [k, v] of Object.entries(value)) node.style.setProperty(k, v);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(
    ...children.flat().filter((child) => child !== null && child !== undefined && child !== false),
  );
  return node;
}

export const h = (tag, props, ...children) => make(document.createElement(tag), props, children);
export const s = (tag, props, ...children) =>
  make(document.createElementNS(SVG, tag), props, children);
export const byId = (id) => document.getElementById(id);
export const unseen = (text) => h("span", { class: "unseen" }, text);
