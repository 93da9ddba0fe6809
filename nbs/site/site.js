// What pages need beside what their renderer brings. A table of claims can be filtered by verdict, and on a phone each
// of its rows is a card; tables of few columns, which hold sentences, are stacked there, and wide figures keep a size
// that can be read and scroll, as code does: with the keyboard, too.
(() => {
  for (const table of document.querySelectorAll('main .table-frame table:not(.dataframe)'))
    if (table.rows.length && table.rows[0].cells.length <= 4 && !table.querySelector('img')) table.classList.add('prose')
  for (const img of document.querySelectorAll('main .cell-output img')) {
    const look = () => img.classList.toggle('wide', img.naturalWidth > 850)
    img.complete ? look() : img.addEventListener('load', look)
  }
  const focusable = () => { for (const e of document.querySelectorAll('main pre, main .cell-output'))
    e.scrollWidth > e.clientWidth + 1 ? e.tabIndex = 0 : e.removeAttribute('tabindex') }
  addEventListener('load', focusable); addEventListener('resize', focusable)
  const make = (tag, props, ...inside) => { const e = Object.assign(document.createElement(tag), props); e.append(...inside); return e }
  for (const table of document.querySelectorAll('main table')) {
    const heads = [...table.querySelectorAll('thead th')].map(h => h.textContent.trim()), at = heads.indexOf('verdict')
    if (at < 0 || !heads.includes('claim')) continue
    const rows = [...table.querySelectorAll('tbody tr')]
    table.classList.add('cards')
    rows.forEach(r => [...r.children].forEach((c, i) => { c.dataset.label = heads[i] }))
    const verdict = r => r.children[at].textContent.trim(), found = new Map()
    rows.forEach(r => found.set(verdict(r), (found.get(verdict(r)) || 0) + 1))
    const said = make('span', { role: 'status', className: 'filter-said' })
    const box = make('div', { className: 'filter', role: 'group', ariaLabel: 'show claims by verdict' })
    const choose = v => {
      rows.forEach(r => { r.hidden = v !== 'all' && verdict(r) !== v })
      box.querySelectorAll('button').forEach(b => b.setAttribute('aria-pressed', b.dataset.verdict === v))
      said.textContent = `${rows.filter(r => !r.hidden).length} of ${rows.length} claims`
    }
    for (const [v, n] of [['all', rows.length], ...found]) {
      const b = make('button', { type: 'button', className: 'btn btn-sm btn-outline-secondary', textContent: `${v} · ${n}`, onclick: () => choose(v) })
      b.dataset.verdict = v; box.append(b)
    }
    box.append(said); (table.closest('.table-frame') || table).before(box); choose('all')
  }
})()
