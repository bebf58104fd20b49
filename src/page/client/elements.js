// Elements from nested calls, and a patch of what is on the page to what should be: focus, scroll and open details stay.

const svgNamespace = 'http://www.w3.org/2000/svg';
const svgTags = new Set(['svg', 'path', 'line', 'rect', 'text', 'g', 'title', 'circle']);

/** @typedef {Node | string | number | null | false | undefined | Child[]} Child */

/**
 * Text becomes text, never markup.
 * @param {string} tag `name` or `name.class.class`
 * @param {Record<string, string | number | boolean | null | undefined> | null} [attributes]
 * @param {...Child} children
 * @returns {Element}
 */
export const h = (tag, attributes, ...children) => {
  const [name = '', ...classes] = tag.split('.');
  const element = svgTags.has(name) ? document.createElementNS(svgNamespace, name) : document.createElement(name);
  if (classes.length > 0) element.setAttribute('class', classes.join(' '));
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(key, value === true ? '' : String(value));
  }
  append(element, children);
  return element;
};

/** An `<a>` inside of a drawing. @param {Record<string, string>} attributes @param {...Child} children */
export const svgLink = (attributes, ...children) => {
  const element = document.createElementNS(svgNamespace, 'a');
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  append(element, children);
  return element;
};

/** @param {Element} element @param {Child[]} children */
const append = (element, children) => {
  for (const child of children) {
    if (Array.isArray(child)) append(element, child);
    else if (child instanceof Node) element.append(child);
    else if (child !== null && child !== undefined && child !== false) element.append(String(child));
  }
};

/** @param {Node} a @param {Node} b */
const isSame = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName
  && (!(a instanceof Element) || !(b instanceof Element) || a.getAttribute('data-key') === b.getAttribute('data-key'));

/** What a person did to an element is not ours to undo. @param {Element} element @param {string} name */
const isTheirs = (element, name) => (element.localName === 'details' && name === 'open') || (element.localName === 'input' && name === 'value');

/** Makes the children of `now` those of `next`, with as few changes as need be. @param {Element} now @param {Element} next */
export const patch = (now, next) => {
  // Copies: the lists are live.
  const [before, after, children] = [[...now.attributes], [...next.attributes], [...next.childNodes]];
  for (const { name } of before) if (!next.hasAttribute(name) && !isTheirs(now, name)) now.removeAttribute(name);
  for (const { name, value } of after) if (now.getAttribute(name) !== value && !isTheirs(now, name)) now.setAttribute(name, value);
  let at = now.firstChild;
  for (const wanted of children) {
    let found = at;
    // A keyed one may have moved up: what stood before it is gone, or comes again.
    if (wanted instanceof Element && wanted.hasAttribute('data-key')) {
      while (found && !isSame(found, wanted)) found = found.nextSibling;
    }
    if (!found || !isSame(found, wanted)) {
      now.insertBefore(wanted, at);
      continue;
    }
    if (found !== at) now.insertBefore(found, at);
    else at = at?.nextSibling ?? null;
    if (found instanceof Element && wanted instanceof Element) patch(found, wanted);
    else if (found.nodeValue !== wanted.nodeValue) found.nodeValue = wanted.nodeValue;
  }
  while (at) {
    const gone = at;
    at = at.nextSibling;
    gone.remove();
  }
};
