// The latent space, to explore: fills <div id="explorer" data-folder="..."> with a map of points and their pictures.
//
// The folder holds what `write_explorer` (nbs/09_explorer.ipynb) made: data.js, drawn.webp, real.webp, path00.webp, ...
// The map is drawn by Apache ECharts, which the page loads before this file. Nothing is asked of another host.
// For tests, and for the curious, `window.explorer` is what `start` returns at its end.
'use strict';

(() => {
  // -- words and looks ------------------------------------------------------------------------------------------------
  const disc = r => `M${10 - r} 10 A${r} ${r} 0 1 1 ${10 + r} 10 A${r} ${r} 0 1 1 ${10 - r} 10 Z`;
  const STAR = 'M10 0 L12.4 7.3 H20 L13.8 11.8 L16.2 19 L10 14.6 L3.8 19 L6.2 11.8 L0 7.3 H7.6 Z';
  const PLUS = 'M7 1 H13 V7 H19 V13 H13 V19 H7 V13 H1 V7 H7 Z';
  const CROSS = 'M3 1 L10 8 L17 1 L19 3 L12 10 L19 17 L17 19 L10 12 L3 19 L1 17 L8 10 L1 3 Z';
  const KINDS = {   // a symbol is drawn in a square of 20; `size` is in pixels, on a wide map
    image: {many: 'training images', one: 'image', size: 5, path: disc(8), opacity: .6},
    boundary: {many: 'boundary images', one: 'boundary image', size: 9, path: disc(7), hollow: true},
    outlier: {many: 'outliers', one: 'outlier', size: 12, path: 'M10 1 L19 10 L10 19 L1 10 Z', edge: true},
    inlier: {many: 'inliers', one: 'inlier', size: 8, path: 'M10 18 L2 4 H18 Z', opacity: .8},
    drift: {many: 'drift outliers', one: 'drift outlier', size: 9, path: 'M10 2 L18 16 H2 Z', opacity: .9},
    centre: {many: 'class centres', one: 'centre', size: 12, path: PLUS, edge: true},
    word: {many: 'class words', one: 'word', size: 17, path: STAR, edge: true},
    noun: {many: 'other nouns', one: 'other noun', size: 8, path: CROSS},
  };
  const OFF_AT_FIRST = ['boundary', 'drift'];
  const LIGHT = ['#3f66a8', '#c2602a', '#3a8a50', '#b83a40', '#6c5ba7', '#7d6248', '#bb4f99', '#5f6368'];
  const DARK = ['#82a8e8', '#f0a070', '#74cc8c', '#f08a8e', '#b0a2e6', '#cdb092', '#f0a3d6', '#bdc1c6'];
  const REACH = {mouse: 14, touch: 26};   // how near to a point one must be to mean it, in pixels

  const SHELL = `
    <div class="ex-slider">
      <label for="ex-sigma">Noise σ of the outliers</label>
      <input type="range" id="ex-sigma" min="0" step="1"><output for="ex-sigma" id="ex-value"></output>
    </div>
    <p id="ex-summary" aria-live="polite"></p>
    <div class="ex-body">
      <div class="ex-map">
        <div id="ex-chart" tabindex="0" role="application" aria-label="Map of the latent space"
          aria-describedby="ex-keys"></div>
        <div class="ex-zoom">
          <button type="button" data-zoom="0.6" aria-label="zoom in" title="zoom in">+</button>
          <button type="button" data-zoom="1.67" aria-label="zoom out" title="zoom out">−</button>
          <button type="button" data-zoom="1000" aria-label="all of the map" title="all of the map">all</button>
        </div>
        <p id="ex-keys" class="ex-hint">Point at a dot, or tap it. With the keyboard: arrow keys go from dot to dot,
          Enter chooses one. Ctrl and the wheel zoom.</p>
      </div>
      <div class="ex-side">
        <section id="ex-point" aria-label="A point and its picture"></section>
        <fieldset class="ex-switches" id="ex-kinds"><legend>Show</legend></fieldset>
        <fieldset class="ex-switches" id="ex-classes"><legend>Classes</legend></fieldset>
      </div>
    </div>
    <h3>The path between two points</h3>
    <p class="ex-ends">
      <label for="ex-from">From</label> <select id="ex-from"></select>
      <label for="ex-to">to</label> <select id="ex-to"></select> <button type="button" id="ex-clear">clear</button>
    </p>
    <p id="ex-path" class="ex-hint" aria-live="polite"></p>
    <ol id="ex-strip"></ol>
    <h3 id="ex-title"></h3>
    <p class="ex-hint" id="ex-frames"></p>
    <div id="ex-kept"></div>
    <p id="ex-made" class="ex-hint"></p>
    <p id="ex-spoken" aria-live="polite"></p>`;

  const number = x => x.toFixed(2);
  const dark = () => [document.documentElement, document.body].some(e => e.classList.contains('quarto-dark'));

  // An element with attributes and children: h('p', {class: 'x', onclick: f}, 'words', child, ...)
  function h(name, attributes = {}, ...children) {
    const svg = ['svg', 'path'].includes(name);
    const e = svg ? document.createElementNS('http://www.w3.org/2000/svg', name) : document.createElement(name);
    for (const [k, v] of Object.entries(attributes)) {
      if (k.startsWith('on')) e.addEventListener(k.slice(2), v);
      else if (v !== false && v != null) e.setAttribute(k, v === true ? '' : v);
    }
    e.append(...children.filter(Boolean));
    return e;
  }

  function icon(kind) {
    const {path, hollow} = KINDS[kind], [fill, stroke] = hollow ? ['none', 'currentColor'] : ['currentColor', 'none'];
    return h('svg', {viewBox: '0 0 20 20', 'aria-hidden': 'true', class: 'ex-icon'},
      h('path', {d: path, fill, stroke, 'stroke-width': 3}));
  }

  // -- data -----------------------------------------------------------------------------------------------------------
  // The table of data.js, a point an object. Coordinates and distances come in thousandths.
  function pointsOf(data) {
    const c = data.points, nouns = data.kinds.indexOf('noun'), first = c.kind.indexOf(nouns);
    return c.kind.map((k, id) => ({
      id, kind: data.kinds[k], label: c.label[id], noun: k === nouns ? data.nouns[id - first] : null,
      x: c.at[2 * id] / 1000, y: c.at[2 * id + 1] / 1000,   // on the map
      own: c.own[id] / 1000,                                // distance to the own class,
      near: c.near[id], nearest: c.nearest[id] / 1000,      // the nearest class, and the distance to that
      sigma: c.sigma[id], start: c.start[id],               // of an outlier: which σ, and where it started
      station: c.station[id],                               // the marked point that stands in for it on a path
      said: c.said[id],                                     // what a classifier takes its picture for; -1: no class
    }));
  }

  function load(src) {
    return new Promise((done, failed) => {
      const onerror = () => failed(new Error(`${src} cannot be read`));
      document.head.append(h('script', {src, onload: done, onerror}));
    });
  }

  // -- the page -------------------------------------------------------------------------------------------------------
  function start(root, folder, data) {
    root.innerHTML = SHELL;
    const $ = id => document.getElementById(`ex-${id}`);
    const {classes, sigmas, about} = data, points = pointsOf(data), judged = about.judge != null;
    const isPhoto = p => p.kind === 'image' || p.kind === 'boundary', photos = points.filter(isPhoto).length;
    const state = {
      sigma: sigmas.indexOf(about.sigma),                                  // which of `sigmas`
      kinds: new Set(data.kinds.filter(k => !OFF_AT_FIRST.includes(k))),   // what is switched on
      classes: new Set(classes.keys()),
      shown: null,                                                         // the point in the panel
      chosen: [],                                                          // at most two points, the ends of a path
    };
    const visible = p => state.kinds.has(p.kind) && (p.label < 0 || state.classes.has(p.label))
      && (p.kind !== 'outlier' || p.sigma === state.sigma);

    function colour(label) {
      if (label < 0) return dark() ? '#9aa0a6' : '#767b82';
      if (classes.length > 8) return `hsl(${360 * label / classes.length} 60% ${dark() ? 70 : 42}%)`;
      return (dark() ? DARK : LIGHT)[label];
    }

    function title(p) {
      if (p.kind === 'noun') return `“${p.noun}”, another noun`;
      if (p.kind === 'word') return `the word “${classes[p.label]}”`;
      return p.kind === 'centre' ? `centre of ${classes[p.label]}` : `${classes[p.label]}, ${KINDS[p.kind].one}`;
    }

    const article = word => /^[aeiou]/.test(word) ? 'an' : 'a';
    const verdict = said => said < 0 ? 'refused' : `taken for ${article(classes[said])} ${classes[said]}`;

    // A picture: tile `i` of a sheet that holds `count` tiles in `columns`; without a label, mere decoration
    function tile(sheet, i, columns, count, label) {
      const rows = Math.ceil(count / columns), share = (at, n) => n > 1 ? 100 * at / (n - 1) : 0;
      const e = h('span', {class: 'ex-tile', ...label ? {role: 'img', 'aria-label': label} : {'aria-hidden': 'true'}});
      e.style.backgroundImage = `url("${folder}/${sheet}")`;
      e.style.backgroundSize = `${100 * columns}% ${100 * rows}%`;
      e.style.backgroundPosition = `${share(i % columns, columns)}% ${share(Math.floor(i / columns), rows)}%`;
      return e;
    }
    const drawn = (p, label) => tile('drawn.webp', p.id, data.columns, points.length, label);
    const photo = (p, label) => tile('real.webp', p.id, data.columns, photos, label);

    // -- the chart ----------------------------------------------------------------------------------------------------
    const canvas = $('chart'), chart = echarts.init(canvas);
    const still = window.matchMedia('(prefers-reduced-motion: reduce)').matches;
    const hole = data.hole / 1000, rings = [0, .5, 1, Math.SQRT2];   // the inner circle; distances that get a circle
    const reach = Math.max(hole + 1.5, ...points.map(p => Math.hypot(p.x, p.y))) + .08;
    function tinted(name) {   // a colour of explore.css, or that of the text around
      const style = getComputedStyle(root);
      return name === 'text' ? style.color : style.getPropertyValue(`--ex-${name}`).trim();
    }
    const scale = () => Math.min(1.1, Math.max(.72, canvas.clientWidth / 560));
    const FIRST = rings.length + 4;   // how many series stand before those of the kinds

    const hidden = {silent: true, symbolSize: 1, itemStyle: {color: 'transparent'}, animation: false};
    const line = (id, more) => ({id, type: 'line', silent: true, showSymbol: false, animation: false, z: 2, ...more});
    const around = (at, size, borderColor, borderWidth = 2) =>
      ({value: at, symbolSize: size * scale(), itemStyle: {color: 'transparent', borderColor, borderWidth}});

    function ringsAndNumbers() {
      const round = [...Array(121).keys()].map(i => [Math.sin(i * Math.PI / 60), Math.cos(i * Math.PI / 60)]);
      const gap = [Math.sin(Math.PI / classes.length), Math.cos(Math.PI / classes.length)];   // between two classes
      const said = {show: true, position: 'inside', color: tinted('text'), backgroundColor: tinted('background'),
        padding: [1, 3], borderRadius: 3, fontSize: 11, opacity: .85};
      const at = ([x, y], d) => [x * (hole + d), y * (hole + d)];
      const numbers = rings.map(d => ({value: at(gap, d), label: {...said, formatter: d ? number(d) : '0'}}));
      return [
        ...rings.map((d, i) => line(`ring${i}`, {z: 1, data: round.map(xy => at(xy, d)),
          lineStyle: {color: tinted('faint'), width: 1, type: i ? 'dashed' : 'solid'}})),
        {id: 'numbers', type: 'scatter', z: 20, ...hidden, data: numbers},
      ];
    }

    function names() {   // of the classes, written along the radius
      if (classes.length > 12) return [];
      return classes.map((formatter, i) => {
        const [x, y] = [0, 1].map(d => data.corners[2 * i + d] / 1000), left = x < -.001;
        const turn = Math.atan2(y, x) * 180 / Math.PI - (left ? 180 : 0);
        const label = {show: true, formatter, color: colour(i), rotate: turn, align: left ? 'left' : 'right',
          verticalAlign: 'middle', position: [0, 0], fontWeight: 600, opacity: state.classes.has(i) ? 1 : .35,
          fontSize: Math.round(13 * Math.min(1, 1.08 * scale()))};
        return {value: [x * (hole - .05), y * (hole - .05)], label};
      });
    }

    function seriesOf(kind) {
      const {size, path, hollow, edge, opacity = 1} = KINDS[kind];
      const looks = p => hollow ? {opacity, color: 'transparent', borderColor: colour(p.label), borderWidth: 1.5}
        : {opacity, color: colour(p.label), borderColor: tinted('background'), borderWidth: edge ? 1 : 0};
      const name = p => `${p.label}:${kind === 'outlier' ? p.start : p.id}`;   // an outlier's is the same at all σ
      return {
        id: kind, type: 'scatter', silent: true, symbol: `path://${path}`, symbolSize: size * scale(),
        z: 3 + data.kinds.indexOf(kind), animation: kind === 'outlier' && !still, animationDurationUpdate: 600,
        data: points.filter(p => p.kind === kind && visible(p))
          .map(p => ({id: name(p), value: [p.x, p.y], itemStyle: looks(p)})),
      };
    }

    // What the mouse changes: rings around the shown and the chosen points, the trail of an outlier, the path
    function marks() {
      const at = id => [points[id].x, points[id].y];
      const rounds = state.chosen.map(id => around(at(id), 22, tinted('accent')));
      if (state.shown != null) rounds.push(around(at(state.shown), 17, tinted('text')));
      return [{id: 'trail', data: trail()}, {id: 'path', data: pathLine()}, {id: 'marks', data: rounds}];
    }

    function render() {
      dots.forEach((d, i) => { d.style.backgroundColor = colour(i); });
      const axis = {type: 'value', min: -reach, max: reach, show: false}, near = zoomedIn();
      const zoom = axis => ({id: axis, type: 'inside', [axis]: 0, filterMode: 'none', zoomOnMouseWheel: 'ctrl',
        moveOnMouseWheel: false, moveOnMouseMove: near, preventDefaultMouseMove: near});
      const accent = {color: tinted('accent')}, accented = {itemStyle: accent, lineStyle: accent};
      chart.setOption({
        grid: {left: 0, right: 0, top: 0, bottom: 0}, xAxis: axis, yAxis: axis,
        dataZoom: [zoom('xAxisIndex'), zoom('yAxisIndex')],
        tooltip: {trigger: 'item', triggerOn: 'none', confine: true, padding: 6, transitionDuration: 0,
          backgroundColor: tinted('background'), borderColor: tinted('faint'),
          textStyle: {color: tinted('text'), fontSize: 13}, formatter: () => state.shown == null ? '' : tip()},
        series: [
          ...ringsAndNumbers(),
          {id: 'names', type: 'scatter', z: 2, ...hidden, data: names()},
          line('trail', {lineStyle: {color: tinted('text'), width: 1.2, type: 'dotted'}}),
          line('path', {z: 12, showSymbol: true, symbol: 'circle', symbolSize: 5, ...accented}),
          ...data.kinds.map(seriesOf),
          {id: 'marks', type: 'scatter', silent: true, animation: false, z: 15, symbol: 'circle'},
        ],
      });
      chart.setOption({series: marks()});
    }

    // -- what moves with σ --------------------------------------------------------------------------------------------
    const outliers = () => points.filter(p =>
      p.kind === 'outlier' && p.sigma === state.sigma && state.classes.has(p.label));
    const lineage = p => points.filter(q => q.kind === 'outlier' && q.label === p.label && q.start === p.start);
    function trail() {   // from its start through all σ at which an outlier is kept
      const p = points[state.shown];
      return p?.kind === 'outlier' ? [points[p.start], ...lineage(p)].map(q => [q.x, q.y]) : [];
    }

    function summarise() {
      const now = outliers(), n = now.length, σ = sigmas[state.sigma];
      const mean = k => number(now.reduce((sum, p) => sum + p[k], 0) / n);
      const own = now.filter(p => p.said === p.label).length, taken = now.filter(p => p.said >= 0).length;
      $('value').textContent = σ === about.sigma ? `${σ} (the study’s)` : σ;
      $('sigma').setAttribute('aria-valuetext', $('value').textContent);
      $('title').textContent = `The outliers that are kept at σ = ${σ}`;
      const words = `${n} outliers. On average they are ${mean('own')} away from their own class, and`
        + ` ${mean('nearest')} from the nearest one.`;
      const said = ` Of their pictures, a classifier takes ${own} for their class and ${taken - own} for another, and`
        + ` refuses ${n - taken}.`;
      $('summary').textContent = n ? words + (judged ? said : '') : 'No class is switched on.';
    }

    function showKept() {
      const words = (p, i) => `outlier ${i + 1} of ${classes[p.label]}, distance ${number(p.own)}`;
      const button = (p, i) => h('button', {
        type: 'button', class: p.said >= 0 && 'ex-taken', tabindex: i ? -1 : 0, 'data-id': p.id,
        'aria-label': words(p, i) + (judged ? `, ${verdict(p.said)}` : ''),
        onmouseenter: () => show(p.id), onfocus: () => show(p.id), onclick: () => choose(p.id),
      }, drawn(p));
      $('kept').replaceChildren(...[...state.classes].sort((a, b) => a - b).map(label =>
        h('div', {class: 'ex-row', role: 'group', 'aria-label': `outliers of ${classes[label]}`, onkeydown: alongRow},
          h('span', {class: 'ex-name', 'aria-hidden': 'true'}, classes[label]),
          ...outliers().filter(p => p.label === label).map(button))));
    }

    function alongRow(e) {   // the tabulator goes from row to row, arrow keys within a row
      const all = [...e.currentTarget.querySelectorAll('button')], at = all.indexOf(document.activeElement);
      const to = {ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1}[e.key];
      if (!all[to]) return;
      e.preventDefault();
      all.forEach((b, i) => { b.tabIndex = i === to ? 0 : -1; });
      all[to].focus();
    }

    // -- one point ----------------------------------------------------------------------------------------------------
    function tip() {
      const p = points[state.shown];
      const distance = p.label < 0 ? `${number(p.nearest)} from ${classes[p.near]}` : `distance ${number(p.own)}`;
      const σ = p.kind === 'outlier' && `, σ = ${sigmas[p.sigma]}`;
      return h('div', {class: 'ex-tip'}, isPhoto(p) ? photo(p) : drawn(p),
        h('div', {}, h('strong', {}, title(p)), h('br'), distance, σ));
    }

    function facts(p) {
      return [p.label >= 0 && `Distance to neighbour ${about.k} of its class: ${number(p.own)}.`,
        p.near !== p.label && `Nearest class: ${classes[p.near]}, ${number(p.nearest)}.`,
        judged && `What is drawn of it is ${verdict(p.said)}.`].filter(Boolean).join(' ');
    }

    function describe() {
      const p = points[state.shown], figure = (e, words) => h('figure', {}, e, h('figcaption', {}, words));
      if (!p) return $('point').replaceChildren(h('p', {class: 'ex-hint'}, 'The picture of a point appears here.'));
      const moves = p.kind === 'outlier', moved = moves ? lineage(p) : [], of = `training image of ${classes[p.label]}`;
      const then = q => {
        const e = drawn(q, `drawn at σ = ${sigmas[q.sigma]}`);
        e.classList.toggle('ex-now', q === p);
        return e;
      };
      $('point').replaceChildren(...[
        h('p', {}, h('strong', {}, title(p)), moves && ` at σ = ${sigmas[p.sigma]}`),
        h('div', {class: 'ex-pictures'}, isPhoto(p) && figure(photo(p, of), 'the image'),
          figure(drawn(p, `picture drawn at this point: ${title(p)}`), 'drawn here'),
          moves && figure(photo(points[p.start], `${of} that it started from`), 'it started from')),
        h('p', {}, facts(p)),
        moves && h('p', {class: 'ex-hint'}, 'Drawn at its start, and with growing σ:'),
        moves && h('div', {class: 'ex-trail'}, drawn(points[p.start], 'drawn at its start'), ...moved.map(then)),
      ].filter(Boolean));
    }

    function show(id) {   // put a point in the panel, and mark it on the map
      const p = points[id], at = points.filter(q => q.kind === p.kind && visible(q)).indexOf(p);
      if (state.shown !== id) {
        state.shown = id;
        describe();
        chart.setOption({series: marks()});
      }
      if (at < 0) return hideTip();
      chart.dispatchAction({type: 'showTip', seriesIndex: FIRST + data.kinds.indexOf(p.kind), dataIndex: at});
    }
    function hideTip() { chart.dispatchAction({type: 'hideTip'}); }

    // -- paths --------------------------------------------------------------------------------------------------------
    // Between marked points ("stations") a < b all pictures were drawn beforehand: row b-a-1 of sheet a.
    function pathBetween(a, b) {
      const [i, j] = a < b ? [a, b] : [b, a], S = data.stations.length, n = data.paths.between;
      const steps = [...Array(n).keys()].map(k => a < b ? k : n - 1 - k);
      const first = n * (i * (2 * S - i - 1) / 2 + j - i - 1);   // of all that lies between stations
      return {
        sheet: `path${String(i).padStart(2, '0')}.webp`, count: n * (S - 1 - i),
        tiles: steps.map(k => n * (j - i - 1) + k),
        said: steps.map(k => data.paths.said[first + k]),
        at: steps.map(k => [0, 1].map(d => data.paths.at[2 * (first + k) + d] / 1000)),
      };
    }
    const stationOf = s => points[data.stations[s]], endsOfPath = () => state.chosen.map(id => points[id].station);
    function pathLine() {
      const [a, b] = endsOfPath(), at = s => [stationOf(s).x, stationOf(s).y];
      return b == null || a === b ? [] : [at(a), ...pathBetween(a, b).at, at(b)];
    }

    function choose(id) {   // the last two points that were chosen are the ends of the path
      state.chosen = [...state.chosen.filter(c => c !== id), id].slice(-2);
      showPath();
      show(id);
      chart.setOption({series: marks()});
    }
    function clear() {
      state.chosen = [];
      showPath();
      chart.setOption({series: marks()});
    }
    function chooseEnds() {   // by the two lists
      state.chosen = [$('from'), $('to')].filter(e => e.value !== '').map(e => data.stations[e.value]);
      showPath();
      if (state.chosen.length) show(state.chosen.at(-1));
      chart.setOption({series: marks()});
    }

    function showPath() {
      const [a, b] = endsOfPath(), standIn = p => stationOf(p.station);
      const instead = state.chosen.map(id => points[id]).filter(p => standIn(p) !== p)
        .map(p => `${title(standIn(p))} stands in for the ${KINDS[p.kind].one} that you chose`);
      const note = instead.length ? ` Paths are drawn beforehand, between marked points: ${instead.join('; ')}.` : '';
      $('from').value = a ?? '';
      $('to').value = b ?? '';
      $('strip').replaceChildren();
      $('path').textContent = (a == null ? 'Choose two points, one after the other, on the map or in the lists.'
        : b == null ? `From ${title(stationOf(a))}. Now choose the other end.`
        : a === b ? 'Both ends are the same marked point.'
        : `From ${title(stationOf(a))} to ${title(stationOf(b))}, in equal steps of angle.`) + note;
      if (b == null || a === b) return;
      const way = pathBetween(a, b), ends = [a, b].map(stationOf);
      const step = (words, picture, said, at) => h('li', {onmouseenter: () => spot(at), onmouseleave: unspot}, picture,
        h('span', {}, words), judged && h('span', {class: 'ex-hint'}, said < 0 ? 'refused' : classes[said]));
      const end = (words, p) => step(words, drawn(p, `${words}: ${title(p)}`), p.said, [p.x, p.y]);
      const picture = i => tile(way.sheet, way.tiles[i], data.paths.between, way.count, `step ${i + 1} of the path`);
      const steps = way.tiles.map((_, i) => step(`step ${i + 1}`, picture(i), way.said[i], way.at[i]));
      $('strip').append(end('start', ends[0]), ...steps, end('end', ends[1]));
    }
    function spot(at) { chart.setOption({series: [{id: 'marks', data: [around(at, 20, tinted('accent'), 3)]}]}); }
    function unspot() { chart.setOption({series: marks()}); }

    // -- mouse, finger, keyboard --------------------------------------------------------------------------------------
    const toPixel = p => chart.convertToPixel({xAxisIndex: 0, yAxisIndex: 0}, [p.x, p.y]);
    function nearest(x, y, within) {   // the visible point there, if there is one
      const [x0, y0] = toPixel({x: 0, y: 0}), [x1, y1] = toPixel({x: 1, y: 1});
      let best = null, least = within ** 2;
      for (const p of points) {
        const d = (x0 + p.x * (x1 - x0) - x) ** 2 + (y0 + p.y * (y1 - y0) - y) ** 2;
        if (d <= least && visible(p)) [best, least] = [p.id, d];
      }
      return best;
    }

    let touch = false, pressed = [0, 0];
    for (const type of ['pointerdown', 'pointermove'])
      canvas.addEventListener(type, e => { touch = e.pointerType === 'touch'; }, true);
    const zr = chart.getZr();
    zr.on('mousemove', e => {
      if (touch) return;
      const id = nearest(e.offsetX, e.offsetY, REACH.mouse);
      canvas.style.cursor = id == null ? '' : 'pointer';
      if (id == null) hideTip();
      else show(id);
    });
    zr.on('globalout', hideTip);
    zr.on('mousedown', e => { pressed = [e.offsetX, e.offsetY]; });
    zr.on('click', e => {
      if (Math.hypot(e.offsetX - pressed[0], e.offsetY - pressed[1]) > 6) return;   // the map was dragged
      const id = nearest(e.offsetX, e.offsetY, touch ? REACH.touch : REACH.mouse);
      if (id == null) hideTip();
      else choose(id);
    });

    const ARROWS = {ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
    canvas.addEventListener('keydown', e => {
      const p = points[state.shown];
      if (e.key === 'Enter' && p) {
        choose(p.id);
        $('spoken').textContent = `Chosen: ${title(p)}.`;
      }
      if (!ARROWS[e.key]) return;
      e.preventDefault();
      const [dx, dy] = ARROWS[e.key], [x0, y0] = toPixel(p && visible(p) ? p : {x: 0, y: 0});
      let best = null, least = Infinity;
      for (const q of points.filter(visible)) {   // the nearest in that direction, give or take 45 degrees
        const [x, y] = toPixel(q), along = (x - x0) * dx + (y - y0) * dy;
        const beside = Math.abs((x - x0) * dy + (y - y0) * dx), far = along + 2 * beside;
        if (q !== p && along > 1 && beside <= along && far < least) [best, least] = [q, far];
      }
      if (!best) return;
      show(best.id);
      $('spoken').textContent = `${title(best)}. ${facts(best)}`;
    });

    // -- zoom: both axes alike ----------------------------------------------------------------------------------------
    const extent = () => (chart.getOption()?.dataZoom ?? []).map(z => [z.start, z.end]);
    const zoomedIn = () => extent().some(([a, b]) => b - a < 99);
    function zoom(factor) {
      extent().forEach(([a, b], dataZoomIndex) => {
        const half = Math.min(50, Math.max(4, factor * (b - a) / 2));
        const middle = Math.min(100 - half, Math.max(half, (a + b) / 2));
        chart.dispatchAction({type: 'dataZoom', dataZoomIndex, start: middle - half, end: middle + half});
      });
      render();
    }

    // -- changes ------------------------------------------------------------------------------------------------------
    function update() {
      hideTip();
      summarise();
      showKept();
      render();
    }
    const toggle = (set, x, on) => on ? set.add(x) : set.delete(x);
    function setSigma(i) {   // an outlier that is shown is followed to where it is at this σ, if it is kept there
      const p = points[state.shown];
      state.sigma = +i;
      $('sigma').value = i;
      if (p?.kind === 'outlier') state.shown = lineage(p).find(q => q.sigma === state.sigma)?.id ?? null;
      describe();
      update();
    }
    function setKind(kind, on) {
      toggle(state.kinds, kind, on);
      $('kinds').querySelector(`[value="${kind}"]`).checked = on;
      update();
    }
    function setClasses(labels, on) {
      for (const i of labels) {
        toggle(state.classes, i, on);
        boxes[i].checked = on;
      }
      update();
    }

    // -- what the shell lacks -----------------------------------------------------------------------------------------
    const box = (value, checked, f) =>
      h('input', {type: 'checkbox', value, checked, onchange: e => f(e.target.checked)});
    const boxes = classes.map((c, i) => box(c, true, on => setClasses([i], on)));
    const dots = classes.map(() => h('span', {class: 'ex-dot', 'aria-hidden': 'true'}));
    const every = (on, word) => h('button', {type: 'button', onclick: () => setClasses(classes.keys(), on)}, word);
    $('kinds').append(...data.kinds.filter(k => points.some(p => p.kind === k))
      .map(k => h('label', {}, box(k, state.kinds.has(k), on => setKind(k, on)), icon(k), KINDS[k].many)));
    $('classes').append(...classes.map((c, i) => h('label', {}, boxes[i], dots[i], c)),
      h('span', {class: 'ex-buttons'}, every(true, 'all'), every(false, 'none')));
    for (const e of [$('from'), $('to')]) {
      const marked = label => data.stations.map((id, s) => [points[id], s]).filter(([p]) => p.label === label)
        .map(([p, s]) => h('option', {value: s}, title(p)));
      e.append(h('option', {value: ''}, 'choose a point'), ...[...classes, 'other nouns']
        .map((label, i) => h('optgroup', {label}, ...marked(i < classes.length ? i : -1)))
        .filter(group => group.children.length));
      e.addEventListener('change', chooseEnds);
    }
    $('sigma').max = sigmas.length - 1;
    $('sigma').value = state.sigma;
    $('sigma').addEventListener('input', e => setSigma(e.target.value));
    $('clear').addEventListener('click', clear);
    for (const b of root.querySelectorAll('[data-zoom]')) b.addEventListener('click', () => zoom(+b.dataset.zoom));
    $('frames').textContent = 'Of each class the farthest first.'
      + (judged ? ' A frame marks what the classifier takes for a class.' : '');
    const share = x => `${Math.round(100 * x)}%`;
    $('made').textContent = [
      `Run: profile ${about.study}, seed ${about.seed}; ${about.images.toLocaleString('en')} embeddings of`,
      `${about.width} numbers. Outliers: pool ${about.pool}, the farthest of ${about.candidates} candidates around each`,
      `of ${about.select} boundary points of a class, by the distance to neighbour ${about.k}. The directions on the map`,
      `come from a plane that holds ${share(about.plane.images)} of the variance of the embeddings, and`,
      `${share(about.plane.outliers)} of that of the outliers at σ = ${about.sigma}. Pictures: foundation`,
      `${about.foundation}, ${about.steps} steps, guidance ${about.guidance}, all from one noise.`,
      judged ? `Classifier: ${about.judge}, at the threshold that accepts 95% of the ID validation images.` : '',
    ].join(' ');

    new ResizeObserver(() => { chart.resize(); render(); }).observe(canvas);
    // the page may turn dark, or light, and its style sheet may take a moment to follow
    const watch = new MutationObserver(() => { render(); setTimeout(render, 250); });
    for (const e of [document.documentElement, document.body]) watch.observe(e, {attributeFilter: ['class']});
    describe();
    showPath();
    update();

    return {
      chart, data, points, state, show, choose, clear, zoom, setSigma, setKind, setClasses,
      visible: () => points.filter(visible),
      pixel(id) {   // where a point lies in the window
        const {left, top} = canvas.getBoundingClientRect(), [x, y] = toPixel(points[id]);
        return {x: left + x, y: top + y};
      },
      path() {   // what is on the way between the chosen points, or null
        const [a, b] = endsOfPath();
        return b == null || a === b ? null : {from: data.stations[a], to: data.stations[b], ...pathBetween(a, b)};
      },
    };
  }

  const root = document.getElementById('explorer'), folder = root.dataset.folder;
  load(`${folder}/data.js`).then(() => {
    window.explorer = start(root, folder, window.explorerData);
    root.dataset.ready = 'yes';
  }).catch(e => {
    root.replaceChildren(h('p', {role: 'alert'}, `The explorer could not start: ${e.message}.`));
    console.error(e);
  });
})();
