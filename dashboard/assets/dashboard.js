// The page: listens to the server's snapshots and shows the latest.

import {Chart} from './chart.js';
import {Rows, clone, count, duration, element, rate, share, text} from './rows.js';

const byId = (id) => document.getElementById(id);

const state = {details: false, token: ''};
const views = new Map(); // by model, see keyOf
let history = new Map();
let latest = null;
let drawing = 0;

const keyOf = (m) => m.manager + ' ' + m.model;

// Orders

async function post(action, order) {
  try {
    const answer = await fetch(action, {
      method: 'POST',
      headers: {'Content-Type': 'application/json', 'X-Csrf-Token': state.token},
      body: JSON.stringify(order),
    });
    if (!answer.ok) complain((await answer.json().catch(() => ({}))).error ?? 'The server answered ' + answer.status);
  } catch {
    complain('The server cannot be reached.');
  }
}

function complain(problem) {
  text(byId('problem').firstElementChild, problem);
  byId('problem').hidden = false;
}

byId('problem').querySelector('button').addEventListener('click', () => { byId('problem').hidden = true; });

let toCancel = null;

function askToCancel(order) {
  toCancel = order;
  text(byId('confirm').querySelector('.id'), order.request);
  byId('confirm').showModal();
}

async function show(order) {
  const dialog = byId('detail');
  text(dialog.querySelector('.id'), order.request);
  text(dialog.querySelector('pre'), '');
  dialog.showModal();
  try {
    const answer = await (await fetch('detail?of=' + encodeURIComponent(JSON.stringify(order)))).json();
    text(dialog.querySelector('pre'), answer.text ?? answer.error);
  } catch {
    text(dialog.querySelector('pre'), 'The server cannot be reached.');
  }
}

for (const dialog of document.querySelectorAll('dialog')) {
  dialog.querySelector('.keep').addEventListener('click', () => dialog.close());
}
byId('confirm').querySelector('.danger').addEventListener('click', () => {
  byId('confirm').close();
  post('cancel', toCancel);
});

// Requests

// requestCell shows an id and under it what else is known of the request.
function requestCell() {
  const node = element('td', 'request');
  const id = element('bdi', 'id');
  const more = element('bdi', 'more');
  node.append(id, more);
  return {
    node,
    update(r, m) {
      text(id, r.id);
      if (id.title !== r.id) id.title = r.id;
      const parts = [];
      if (r.tenant) parts.push(r.tenant);
      if (r.priority) parts.push('priority ' + r.priority);
      if (r.endpoint && m.endpoints.length > 1) parts.push(r.endpoint);
      if (r.tokens) parts.push(count(r.tokens) + ' tokens');
      if (r.waits_for) parts.push('waits for ' + r.waits_for);
      text(more, parts.join(' · '));
    },
  };
}

function actionsCell(view, request, cancelable) {
  const node = element('td', 'actions');
  const order = () => ({manager: view.model.manager, model: view.model.model, request: request.id});
  const button = (label, act) => {
    const b = element('button');
    b.type = 'button';
    text(b, label);
    b.setAttribute('aria-label', label + ' request ' + request.id);
    b.addEventListener('click', act);
    node.append(b);
  };
  if (!request.inexact) {
    if (state.details) button('Show', () => show(order()));
    if (view.model.controls && cancelable) button('Cancel', () => askToCancel(order()));
  }
  return node;
}

// requestRows fills a table of requests; cells gives its columns, each a class and a
// function of request and time, or null for the request itself.
function requestRows(view, list, cells, cancelable) {
  const box = view.node.querySelector('.' + list);
  box.setAttribute('aria-label', view.model.model + ': ' + box.parentElement.querySelector('h3').firstChild.data.trim());
  return new Rows(box.querySelector('tbody'), (r) => r.id + ' ' + r.created, (first) => {
    const node = element('tr');
    const updates = cells.map((cell) => {
      if (cell === null) {
        const request = requestCell();
        node.append(request.node);
        return (r) => request.update(r, view.model);
      }
      const td = element('td', cell.name);
      node.append(td);
      return (r, now) => text(td, cell.value(r, now));
    });
    node.append(actionsCell(view, first, cancelable));
    return {node, update: (r, now) => updates.forEach((update) => update(r, now))};
  });
}

