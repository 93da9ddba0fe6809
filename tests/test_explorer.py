"""The explorer. Its data: outliers that are kept are the farthest, every tile is the picture of its point, every index
points somewhere, and a second call writes the same bytes. Its page, in a real browser: the slider moves outliers, dots
show their pictures, two of them a path, and all of it by mouse, finger and keyboard."""
import json,shutil
import numpy as np,pytest,torch
import torch.nn.functional as F
from pathlib import Path
from PIL import Image
from browser import chromium,Page
from conftest import tiny_profile
from dream_ood import explorer,stages
from dream_ood.core import DreamError,generator
from dream_ood.data import id_set
from dream_ood.explorer import *
from dream_ood.foundation import tiny_pipeline
from dream_ood.runs import Run
from dream_ood.sampling import plain_distance,slerp
from dream_ood.search import Candidates,boundary_points,kth_distance
from dream_ood.stages import accepted_dreams,anchors_of,embeddings_of,pool_images

POOLS = dict(knn=dict(rule='knn',per_class=4,k=3,select=4,candidates=20,keep=2,sigma=.1),
             inliers=dict(rule='inliers',per_class=2,k=3,select=4,candidates=10,keep=2,sigma=.02),
             drift=dict(rule='drift',per_class=2,k=3,strength=[.35,.85],nouns=2))
SMALL = dict(shares=(1/4,2), images=2, kept=3, few=1, nouns=5, marked=('word','outlier','boundary'), marked_nouns=2,
             between=2)

@pytest.fixture(scope='module')
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs')
    tiny_pipeline().save_pretrained(folder/'tiny')
    (folder/'tiny'/'nouns.csv').write_text('noun\n'+'\n'.join(['dog','tree','car','ship','bird','fish']))
    p = tiny_profile(folder/'tiny', sampling=dict(pools=POOLS),
                     latent_space=dict(epochs=2, batch_size=16),
                     decoding=dict(steps=2, pools={n:dict(source='sampling') for n in POOLS}),
                     training=dict(epochs=1, contenders=dict(plain={}, wide=dict(start='plain', outliers='wide'))),
                     evaluation=dict(methods=dict(Energy=dict(contender='plain', detector='energy'))))
    run = Run.open(p, 0, folder)
    for s in ('data','foundation','latent_space','sampling','decoding','training'): getattr(stages, f'run_{s}')(run)
    return run

def read(folder): # data.js
    text = (folder/'data.js').read_text()
    return json.loads(text.removeprefix('window.explorerData = ').removesuffix(';\n'))

