"The website as a reader meets it: built from what is committed, served from a folder, opened in a real browser."
import os
import re
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse
import axe_playwright_python
import pytest
from bs4 import BeautifulSoup
from browser import Page, chromium
from dream_ood.website import site

ROOT = Path(__file__).parent.parent
DOCS = ROOT/'_docs'
WIDTHS = (390, 768, 1440)
MB = 2**20
LOOKED_AT = ['index.html', 'explore.html', 'gallery.html', 'sampling.html', 'paper/claims.html', 'paper/table1.html',
             'guide/own_images.html', 'api/sampling.html']

class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args): pass

@pytest.fixture(scope='module')
def docs():
    "The site, built anew (SITE_BUILT=1: as it lies there)."
    here = Path.cwd()
    if not (os.environ.get('SITE_BUILT') and DOCS.exists()): site()
    os.chdir(here)
    return DOCS

@pytest.fixture(scope='module')
def home(docs):
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=str(docs)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_address[1]}/'
    server.shutdown()

@pytest.fixture(scope='module')
def tab(home):
    size = dict(width=1440, height=900)
    with chromium() as b: yield lambda **how: Page(b.new_context(viewport=size, **how).new_page())

def pages(docs): return sorted(f.relative_to(docs).as_posix() for f in docs.rglob('*.html'))

@pytest.fixture(scope='module')
def soups(docs): return {p: BeautifulSoup((docs/p).read_text(), 'html.parser') for p in pages(docs)}

# -- files ------------------------------------------------------------------------------------------------------------
def test_every_link_and_anchor_leads_somewhere(docs, soups):
    ids = {p: {e['id'] for e in s.find_all(id=True)} for p, s in soups.items()}
    lost = set()
    for p, s in soups.items():
        for a in s.find_all('a', href=True):
            u = urlparse(a['href'])
            if u.scheme or u.netloc: continue
            to = (docs/p).parent/unquote(u.path) if u.path else docs/p
            if to.is_dir(): to = to/'index.html'
            if not to.exists(): lost.add((p, a['href'])); continue
            name = to.resolve().relative_to(docs.resolve()).as_posix()
            if u.fragment and name in ids and unquote(u.fragment) not in ids[name] and '=' not in u.fragment:
                lost.add((p, a['href']))
    assert not lost, sorted(lost)

def test_pages_are_light_and_in_order(docs, soups):
    front = [docs/'index.html', *(docs/u for e in soups['index.html'].find_all(['script', 'link', 'img'])
                                  if (u := e.get('src') or e.get('href')) and ':' not in u and (docs/u).is_file())]
    assert sum(f.stat().st_size for f in front) < MB, front                        # with all that it loads
    for p, s in soups.items():
        assert (docs/p).stat().st_size < 5*MB, p
        assert [i for i in s.find_all('img') if not i.get('alt', '').strip()] == [], p
        named = [e['id'] for e in s.find_all(id=True)]
        assert sorted({n for n in named if named.count(n) > 1}) == [], p
        assert len(s.find_all('h1')) == 1 and s.title.text and s.html.get('lang') == 'en', p
        assert s.find('meta', property='og:image') and s.find('link', rel='icon'), p
        top = [li for li in s.select('#quarto-sidebar .sidebar-menu-container > ul > li')]
        seen = len(top) + sum(len(li.select('ul.show > li')) for li in top)
        assert seen <= 25, (p, seen)
    for f in ('sitemap.xml', 'llms.txt', 'search.json', 'site/card.png', 'site/favicon.svg'):
        assert (docs/f).exists(), f
    twins = re.findall(r'\]\(([^)]*\.llms\.md)\)', (docs/'llms.txt').read_text())
    assert len(twins) >= len(soups)-1
    assert all((docs/re.sub(r'^https?://[^/]+/dream_ood/', '', t)).exists() for t in twins)

def test_results_begin_with_their_answer(soups):
    for p, s in soups.items():
        if not p.startswith(('paper/', 'benchmarks/', 'shards/')): continue
        main = s.find('main')
        assert main.select_one('.answer'), p
        first = main.select_one('.answer, .cell, h2')
        assert 'answer' in first.get('class', []), p
        assert all(c.find_parent('details') for c in main.select('.cell pre.sourceCode')), f'{p}: code lies open'

def test_the_reference_lists_what_modules_offer(soups):
    import dream_ood.sampling as sampling
    page = soups['api/sampling.html']
    for n in sampling.__all__:
        if n.isupper() or not callable(getattr(sampling, n)): continue
        assert page.find(id=n.lower()), n
    table = page.find(id='sample').find_next('table').text
    assert 'unit-norm embeddings' in table and 'Returns' in table
    assert 'sampling.py#L' in str(page.find('main'))

