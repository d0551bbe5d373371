// Text and lists in the document. All text goes in through textContent, never as HTML.

// text sets a node's text, and touches the document only when it differs.
export function text(node, value) {
  if (node.firstChild === null ? value !== '' : node.firstChild.data !== value) node.textContent = value;
}

// element makes an element with a class.
export function element(name, className = '') {
  const e = document.createElement(name);
  if (className) e.className = className;
  return e;
}

// clone copies the only element of a template.
export function clone(id) {
  return document.getElementById(id).content.firstElementChild.cloneNode(true);
}

// Rows keeps the children of a parent in step with a list. An item keeps its element
// for as long as it is listed, and with it the focus; whatever else moves around it.
export class Rows {
  // key names an item; build makes {node, update(item, now)} for a new one.
  constructor(parent, key, build) {
    this.parent = parent;
    this.key = key;
    this.build = build;
    this.rows = new Map();
  }

  update(items, now) {
    const next = new Map();
    for (const item of items) {
      const k = this.key(item);
      next.set(k, this.rows.get(k) ?? this.build(item));
    }
    for (const [k, row] of this.rows) {
      if (next.has(k)) continue;
      if (row.node.contains(document.activeElement)) this.parent.closest('[tabindex]')?.focus();
      row.node.remove();
    }
    this.rows = next;
    let at = this.parent.firstElementChild;
    for (const item of items) {
      const row = next.get(this.key(item));
      row.update(item, now);
      if (row.node === at) at = at.nextElementSibling;
      else this.parent.insertBefore(row.node, at);
    }
  }
}

const whole = new Intl.NumberFormat('en-US', {maximumFractionDigits: 0});
const tenths = new Intl.NumberFormat('en-US', {maximumFractionDigits: 1});

export const count = (n) => whole.format(n);

// rate is a figure that may be unknown.
export const rate = (n) => n === null ? '–' : (n < 100 ? tenths : whole).format(n);

// share is a part of a whole in percent. What is little is not shown as none.
export const share = (part) => part > 0 && part < 0.01 ? '<1%' : part < 1 && part > 0.99 ? '>99%' : Math.round(part * 100) + '%';

// duration gives milliseconds in the units in which people say them.
export function duration(ms) {
  const s = Math.max(ms, 0) / 1000;
  if (s < 10) return s.toFixed(1) + ' s';
  if (s < 90) return Math.round(s) + ' s';
  if (s < 5400) return Math.round(s / 60) + ' min';
  if (s < 48 * 3600) return Math.round(s / 3600) + ' h';
  return Math.round(s / 86400) + ' days';
}
