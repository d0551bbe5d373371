'use strict';
(() => {
  const page = 100; // records that are drawn at once
  const $ = (id) => document.getElementById(id);
  const {priced, records} = JSON.parse($('data').textContent);
  const [find, show, model, sort, list, more, sums] = ['find', 'show', 'model', 'sort', 'list', 'more', 'sums'].map($);
  const controls = {find, show, model, sort};
  const count = (n) => n.toLocaleString('en-US');
  const usd = (n) => '$' + n.toFixed(n > 0 && n < 1 ? 6 : 2);
  const span = (ms) => ms < 1000 ? Math.round(ms) + ' ms' : (ms / 1000).toFixed(ms < 100000 ? 1 : 0) + ' s';
  const node = (name, className, text) => {
    const e = document.createElement(name);
    e.className = className;
    e.textContent = text; // never HTML: answers are of strangers
    return e;
  };

  // A record is [id, model, failure, text, input, output, cost or null, milliseconds, line].
  const folded = [];
  const hay = (i) => folded[i] ??= (records[i][0] + '\n' + records[i][3]).toLowerCase();
  let found = [], drawn = 0;

  const choices = (select, values, label) => {
    const counts = new Map();
    for (const v of values) if (v) counts.set(v, (counts.get(v) ?? 0) + 1);
    for (const [v, n] of [...counts].sort((a, b) => b[1] - a[1])) {
      const o = node('option', '', `${label}${v} (${count(n)})`);
      o.value = '=' + v;
      select.append(o);
    }
  };
  choices(show, records.map((r) => r[2]), 'failed: ');
  choices(model, records.map((r) => r[1]), '');

  const orders = {
    file: null,
    input: (a, b) => a[8] - b[8],
    tokens: (a, b) => b[4] + b[5] - a[4] - a[5],
    cost: (a, b) => (b[6] ?? -1) - (a[6] ?? -1),
    latency: (a, b) => b[7] - a[7],
  };

  function row(r) {
    const e = node('details', r[2] ? 'failed' : '', '');
    const s = node('summary', '', '');
    const cell = (className, name, text, title) => {
      const c = node('span', className, text);
      if (name) c.dataset.name = name;
      if (title) c.title = title;
      s.append(c);
    };
    cell('id', '', r[0], r[0]);
    cell('model', '', r[1], r[1]);
    cell('state', '', r[2] || 'answered', r[2]);
    cell('number', 'in', count(r[4]));
    cell('number', 'out', count(r[5]));
    cell('number', 'cost', r[6] === null ? '–' : usd(r[6]));
    cell('number', 'took', span(r[7]));
    cell('start', '', r[3].slice(0, 200));
    e.append(s);
    e.addEventListener('toggle', () => {
      if (e.open && e.childElementCount === 1) e.append(node('pre', '', r[3] || '(no text)'));
    });
    return e;
  }

  function draw() {
    const part = document.createDocumentFragment();
    for (const end = Math.min(drawn + page, found.length); drawn < end; drawn++) part.append(row(found[drawn]));
    list.append(part);
    more.hidden = drawn === found.length;
    more.textContent = `Show more (${count(found.length - drawn)} left)`;
  }

  function update() {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    found = records.filter((r, i) =>
      (show.value === '' || (show.value === 'answered' ? !r[2] : show.value === 'failed' ? r[2] : '=' + r[2] === show.value)) &&
      (model.value === '' || '=' + r[1] === model.value) &&
      words.every((w) => hay(i).includes(w)));
    if (orders[sort.value]) found.sort(orders[sort.value]);
    let failed = 0, input = 0, output = 0, cost = 0, unpriced = 0;
    for (const r of found) {
      failed += r[2] ? 1 : 0;
      input += r[4];
      output += r[5];
      cost += r[6] ?? 0;
      unpriced += r[6] === null ? 1 : 0;
    }
    let text = `${count(found.length)} of ${count(records.length)} requests: ${count(found.length - failed)} answered, ${count(failed)} failed · ${count(input)} tokens in, ${count(output)} out`;
    if (priced) text += ` · ${usd(cost)}` + (unpriced ? ` (${count(unpriced)} without a price)` : '');
    sums.textContent = text;
    list.replaceChildren();
    drawn = 0;
    $('none').hidden = found.length > 0;
    draw();
    if (found.length === 1) list.firstChild.open = true;
  }

  // The filter stands in the address, so that it can be kept and sent.
  function restore() {
    const state = new URLSearchParams(location.hash.slice(1));
    for (const [name, e] of Object.entries(controls)) {
      e.value = state.get(name) ?? (name === 'sort' ? 'file' : '');
      if (e.selectedIndex === -1) e.selectedIndex = 0;
    }
    update();
  }
  function changed() {
    const state = new URLSearchParams();
    for (const [name, e] of Object.entries(controls)) if (e.value !== (name === 'sort' ? 'file' : '')) state.set(name, e.value);
    history.replaceState(null, '', '#' + state);
    update();
  }
  let soon;
  find.addEventListener('input', () => { clearTimeout(soon); soon = setTimeout(changed, 120); });
  for (const e of [show, model, sort]) e.addEventListener('change', changed);
  document.querySelector('form').addEventListener('submit', (e) => { e.preventDefault(); clearTimeout(soon); changed(); });
  more.addEventListener('click', draw);
  addEventListener('hashchange', restore);
  restore();
})();