@pytest.fixture(scope='module')
def written(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp('explorer')
    write_explorer(run, folder, **SMALL)
    return folder, read(folder)

@pytest.mark.parametrize('sigma', [.025,.1,.2])
def test_kept_are_the_farthest_of_their_candidates(run, sigma):
    (z,y),how = embeddings_of(run),run.profile.sampling.pools['knn']
    out = kept_at(run, 'knn', [sigma], 3)
    for c in range(len(run.profile.data.classes)):
        own = z[y==c]
        b = boundary_points(own, how.k, how.select)
        around = Candidates(own, b, sigma, how.candidates, generator(run.seed,'sampling','knn',c))
        D = torch.stack([plain_distance(F.normalize(own[i].double()+sigma*e, dim=-1), own, how.k)
                         for i,e in zip(b, around.vectors())])
        best = D.max(1).values.sort(descending=True).values[:3]   # of each boundary point the farthest; of these, three
        assert torch.allclose(out['distance'][0,c].double(), best, atol=1e-4)
        assert set(out['boundary'][0,c].tolist()) <= set((y==c).nonzero()[:,0][b].tolist())

def test_outward_is_the_distance_to_the_nearest_class(run):
    z,y = embeddings_of(run)
    m = make_map(z, y, 8, 3)
    v = F.normalize(torch.randn(20, z.shape[1], generator=run.generator('v')), dim=1)
    D = distances(m, v)
    assert torch.allclose(D, torch.stack([plain_distance(v, z[y==c], 3) for c in range(8)], 1), atol=1e-6)
    assert torch.allclose(place(m, v, D).norm(dim=1).double(), HOLE+D.min(1).values, atol=1e-5)
    own = distances(m, z, y)[torch.arange(len(y)),y]              # of an embedding, to others of its class
    assert torch.allclose(own, torch.cat([kth_distance(z[i][None], z[y==y[i]], 4) for i in range(len(y))]), atol=1e-6)

def test_classes_that_are_alike_lie_beside_each_other():
    angles = torch.tensor([0.,2.,4.,1.,3.])                       # of classes 0..4, on an arc: the order is 0 3 1 4 2
    z = torch.stack([angles.cos(),angles.sin(),torch.ones(5)], 1)
    corners = circle(F.normalize(z,dim=1), torch.arange(5), 5)
    θ = torch.atan2(corners[:,0], corners[:,1])
    steps = [(θ[a]-θ[b]).abs().item() for a,b in ((0,3),(3,1),(1,4),(4,2))]
    assert all(min(s,2*np.pi-s)==pytest.approx(2*np.pi/5, abs=1e-4) for s in steps)

def test_every_index_points_somewhere(run, written):
    folder,data = written
    p,C,n = data['points'],len(data['classes']),len(data['points']['kind'])
    assert {len(v) for k,v in p.items() if k!='at'}=={n} and len(p['at'])==2*n
    assert data['sigmas']==[.025,.1,.2] and data['about']['sigma'] in data['sigmas']
    kinds = [data['kinds'][k] for k in p['kind']]
    assert set(kinds)==set(KINDS) and kinds.count('outlier')==3*C*3 and kinds.count('noun')==len(data['nouns'])
    for i,k in enumerate(kinds):
        assert (p['label'][i]==-1)==(k=='noun') and -1<=p['label'][i]<C and 0<=p['near'][i]<C and -1<=p['said'][i]<C
        assert (p['sigma'][i] in range(3))==(k=='outlier')
        assert p['nearest'][i]<=p['own'][i] or k=='noun'
        if k=='outlier':                                          # it started from a boundary point of its class
            assert kinds[p['start'][i]]=='boundary' and p['label'][p['start'][i]]==p['label'][i]
        else: assert p['start'][i]==-1
        s = data['stations'][p['station'][i]]                     # and a marked point of its class stands in for it
        assert p['label'][s]==p['label'][i] and (i not in data['stations'] or s==i)
    S,between = len(data['stations']),data['paths']['between']
    assert S==3*C+2 and len(data['paths']['said'])==S*(S-1)//2*between==len(data['paths']['at'])//2
    assert sorted(f.name for f in folder.iterdir())==sorted(
        ['data.js','drawn.webp','real.webp',*(f'path{i:02d}.webp' for i in range(S-1))])
    side = data['size']
    def tiles(name, columns):
        w,h = Image.open(folder/name).size
        assert w==columns*side and h%side==0
        return columns*h//side
    assert 0<=tiles('drawn.webp',32)-n<32
    assert 0<=tiles('real.webp',32)-kinds.count('image')-kinds.count('boundary')<32
    for i in range(S-1): assert tiles(f'path{i:02d}.webp',between)==(S-1-i)*between

def test_a_tile_is_the_picture_of_its_point(run, tmp_path, monkeypatch):
    "With a foundation that draws a point's first numbers as greys."
    def grey(z): return (127.5+127.5*torch.tanh(2*F.normalize(z,dim=1)[:,:4]*z.shape[1]**.5/2)).round()
    def draw(pipe, z, seeds, **kwargs):
        assert len(set(seeds))==1                                 # all pictures come from one noise
        quarters = grey(z).view(-1,2,2).repeat_interleave(16,1).repeat_interleave(16,2)
        return quarters[:,None].expand(-1,3,-1,-1).byte()
    monkeypatch.setattr(explorer, 'draw', draw)
    write_explorer(run, tmp_path, **SMALL)
    data = read(tmp_path)
    t,z = points_of(run, 'knn', data['sigmas'], images=2, kept=3, few=1, nouns=5)
    stations = stations_of(t, 1, SMALL['marked'], 2)
    def seen(name, columns, i): # the greys in the middle of a tile's quarters
        x = np.asarray(Image.open(tmp_path/name).convert('L'), float)
        r,c = 32*(i//columns),32*(i%columns)
        return torch.tensor([[x[r+a+4:r+a+12,c+b+4:c+b+12].mean() for b in (0,16)] for a in (0,16)]).flatten()
    assert data['stations']==stations
    for i in range(0, len(t), 7): assert (seen('drawn.webp',32,i)-grey(z[i][None])[0]).abs().max()<6, i
    for a,b in ((0,1),(0,len(stations)-1),(5,9)):                 # on a path, the points in their order
        u,v = (F.normalize(z[stations[k]],dim=0)[None] for k in (a,b))
        for k,share in enumerate((1/3,2/3)):
            there = grey(slerp(u, v, torch.tensor([share])))[0]
            assert (seen(f'path{a:02d}.webp', 2, (b-a-1)*2+k)-there).abs().max()<6, (a,b,k)
    real = id_set(run.profile.data,'train')
    x = np.asarray(Image.open(tmp_path/'real.webp').convert('L'), float)
    for i in range(0, 16, 3):
        own = real.subset([int(t.image[i])]).pixels(32)[0,0].numpy()
        assert np.abs(x[:32,32*i:32*i+32]-own).mean()<8

def test_points_are_what_they_are_called(run):
    z,y = embeddings_of(run)
    t,v = points_of(run, 'knn', [.1,.2], images=2, kept=3, few=1, nouns=5)
    u,long = F.normalize(v,dim=1),anchors_of(run)['anchors'].norm(dim=1)
    for kind in ('image','boundary'):
        own = t[t.kind==kind]
        assert torch.allclose(u[own.index.tolist()], z[own.image.tolist()], atol=1e-5) and own.image.is_unique
        assert y[own.image.tolist()].tolist()==own.label.tolist()
    assert not set(t.image[t.kind=='image']) & set(t.image[t.kind=='boundary'])
    assert set(t.image[t.kind=='boundary'])==set(t.image[t.kind=='outlier'])
    own = t[t.label>=0]                                           # a point is as long as the word of its class
    assert torch.allclose(v[own.index.tolist()].norm(dim=1), long[own.label.tolist()], rtol=1e-3)

def test_two_calls_write_the_same_bytes(run, written, tmp_path):
    (tmp_path/'path99.webp').touch()                              # of an earlier, larger one
    (tmp_path/'explore.js').write_text('ours')
    write_explorer(run, tmp_path, **SMALL)
    assert {f.name:f.read_bytes() for f in tmp_path.iterdir()}=={f.name:f.read_bytes() for f in written[0].iterdir()}|{
        'explore.js':b'ours'}

def test_the_judge_agrees_with_the_evaluation(run):
    name,says = judge(run)
    table = accepted_dreams(run)
    assert name=='wide'
    for pool in POOLS:
        x = torch.cat([pool_images(run, pool, c, 99) for c in run.profile.data.classes])
        assert (says(x)>=0).float().mean().item()==pytest.approx(table.accepted[pool], abs=1e-6)

def test_a_profile_without_the_rule_is_one_sentence(run):
    with pytest.raises(DreamError, match="a pool of the rule knn in sampling.pools, and 'drift' is not one"):
        sigma_pool(run, 'drift')

# -- the page ---------------------------------------------------------------------------------------------------------
SITE = Path(__file__).parent.parent/'nbs'/'site'
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Explorer</title><link rel="icon" href="data:,"><body><main>
<link rel="stylesheet" href="site/explore/explore.css"><div id="explorer" data-folder="data"></div>
<script defer src="site/vendor/echarts.min.js"></script><script defer src="site/explore/explore.js"></script></main>"""

@pytest.fixture(scope='module')
def address(written, tmp_path_factory):
    "Opened from the disk, as a reader would who has built the website."
    folder = tmp_path_factory.mktemp('a page with # and spaces')
    shutil.copytree(written[0], folder/'data')
    (folder/'site'/'vendor').mkdir(parents=True); (folder/'site'/'explore').mkdir()
    for f in ('vendor/echarts.min.js','explore/explore.js','explore/explore.css'): shutil.copy(SITE/f, folder/'site'/f)
    (folder/'page.html').write_text(PAGE)
    return (folder/'page.html').as_uri()

@pytest.fixture(scope='module')
def engine():
    with chromium() as b: yield b

@pytest.fixture(params=[dict(viewport=dict(width=1200,height=900)),
                        dict(viewport=dict(width=390,height=844), has_touch=True, is_mobile=True)],
                ids=['wide','phone'])
def page(request, engine, address):
    context = engine.new_context(reduced_motion='reduce', **request.param)
    page = Page(context.new_page())
    page.touch = 'has_touch' in request.param
    page.open(address); page.until("document.querySelector('#explorer').dataset.ready")
    page.js("document.querySelector('#ex-chart').scrollIntoView({block:'center'})")
    yield page
    assert not page.complaints and {u.split(':')[0] for u in page.requests}<={'file','data'}
    assert page.js('document.documentElement.scrollWidth')<=request.param['viewport']['width']   # none sideways
    context.close()

def press(page, point):
    "Click or tap where a point lies."
    at = page.js(f'explorer.pixel({point})')
    (page.page.touchscreen.tap if page.touch else page.page.mouse.click)(at['x'], at['y'])
    page.until(f'explorer.state.shown!==null')
    shown = page.js('explorer.state.shown')                      # it, or what lies on it
    far = page.js(f'(p => (q => Math.hypot(p.x-q.x, p.y-q.y))(explorer.pixel({shown})))(explorer.pixel({point}))')
    assert far<2
    return shown

def test_the_slider_says_which_outliers_are_kept(page, written):
    data = written[1]; p,C = data['points'],len(data['classes'])
    for i,sigma in enumerate(data['sigmas']):
        page.js(f"s = document.querySelector('#ex-sigma'); s.value = {i}; s.dispatchEvent(new Event('input'))")
        kept = [n for n,(k,s) in enumerate(zip(p['kind'],p['sigma'])) if k==KINDS.index('outlier') and s==i]
        assert page.js("explorer.visible().filter(p => p.kind=='outlier').map(p => p.id)")==kept
        assert sorted(page.js("[...document.querySelectorAll('#ex-kept button')].map(b => +b.dataset.id)"))==kept
        said = [p['said'][n] for n in kept]
        own = sum(p['said'][n]==p['label'][n] for n in kept); taken = sum(s>=0 for s in said)
        assert page.js("document.querySelector('#ex-summary').textContent").endswith(
            f'takes {own} for their class and {taken-own} for another, and refuses {len(kept)-taken}.')
        drawn = page.js("explorer.chart.getOption().series.find(s => s.id=='outlier').data.map(d => d.value)")
        assert drawn==[[p['at'][2*n]/1000,p['at'][2*n+1]/1000] for n in kept]

def test_a_dot_shows_its_picture(page, written):
    data = written[1]
    for kind in KINDS:
        page.js(f"explorer.setKind('{kind}', true)")
        shown = press(page, page.js(f"explorer.visible().find(p => p.kind=='{kind}').id"))
        assert page.js("document.querySelector('#ex-point').innerText").startswith(
            page.js(f"(p => p.noun ? '“'+p.noun : p.kind=='word' ? 'the word' : p.kind=='centre' ? 'centre of' : "
                    f"explorer.data.classes[p.label])(explorer.points[{shown}])"))
        tile = page.js("(e => [e.style.backgroundImage, e.style.backgroundPosition, e.getAttribute('aria-label')])"
                       "([...document.querySelectorAll('#ex-point .ex-tile')].find(e => e.style.backgroundImage."
                       "includes('drawn')))")
        columns,rows = data['columns'],-(-len(data['points']['kind'])//data['columns'])
        x,y = (float(v.rstrip('%'))/100 for v in tile[1].split())
        assert round(x*(columns-1))+columns*round(y*(rows-1))==shown and tile[2]

def test_two_points_make_a_path(page, written):
    data = written[1]; S,n = len(data['stations']),data['paths']['between']
    for a,b in ((0,9),(12,4)):
        page.js('explorer.clear()')
        page.js(f'explorer.choose(explorer.data.stations[{a}]); explorer.choose(explorer.data.stations[{b}])')
        i,j = sorted((a,b)); first = n*(sum(S-1-k for k in range(i))+j-i-1)
        way = page.js('explorer.path()')
        steps = range(n) if a<b else range(n)[::-1]
        assert way['sheet']==f'path{i:02d}.webp' and way['tiles']==[(j-i-1)*n+k for k in steps]
        assert way['at']==[[data['paths']['at'][2*(first+k)+d]/1000 for d in (0,1)] for k in steps]
        assert way['said']==[data['paths']['said'][first+k] for k in steps]
        assert page.js("document.querySelectorAll('#ex-strip li').length")==n+2
        page.page.wait_for_timeout(100)
        assert any(u.endswith(way['sheet']) for u in page.requests)
    page.js('explorer.clear()')
    chosen = [press(page, page.js(f"explorer.visible().filter(p => p.kind=='image')[{k}].id")) for k in (0,7)]
    assert page.js('explorer.state.chosen')==chosen              # whatever is chosen, marked points stand in for it
    if page.js('explorer.path()'): assert 'stands in for' in page.js("document.querySelector('#ex-path').textContent")

def test_switches_lists_and_keys(page, written):
    data = written[1]; C = len(data['classes'])
    page.page.click('#ex-classes input'); page.page.click('#ex-kinds [value=noun]')
    assert not page.js("explorer.visible().some(p => p.label==0 || p.kind=='noun')")
    assert page.js("document.querySelectorAll('.ex-row').length")==C-1
    page.page.click('#ex-classes button:has-text("none")')
    assert page.js("document.querySelector('#ex-summary').textContent")=='No class is switched on.'
    page.page.click('#ex-classes button:has-text("all")')
    page.page.select_option('#ex-from', '1'); page.page.select_option('#ex-to', '3')
    assert page.js('explorer.state.chosen')==[data['stations'][1],data['stations'][3]]
    page.js("document.querySelector('.ex-row button').focus()"); page.page.keyboard.press('ArrowRight')
    assert page.js("document.activeElement.getAttribute('aria-label')").startswith(f"outlier 2 of {data['classes'][0]}")
    before = page.js('explorer.visible().reduce((a, b) => a.y>b.y ? a : b).id')                # the topmost
    page.js(f'explorer.show({before})'); page.page.focus('#ex-chart'); page.page.keyboard.press('ArrowDown')
    now = page.js('explorer.state.shown')
    assert now!=before and page.js(f'explorer.pixel({now}).y>explorer.pixel({before}).y')
    page.page.keyboard.press('Enter')
    assert page.js('explorer.state.chosen.at(-1)')==now and page.js("document.querySelector('#ex-spoken').textContent")

def test_it_turns_dark_with_the_page(page):
    colours = "explorer.chart.getOption().series.find(s => s.id=='outlier').data.map(d => d.itemStyle.color)"
    light = page.js(colours)
    page.js("document.documentElement.classList.add('quarto-dark')")
    page.until(f"JSON.stringify({colours})!='{json.dumps(light, separators=(',',':'))}'")

def test_data_that_is_missing_is_said(engine, address, tmp_path):
    shutil.copytree(Path(address.removeprefix('file://').replace('%20',' ').replace('%23','#')).parent, tmp_path/'page')
    (tmp_path/'page'/'data'/'data.js').unlink()
    page = Page(engine.new_page()); page.open((tmp_path/'page'/'page.html').as_uri())
    page.until("document.querySelector('[role=alert]')?.textContent=="
               "'The explorer could not start: data/data.js cannot be read.'")