const until = (at, now) => at === 0 || at === undefined ? '–' : at <= now ? 'now' : 'in ' + duration(at - now);

// Limits

function gauge() {
  const node = clone('gauge');
  const bar = node.querySelector('.bar');
  const [name, used] = node.querySelector('.name').children;
  return {
    node,
    update(g, now) {
      const share = Math.min(g.used / g.amount, 1);
      text(name, g.name + (g.shared ? ' (shared)' : ''));
      text(used, count(g.used) + ' used');
      bar.firstElementChild.style.width = share * 100 + '%';
      bar.classList.toggle('full', g.available === 0);
      bar.classList.toggle('over', g.used > g.amount);
      bar.setAttribute('aria-label', g.name);
      bar.setAttribute('aria-valuemax', g.amount);
      bar.setAttribute('aria-valuenow', Math.min(g.used, g.amount));
      text(node.querySelector('.available'), count(g.available) + ' available');
      text(node.querySelector('.reset'), g.reset_at ? 'resets ' + until(g.reset_at, now) : '');
    },
  };
}

// kinds are how calls end, in the words of the page.
const kinds = [['served', 'served'], ['refusals', 'refused'], ['failures', 'failed'], ['faults', 'failed by its own fault']];

// health says how calls to an endpoint ended of late and how fast output comes; '' when neither
// is known. What ended long ago has faded to nothing.
function health(e) {
  const sum = kinds.reduce((sum, [kind]) => sum + e.recent[kind], 0);
  const what = [];
  if (sum >= 0.05) {
    const parts = kinds.filter(([kind]) => kind === 'served' || e.recent[kind] > 0).map(([kind, word]) => share(e.recent[kind] / sum) + ' ' + word);
    what.push('Of late: ' + parts.join(', ') + '.');
  }
  if (e.first_output > 0) what.push(`First output after ${duration(e.first_output)}.`);
  return what.join(' ');
}

// out reports whether an endpoint is held out, by the queue or by its breaker.
const out = (e) => e.held_out || e.open;

// say shows a sentence, or nothing.
function say(p, what) {
  text(p, what);
  p.hidden = what === '';
}

function endpoint(view) {
  const node = clone('endpoint');
  const held = node.querySelector('.held');
  const gauges = new Rows(node.querySelector('.gauges'), (g) => g.name + g.shared, gauge);
  return {
    node,
    update(e, now) {
      text(node.querySelector('bdi'), view.model.endpoints.length > 1 ? e.name : 'Limits');
      text(node.querySelector('.count'), view.model.endpoints.length > 1 ? `${count(e.processing)} of ${count(e.slots)} running` : '');
      held.hidden = !out(e);
      if (out(e)) {
        const [before, reason, after] = held.children;
        const breaker = 'its circuit breaker lets no call through';
        text(before, 'Held out: ');
        text(reason, e.held_out_reason || (e.held_out ? 'calls fail there' : breaker));
        text(after, (e.open && e.held_out ? ', and ' + breaker : '') + (e.next_probe ? ', next probe ' + until(e.next_probe, now) : ''));
      }
      say(node.querySelector('.paused'), e.paused_until > now ? `Paused by the provider, ends ${until(e.paused_until, now)}. ${e.pause_reason ?? ''}` : '');
      say(node.querySelector('.health'), health(e));
      gauges.update(e.limits, now);
    },
  };
}

// badges say in what state a model is; the first one is the most telling.
function badges(m, now) {
  const held = m.endpoints.filter(out).length;
  const all = [];
  if (m.closed) all.push({name: 'bad', label: 'shut down'});
  if (m.paused) all.push({name: 'warn', label: 'paused'});
  if (m.paused_until > now) all.push({name: 'warn', label: 'paused by the provider, ends ' + until(m.paused_until, now)});
  if (held) all.push({name: 'bad', label: m.endpoints.length > 1 ? `held out: ${held} of ${m.endpoints.length} endpoints` : 'held out'});
  if (all.length === 0) all.push({name: 'good', label: m.processing || m.pending ? 'running' : 'idle'});
  return all;
}

