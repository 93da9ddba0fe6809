"The gallery, in a real browser: images load, filters filter, and a click tells where an image comes from."
import numpy as np,pandas as pd,pytest,shutil
from PIL import Image
from browser import browser
from conftest import tiny_profile
from dream_ood.decoding import write_gallery
from dream_ood.stages import gallery_data,gallery_page
from dream_ood.core import DreamError,save_table
from dream_ood.runs import Run

SHOWN = "[...document.querySelectorAll('figure button')].map(b => [b.dataset.group, b.dataset.pool, +b.dataset.index])"
LOADED = ("Promise.all([...document.images].filter(i => i.getAttribute('src')).map(i => { i.loading = 'eager'; return "
          "i.decode().then(() => i.naturalWidth > 0, () => false) })).then(x => x.length > 9 && x.every(Boolean))")

def pool(folder, rows):
    "A decoded pool: images of random grey, and what is said of them."
    rng = np.random.default_rng(0)
    for f in (m := pd.DataFrame(rows)).file:
        (folder/f).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0,255,(32,32),dtype=np.uint8)).save(folder/f)
    save_table(folder/'metadata.parquet', m.assign(file_name=m.file, bytes=100))

@pytest.fixture(scope='module')
def run(foundation, tmp_path_factory):
    p = tiny_profile(foundation,
                     decoding=dict(pools=dict(knn=dict(source='sampling'), inliers=dict(source='sampling'),
                                              names=dict(source='other_names'))), dream_id=dict(inliers='inliers'),
                     training=dict(contenders=dict(plain={})),
                     evaluation=dict(methods=dict(Energy=dict(contender='plain',detector='energy'))))
    run = Run.open(p, 0, tmp_path_factory.mktemp('a run with #, % and spaces'))
    stage,rng = run.stage('decoding'),np.random.default_rng(1)
    def sampled(n):
        return [dict(file=f'{c}/{i:05d}.png', **{'class':c}, seed=2**62+i, boundary=float(i), distance=rng.random(),
                     prompt='a picture of a {}') for c in p.data.classes for i in range(n)]
    pool(stage/'knn', sampled(30)); pool(stage/'inliers', sampled(4))
    pool(stage/'refused'/'knn', [r|dict(file=r['file'].replace('000','009'),why='no outlier') for r in sampled(2)])
    pool(stage/'names',
         [dict(file=f'{c}/00000.png', **{'class':c}, seed=i, boundary=np.nan, distance=np.nan,
               prompt=f'a picture of a {c}') for i,c in enumerate(('cat','50% #1 dog','<b>tree</b>'))])
    return run

def test_a_reader_browses_the_run_folder(run):
    m = pd.read_parquet(run.stage('decoding')/'knn'/'metadata.parquet')
    with browser() as page:
        page.open(gallery_page(run).as_uri())
        assert page.js(LOADED)
        shown = page.js(SHOWN)
        assert ({g for g,_,_ in shown}=={*run.profile.data.classes,'other names'}
                and {p for _,p,_ in shown}=={'real','knn','knn, refused','inliers','names'})
        for c in ('boot','other names'):                                                  # by class
            page.js(f"[...document.querySelectorAll('#classes button')].find(b => b.textContent=='{c}').click()")
            page.until("document.querySelectorAll('section').length==1 && "
                       f"document.querySelector('h2').textContent=='{c}'")
            assert {g for g,_,_ in page.js(SHOWN)}=={c} and len(page.js(SHOWN))==(3 if c=='other names' else 8+30+2+4)
        # a name is text, whatever it holds
        assert page.js("document.querySelectorAll('#gallery b').length")==0
        page.js("history.go(-1)"); page.until("document.querySelector('h2').textContent=='boot'")
        for off in ('real','inliers','names','knn, refused'):                             # by pool
            page.js(f"[...document.querySelectorAll('#pools button')].find(b => b.textContent=='{off}').click()")
            page.until(f"!document.querySelector('[data-pool=\"{off}\"]')")
        own = m[m['class']=='boot']
        for order,up in (('near',True),('far',False)):
            page.js(f"o = document.querySelector('#order'); o.value = '{order}'; o.dispatchEvent(new Event('change'))")
            page.until(f"location.hash.includes('order={order}')")
            shown = page.js(SHOWN)
            assert [i for *_,i in shown]==own.sort_values('distance', ascending=up, kind='stable').index.tolist()
        page.js("document.querySelectorAll('figure button')[2].click()")
        page.until("document.querySelector('dialog').open")
        facts = page.js("Object.fromEntries([...document.querySelectorAll('dialog tr')].map(r => [...r.children].map(c "
                        "=> c.textContent)))")
        row = m.loc[shown[2][2]]
        assert (facts['seed']==str(row.seed) and facts['file']==row.file and facts['prompt']==row.prompt
                and facts['rule']=='knn' and facts['rule: k']=='50'
                and float(facts['distance'])==pytest.approx(row.distance, rel=1e-4))
        page.js("document.querySelector('#next').click()")
        assert page.js("document.querySelector('dialog img').getAttribute('src')").endswith(m.file[shown[3][2]])
        page.js("document.querySelector('#close').click()"); assert not page.js("document.querySelector('dialog').open")
        assert page.js(LOADED) and not page.complaints and {u.split(':')[0] for u in page.requests}<={'file','data'}

def test_more_images_on_demand(run):
    with browser() as page:
        page.open(gallery_page(run).as_uri())
        before = len(page.js(SHOWN)); page.js("document.querySelector('.more').click()")
        assert (len(page.js(SHOWN))==before+6
                and page.js("document.querySelector('.count').textContent")==f'{before+6} images shown')

def test_an_embedded_page_stands_alone(run, tmp_path):
    moved = tmp_path/'elsewhere'/'page.html'
    write_gallery(moved, gallery_data(run, per_class=2, real=2))
    with browser() as page:
        page.open(moved.as_uri()+'#class=coat&without=real')
        assert page.js(LOADED.replace('> 9','> 5'))
        assert [p for _,p,_ in page.js(SHOWN)]==['knn']*2+['knn, refused']*2+['inliers']*2
        assert not page.complaints and {u for u in page.requests if not u.startswith('data:')}=={moved.as_uri()}

def test_a_pool_that_is_not_decoded_is_one_sentence(run, tmp_path):
    other = Run.open(run.profile, 0, tmp_path)
    with pytest.raises(DreamError, match='There is no .*knn/metadata.parquet.: decode the pool first'):
        gallery_page(other)
    assert not (other.stage('decoding')/'gallery.html').exists()
