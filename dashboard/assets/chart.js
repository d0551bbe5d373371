// The chart of a model: throughput on the left axis, wait on the right one.

import {duration, rate, text} from './rows.js';

const maxPoints = 900; // 15 minutes
const longestGap = 5; // seconds; beyond it the lines break
const dark = matchMedia('(prefers-color-scheme: dark)');

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const seconds = (s) => s === null || s === undefined ? '–' : duration(s * 1000);
const perMinute = (n) => n === null || n === undefined ? '–' : rate(n) + '/min';

export class Chart {
  constructor(figure, name) {
    this.name = name;
    this.box = figure.querySelector('.chart');
    this.labels = [...figure.querySelectorAll('.series b')];
    this.at = figure.querySelector('.at');
    this.data = [[], [], []];
    this.plot = null;
    this.resized = new ResizeObserver(() => this.fit());
    this.resized.observe(this.box);
    this.recolor = () => this.plot?.redraw(false, true);
    dark.addEventListener('change', this.recolor);
  }

  remove() {
    this.resized.disconnect();
    dark.removeEventListener('change', this.recolor);
    this.plot?.destroy();
  }

  // replace takes a whole history.
  replace(past) {
    this.data = past ? [past.times, past.throughput, past.wait] : [[], [], []];
    this.changed = true;
  }

  // add appends the figures of a snapshot, which may be in the history already.
  add(time, throughput, wait) {
    const [times, first, second] = this.data;
    const last = times.at(-1);
    if (last !== undefined && time < last + 0.9) return;
    if (last !== undefined && time > last + longestGap) {
      times.push(last + 1);
      first.push(null);
      second.push(null);
    }
    times.push(time);
    first.push(throughput);
    second.push(wait);
    if (times.length > maxPoints) for (const column of this.data) column.splice(0, column.length - maxPoints);
    this.changed = true;
  }

  draw() {
    if (!this.changed || this.data[0].length === 0) return;
    this.changed = false;
    if (this.plot) this.plot.setData(this.data);
    else this.create();
    this.say();
  }

  // say shows the figures under the pointer, or else the latest.
  say() {
    const under = this.plot.cursor.idx;
    const [times, throughput, wait] = this.data;
    const i = under ?? times.length - 1;
    text(this.labels[0], perMinute(throughput[i]));
    text(this.labels[1], seconds(wait[i]));
    text(this.at, under === null || under === undefined ? '' : 'at ' + new Date(times[i] * 1000).toLocaleTimeString());
    const label = `${this.name}: throughput ${perMinute(throughput.at(-1))}, wait ${seconds(wait.at(-1))}`;
    if (this.box.getAttribute('aria-label') !== label) this.box.setAttribute('aria-label', label);
  }

  size() {
    return {width: Math.max(this.box.clientWidth, 120), height: this.box.clientHeight || 200};
  }

  fit() {
    if (this.plot && this.plot.width !== this.size().width) this.plot.setSize(this.size());
  }

  create() {
    const muted = () => color('--muted');
    const grid = {stroke: () => color('--line'), width: 1};
    const font = '11px system-ui, sans-serif';
    const axis = {stroke: muted, font, ticks: {show: false}, gap: 4};
    const range = (plot, low, high) => [0, Math.max(high * 1.1, 1)];
    this.plot = new uPlot({
      ...this.size(),
      legend: {show: false},
      cursor: {y: false, drag: {x: false, y: false}, points: {show: false}},
      hooks: {setCursor: [(plot) => { if (plot === this.plot) this.say(); }]},
      // At least two minutes, so that a new chart is not a few points far apart.
      scales: {x: {range: (plot, low, high) => [Math.min(low, high - 120), high]}, throughput: {range}, wait: {range}},
      axes: [
        {...axis, grid, size: 26, space: 70, values: (plot, ticks) => ticks.map((t) => clock(t, ticks))},
        {...axis, grid, scale: 'throughput', size: 44, space: 36, values: (plot, ticks) => ticks.map(short)},
        {...axis, grid: {show: false}, scale: 'wait', side: 1, size: 44, space: 36, values: (plot, ticks) => ticks.map(brief)},
      ],
      series: [
        {},
        {scale: 'throughput', stroke: () => color('--throughput'), fill: () => color('--throughput-fill'), width: 2, points: {show: false}},
        {scale: 'wait', stroke: () => color('--wait'), width: 2, dash: [6, 4], points: {show: false}},
      ],
    }, this.data, this.box);
  }
}

// clock names a time on the axis; the seconds only where the ticks are that close.
function clock(t, ticks) {
  const close = ticks.length > 1 && ticks[1] - ticks[0] < 60;
  return new Date(t * 1000).toLocaleTimeString([], {hour: '2-digit', minute: '2-digit', second: close ? '2-digit' : undefined, hour12: false});
}

// short writes a number in the little room of an axis.
function short(n) {
  if (n >= 1e6) return +(n / 1e6).toFixed(1) + 'M';
  if (n >= 1e3) return +(n / 1e3).toFixed(1) + 'k';
  return String(+n.toFixed(2));
}

function brief(s) {
  if (s >= 5400) return +(s / 3600).toFixed(1) + 'h';
  if (s >= 90) return +(s / 60).toFixed(1) + 'm';
  return +s.toFixed(2) + 's';
}