// Models

const counts = [
  ['Waiting', 'pending', (m) => count(m.pending)],
  ['Running', 'processing', (m) => count(m.processing)],
  ['Slots', 'slots', (m) => count(m.slots)],
  ['Completed', 'completed', (m) => count(m.completed)],
  ['Failed', 'failed', (m) => count(m.failed)],
  ['Canceled', 'canceled', (m) => count(m.canceled)],
  ['Retries', 'retries', (m) => count(m.retries)],
  ['Input tokens', 'input', (m) => count(m.input_tokens)],
  ['Output tokens', 'output', (m) => count(m.output_tokens)],
  ['Hedges', 'hedges', (m) => count(m.hedges), (m) => m.hedges > 0],
  ['Abandoned', 'abandoned', (m) => count(m.abandoned), (m) => m.abandoned > 0],
  ['Dropped events', 'dropped', (m) => count(m.dropped_events), (m) => m.dropped_events > 0],
];

let sections = 0;

class ModelView {
  constructor(m) {
    this.model = m;
    this.node = clone('model');
    this.node.id = 'model-' + ++sections;
    const title = this.node.querySelector('h2');
    title.id = this.node.id + '-title';
    this.node.setAttribute('aria-labelledby', title.id);
    text(title.querySelector('bdi'), m.model);

    this.counts = counts.map(([label, name, value, shown]) => {
      const box = element('div');
      const dd = element('dd', name);
      const dt = element('dt');
      text(dt, label);
      box.append(dt, dd);
      this.node.querySelector('.counts').append(box);
      return (now) => {
        box.hidden = shown !== undefined && !shown(now);
        text(dd, value(now));
      };
    });
    this.badges = new Rows(this.node.querySelector('.badges'), (b) => b.name + b.label.split(',')[0], (b) => {
      const node = element('li', b.name);
      return {node, update: (b) => text(node, b.label)};
    });
    this.chart = new Chart(this.node.querySelector('figure'), m.model);
    this.endpoints = new Rows(this.node.querySelector('.endpoints'), (e) => e.name, () => endpoint(this));
    this.running = requestRows(this, 'running', [
      null,
      {name: 'n', value: (r, now) => duration(now - r.started)},
      {name: 'n wide', value: (r) => count(r.attempts)},
    ], true);
    this.waiting = requestRows(this, 'waiting', [
      {name: 'n', value: (r) => r.position ? count(r.position) : 'retry'},
      null,
      {name: 'n', value: (r, now) => duration(now - r.created)},
      {name: 'n', value: (r, now) => r.expected ? until(r.expected, now) : r.waits_for === 'resume' ? 'on resume' : '–'},
    ], true);
    this.failures = requestRows(this, 'failures', [
      null,
      {name: 'error', value: (r) => r.error ?? ''},
      {name: 'n', value: (r, now) => duration(now - r.finished)},
    ], false);

    this.node.querySelector('.head .buttons').hidden = !m.controls;
    for (const action of ['pause', 'resume']) {
      const button = this.node.querySelector('.' + action);
      button.setAttribute('aria-label', (action === 'pause' ? 'Pause ' : 'Resume ') + m.model);
      button.addEventListener('click', () => {
        if (button.getAttribute('aria-disabled') !== 'true') post(action, {manager: m.manager, model: m.model});
      });
    }
  }

  update(m, now) {
    this.model = m;
    const twin = latest.models.some((other) => other.model === m.model && other.manager !== m.manager);
    text(this.node.querySelector('.manager'), twin ? 'manager ' + (m.manager + 1) : '');
    this.badges.update(badges(m, now), now);
    this.counts.forEach((update) => update(m));
    this.chart.draw();
    this.endpoints.update(m.endpoints, now);
    this.list('running', m.running, m.processing, now);
    this.list('waiting', m.waiting, m.pending, now);
    this.list('failures', m.failures, m.failures.length, now);
    say(this.node.querySelector('.fell'), m.fallbacks ? `${count(m.fallbacks)} went to a fallback, the latest because: ${m.fallback_reason ?? ''}` : '');
    say(this.node.querySelector('.usage'), m.no_usage ? 'Token limits are not enforced, because no call reports its usage: ' + m.no_usage : '');
    // They stay focusable, so that a press does not lose the keyboard's place.
    this.node.querySelector('.pause').setAttribute('aria-disabled', m.paused);
    this.node.querySelector('.resume').setAttribute('aria-disabled', !m.paused && !m.endpoints.some((e) => e.paused_until > now));
  }