# -- in the browser ---------------------------------------------------------------------------------------------------
WIDER = 'document.scrollingElement.scrollWidth - document.documentElement.clientWidth'
RAW = r"""[...document.querySelectorAll('main, nav')].some(e => {
  const w = document.createTreeWalker(e, NodeFilter.SHOW_TEXT)
  while (w.nextNode()) {
    const n = w.currentNode
    if (/\\\(|\\\[|\$\$/.test(n.data) && !n.parentElement.closest('pre, code, script, annotation, .katex')) return true
  }
  return false })"""

def test_every_page_loads_by_itself_and_fits(docs, home, tab):
    page, wrong = tab(), []
    for p in pages(docs):
        page.requests.clear(); page.complaints.clear()
        page.page.set_viewport_size(dict(width=1440, height=900))
        page.open(home+p)
        for w in reversed(WIDTHS):
            page.page.set_viewport_size(dict(width=w, height=900))
            if (over := page.js(WIDER)) > 0: wrong.append(f'{p} is {over} pixels too wide at {w}')
        if page.js(RAW): wrong.append(f'{p} shows raw TeX')
        wrong += [f'{p}: {c}' for c in page.complaints]
        wrong += [f'{p} asks for {u}' for u in page.requests if not u.startswith((home, 'data:', 'blob:'))]
    assert not wrong, '\n'.join(wrong)

def test_search_finds_what_is_there(home, tab):
    page = tab()
    page.open(home)
    page.page.locator('input[type=search]:visible').first.fill('kNN')
    page.page.locator('.aa-Item, .smalldocs-search a, .sd-search-results a').first.wait_for()
    found = page.page.locator('.aa-Item, .smalldocs-search a, .sd-search-results a').all_inner_texts()
    assert any('knn' in t.lower() for t in found), found

def test_claims_by_verdict(home, tab):
    page = tab()
    page.open(home+'paper/claims.html')
    rows, chosen = page.page.locator('table.cards tbody tr'), page.page.locator('.filter button')
    total, counts = rows.count(), {}
    for b in chosen.all():
        b.click()
        counts[b.get_attribute('data-verdict')] = page.page.locator('table.cards tbody tr:visible').count()
    assert counts.pop('all') == total == sum(counts.values()) and len(counts) > 1

def test_the_gallery_filters(home, tab):
    page = tab()
    page.open(home+'gallery.html')
    before = page.page.locator('#gallery figure').count()
    page.page.locator('#classes button', has_text='coat').click()
    page.until("document.querySelectorAll('#gallery section').length == 1")
    assert 0 < page.page.locator('#gallery figure').count() < before
    page.page.locator('#gallery figure button').first.click()
    assert page.js("document.querySelector('#gallery dialog').open") and not page.complaints

def serious(page, source):
    "What axe, the accessibility checker, finds serious or critical."
    page.page.add_script_tag(content=source)
    found = page.page.evaluate("axe.run(document, {resultTypes: ['violations']}).then(r => r.violations)")
    return [f"{v['id']}: {n['html'][:150]} ({n.get('failureSummary', '')[:200]})" for v in found
            if v['impact'] in ('serious', 'critical') for n in v['nodes'][:3]]

@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_accessible(docs, home, tab, scheme):
    axe = next(Path(axe_playwright_python.__file__).parent.rglob('axe.min.js')).read_text()
    page, wrong = tab(color_scheme=scheme), []
    for p in pages(docs) if os.environ.get('EVERY_PAGE') else LOOKED_AT:
        page.open(home+p)
        page.page.wait_for_timeout(150)
        wrong += [f'{p}: {w}' for w in serious(page, axe)]
    assert not wrong, '\n'.join(wrong)

def test_the_explorer_answers(home, tab):
    page = tab()
    page.open(home+'explore.html')
    page.page.locator('#explorer[data-ready]').wait_for()
    page.js("document.querySelector('#ex-chart').scrollIntoView({behavior: 'instant', block: 'center'})")
    at = page.js("(() => { const p = explorer.visible().find(p => p.kind == 'word'); return explorer.pixel(p.id) })()")
    page.page.mouse.move(at['x'], at['y'])
    page.until("document.querySelector('#ex-point').textContent.trim().length > 0")
    before = page.js("document.querySelector('#ex-kept').innerText + document.querySelector('#ex-summary').innerText")
    page.page.locator('#ex-sigma').focus()
    page.page.keyboard.press('Home')
    page.until("document.querySelector('#ex-kept').innerText + document.querySelector('#ex-summary').innerText != "
               f"{before!r}")
    many = page.js("explorer.visible().length")
    page.page.locator('#ex-classes input[value=boot]').uncheck()
    assert page.js("explorer.visible().length") < many
    assert not page.complaints and all(u.startswith((home, 'data:', 'blob:')) for u in page.requests)
