// Run inside of the page under test: each function stands alone.

/** What can be used or is drawn, and has no name for who cannot see it. @returns {string[]} */
export const namelessElements = () => [...document.querySelectorAll('a, button, input, [role=img], [role=progressbar], section')].filter((element) => {
  const label = element.getAttribute('aria-label') ?? document.getElementById(element.getAttribute('aria-labelledby') ?? '')?.textContent ?? element.textContent ?? '';
  return label.trim() === '';
}).map((element) => element.outerHTML.slice(0, 120));

/** Text whose contrast against what it stands on is below 4.5 to 1 (WCAG 2.2, 1.4.3). @returns {string[]} */
export const faintTexts = () => {
  const channels = (/** @type {string} */ color) => (color.match(/[\d.]+/g) ?? []).map(Number);
  const luminance = (/** @type {number[]} */ color) => [0.2126, 0.7152, 0.0722].reduce((sum, weight, i) => {
    const value = (color[i] ?? 0) / 255;
    return sum + weight * (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  }, 0);
  /** @param {Element} element */
  const ground = (element) => {
    for (let at = /** @type {Element | null} */ (element); at; at = at.parentElement) {
      const color = channels(getComputedStyle(at).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  const texts = [...document.querySelectorAll('main *, header *')].filter((element) => !element.closest('svg') && [...element.childNodes].some((node) => node.nodeType === 3 && node.nodeValue?.trim()));
  return texts.flatMap((element) => {
    const [a, b] = [luminance(channels(getComputedStyle(element).color)), luminance(ground(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    return ratio < 4.5 ? [`${element.outerHTML.slice(0, 80)}: ${ratio.toFixed(2)}`] : [];
  });
};

/** CSS pixels that the page is wider than its window. */
export const overflowPixels = () => document.documentElement.scrollWidth - document.documentElement.clientWidth;

export const markPage = () => {
  document.body.dataset['marked'] = 'as before';
};
export const pageMark = () => document.body.dataset['marked'];
/** @param {string} wanted */
export const hasText = (wanted) => document.body.innerText.includes(wanted);