  list(name, items, total, now) {
    const box = this.node.querySelector('.' + name);
    this[name].update(items, now);
    box.querySelector('table').hidden = items.length === 0;
    box.querySelector('.none').hidden = items.length > 0;
    text(box.parentElement.querySelector('.count'), items.length < total ? `${count(total)}, the first ${count(items.length)} shown` : total ? count(total) : '');
  }

  remove() {
    this.chart.remove();
    this.node.remove();
  }
}

const overview = new Rows(byId('overview').querySelector('tbody'), keyOf, (m) => {
  const node = element('tr');
  const name = element('td', 'request');
  const link = element('a');
  const bdi = element('bdi');
  link.append(bdi);
  name.append(link);
  const cells = ['wide', 'n', 'n', 'n', 'n'].map((c) => element('td', c));
  node.append(name, ...cells);
  text(bdi, m.model);
  return {
    node,
    update(m, now) {
      link.href = '#' + views.get(keyOf(m)).node.id;
      const values = [badges(m, now)[0].label, count(m.pending), count(m.processing), rate(m.throughput), m.wait === null ? '–' : duration(m.wait * 1000)];
      cells.forEach((cell, i) => text(cell, values[i]));
    },
  };
});

const models = new Rows(byId('models'), keyOf, (m) => views.get(keyOf(m)));

function draw() {
  drawing = 0;
  const {time, models: all} = latest;
  models.update(all, time);
  overview.update(all, time);
  byId('overview').hidden = all.length < 2;
  byId('empty').hidden = all.length > 0;
  document.documentElement.dataset.drawn = time;
}

// take notes a snapshot. It is drawn with the next frame: in a hidden tab not before
// somebody looks, and of several that arrive at once only the last.
function take(snapshot) {
  latest = snapshot;
  const known = new Set();
  for (const m of snapshot.models) {
    const k = keyOf(m);
    known.add(k);
    if (!views.has(k)) {
      views.set(k, new ModelView(m));
      views.get(k).chart.replace(history.get(k));
    }
    views.get(k).chart.add(snapshot.time / 1000, m.throughput, m.wait);
  }
  for (const [k, view] of views) {
    if (known.has(k)) continue;
    view.remove();
    views.delete(k);
    models.rows.delete(k);
  }
  drawing ||= requestAnimationFrame(draw);
}

// The connection

const silence = 10_000; // ms without an event, after which the connection counts as lost
let source = null;
let retry = 0;
let watchdog = 0;
let wait = 1000;

function status(label) {
  text(byId('status'), label);
  byId('status').className = label;
}

function alive() {
  clearTimeout(watchdog);
  watchdog = setTimeout(lost, silence);
}

// lost closes what is left of the connection and tries again, ever more seldom.
function lost() {
  source.close();
  status('reconnecting');
  clearTimeout(watchdog);
  clearTimeout(retry);
  retry = setTimeout(connect, wait);
  wait = Math.min(wait * 2, 10_000);
}

function connect() {
  source = new EventSource('stream');
  alive();
  source.addEventListener('error', lost);
  source.addEventListener('hello', (event) => {
    const hello = JSON.parse(event.data);
    alive();
    wait = 1000;
    Object.assign(state, {details: hello.details, token: hello.token ?? ''});
    history = new Map(hello.history.map((past) => [keyOf(past), past]));
    // The program may be another one now: everything is built anew.
    for (const view of views.values()) view.remove();
    views.clear();
    models.update([], 0);
    overview.update([], 0);
    status('live');
  });
  source.addEventListener('snapshot', (event) => {
    alive();
    take(JSON.parse(event.data));
  });
}

connect();
