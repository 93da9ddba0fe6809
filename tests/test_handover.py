"""What is handed over: answers for thousands of files, the same answers after an upgrade, promises with intervals,
ONNX, the hub, a check for drift, and a page to try it on."""
import csv, io, json, subprocess, sys, time
from types import SimpleNamespace
from pathlib import Path
import numpy as np, pytest, torch
from PIL import Image
from dream_ood import classifier as clf
from dream_ood.classifier import UNKNOWN, Classifier, as_pixels, load, ready, remembered, scores_differ
from dream_ood.cli import Format, listed, pieces, written
from dream_ood.core import DreamError, load_json, save_json, save_tensors, sha256
from dream_ood.data import ImageSet
from dream_ood.detectors import fit_detector, sure_threshold, threshold_for, threshold_interval
from dream_ood.networks import make_backbone
from dream_ood.own import logistic, make_judge, read_features, spreads, summed
from dream_ood.settings import ImageFormat
from test_own import image_set, made, study

ROOT = Path(__file__).parent.parent

def folder_of(path, detector, greyscale=False, whole=False, size=32):
    "A folder of a classifier of shapes, as `build_classifier` writes it, by one detector or a sum of several."
    torch.manual_seed(0)
    fmt = ImageFormat(image_size=size, mean=[.5]*3, std=[.5]*3, greyscale=greyscale, whole=whole)
    net = make_backbone('resnet_mini', 3, size, own_stem=True).eval()
    train,val = image_set(60, 0),image_set(30, 1)
    head = logistic(f := read_features(net, train, fmt), train.labels, 1.)
    net.get_classifier().load_state_dict(head.state_dict())
    g = read_features(net, val, fmt)
    parts = {k: v.clone() for k,v in zip(('train.logits', 'train.features', 'train.labels', 'validation.logits',
             'validation.features', 'validation.labels'), (head(f), f, train.labels, head(g), g, val.labels))}
    how = dict(detector_settings={}, mirrored=False, k=5, temperature=1., batch_size=32)
    own = '+' in detector
    if own:
        judge = make_judge(head, f, train.labels, [detector])
        by = {n: r(clf.Outputs(head(g), g, val.labels)) for n,r in judge.rules.items()}
        units = spreads(by); scores = summed(by, detector, units)
        parts['units'] = torch.tensor([units[n] for n in detector.split('+')]).double()
    else:
        kept = [clf.Outputs(*(parts[f'{n}.{k}'] for k in ('logits', 'features', 'labels')))
                for n in ('train', 'validation')]
        scores = fit_detector(detector, head, *kept, neighbour=5)(kept[1])
    parts |= {f'net.{k}': v for k,v in net.state_dict().items()}
    parts |= {'validation.scores': scores}
    about = dict(format=1, classes=['disc', 'bar', 'cross'], backbone='resnet_mini', threshold=threshold_for(scores),
                 input=dict(image_size=size, mean=[.5]*3, std=[.5]*3, greyscale=greyscale, whole=whole), recall=.95,
                 method=detector, settings=dict(detector=detector, weights='none', **how), chosen_on=None,
                 images=dict(train=60, validation=30, test=10), promised=threshold_interval(scores),
                 measured=dict(test_images=10, accuracy=.9, coverage=.8, accuracy_of_accepted=.9, ece=.1, ood={},
                               control_auroc={}),
                 made_from=dict(study='shapes', seed=0, foundation=None, packages={'pytorch-ood': '0.4.0'}))
    if own: parts |= remembered(about, parts)
    path.mkdir(parents=True)
    write(path, about, parts)
    return path

def write(path, about, parts):
    save_tensors(path/'classifier.safetensors', **parts)
    save_json(path/'classifier.json', about|dict(weights=sha256(path/'classifier.safetensors')))
    (path/'report.html').write_text('<p>report</p>')

@pytest.fixture(scope='module')
def folder(tmp_path_factory): return folder_of(tmp_path_factory.mktemp('own')/'classifier', 'energy+mahalanobis')

@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    "Pictures, and what lies in folders beside them."
    d = tmp_path_factory.mktemp('photos')
    for i,x in enumerate(image_set(70, 5).images):
        Image.fromarray(x.permute(1, 2, 0).numpy()).save(d/f'{i:03}.{"png" if i%2 else "jpg"}')
    (d/'.hidden.png').write_bytes(b'x'); (d/'notes.txt').write_text('x')
    (d/'no_suffix').write_bytes((d/'001.png').read_bytes())
    return d

# -- thousands of files -----------------------------------------------------------------------------------------------
def test_each_is_what_scores_says_in_the_order_that_was_given(folder, photos, tmp_path):
    c,files = load(folder, 'cpu'),listed([photos])[0]
    (tmp_path/'bad.png').write_bytes(b'no picture')
    files[5:5] = [tmp_path/'bad.png', tmp_path/'none.png']
    got = list(c.each(files, batch=16))
    assert [f for f,_ in got] == files
    assert [f.name for f,s in got if isinstance(s, DreamError)] == ['bad.png', 'none.png']
    good = [(f, s) for f,s in got if not isinstance(s, DreamError)]
    want = c.scores([f for f,_ in good])
    assert torch.allclose(torch.stack([s.score for _,s in good]), want.score, atol=1e-5)
    assert torch.allclose(torch.stack([s.probabilities for _,s in good]), want.probabilities, atol=1e-5)
    assert list(c.each([])) == []

def test_each_file_is_decoded_once_and_not_far_ahead(folder, photos, monkeypatch):
    c,files,read = load(folder, 'cpu'),listed([photos])[0],[]
    monkeypatch.setattr(clf, 'read_image', lambda f, g=False, _r=clf.read_image: (read.append(f), _r(f, g))[1])
    list(c.each(files)); assert sorted(read) == sorted(files)
    read.clear()
    one = ready(iter(files), c.fmt, threads=2, ahead=8); next(one); time.sleep(.2)
    assert len(read) <= 10
    one.close()

def test_a_folder_is_listed_as_everywhere(photos):
    files,left = listed([photos, photos/'notes.txt'])
    assert len(files) == 72 and files[-1].name == 'notes.txt' and photos/'no_suffix' in files
    assert len(left) == 1 and '1 file left out' in left[0] and 'notes.txt' in left[0]

@pytest.mark.parametrize('n', [0, 1, 3])
def test_rows_are_written_as_they_come_and_are_whole(n):
    rows = [dict(file=f'{i}, "x".png', answer='disc', score=float(i)) for i in range(n)]
    assert json.loads(written(rows, Format.json)) == rows
    assert written(rows, Format.json) == json.dumps(rows, indent=1)+'\n'
    back = list(csv.DictReader(io.StringIO(written(rows, Format.csv))))
    assert back == [{k: str(v) for k,v in r.items()} for r in rows]
    assert len(written(rows, Format.table).splitlines()) == n+1

def test_the_first_row_does_not_wait_for_the_last():
    def slow():
        yield dict(a=1); raise KeyboardInterrupt
    for f in (Format.csv, Format.json):
        said = []
        with pytest.raises(KeyboardInterrupt):
            for p in pieces(slow(), f): said.append(p)
        assert '1' in ''.join(said)

def test_predict_answers_a_folder(folder, photos, tmp_path):
    (tmp_path/'bad.png').write_bytes(b'no picture')
    r = subprocess.run([sys.executable, '-m', 'dream_ood', 'predict', folder, photos, tmp_path, '--format', 'csv',
                        '--batch', '16'], capture_output=True, text=True, cwd=ROOT)
    assert (r.returncode == 1 and r.stderr.count('\n') == 2 and 'bad.png' in r.stderr
            and 'notes.txt' in r.stderr), r.stderr
    rows = list(csv.DictReader(io.StringIO(r.stdout)))
    c,files = load(folder, 'cpu'),listed([photos])[0]
    assert [r['file'] for r in rows] == list(map(str, files)) and [r['answer'] for r in rows] == c(files)

# -- the same answers after an upgrade --------------------------------------------------------------------------------
DETECTORS = ['msp', 'energy', 'gen', 'knn', 'mahalanobis', 'kl_matching', 'combined', 'fisher', 'energy+mahalanobis',
             'msp+mahalanobis', 'energy+knn']

@pytest.mark.parametrize('detector', DETECTORS)
def test_a_score_that_was_rescaled_is_refused(detector, tmp_path, monkeypatch):
    f = folder_of(tmp_path/'it', detector)
    load(f, 'cpu')
    import dream_ood.detectors as d
    name = dict(combined='knn', fisher='mahalanobis').get(detector, detector.split('+')[-1])
    def other(*args, **kwargs):
        it = d.DETECTORS[f'old {name}'](*args, **kwargs)
        class Rescaled:
            def __getattr__(self, n):
                if not n.startswith('predict_'): return getattr(it, n)
                if not hasattr(it, n): raise AttributeError(n)
                return lambda z: getattr(it, n)(z).double()**3*.3
        return Rescaled()
    monkeypatch.setitem(d.DETECTORS, f'old {name}', d.DETECTORS[name])
    monkeypatch.setitem(d.DETECTORS, name, other)
    if detector in ('combined', 'fisher'): load(f, 'cpu')   # ranks are the same on every scale
    else:
        with pytest.raises(DreamError, match='pytorch-ood .* 0.4.0; install') as e: load(f, 'cpu')
        assert '\n' not in str(e.value)

def test_a_folder_made_before_is_still_read(folder, tmp_path):
    from dream_ood.core import load_tensors
    t = {k: v for k,v in load_tensors(folder/'classifier.safetensors').items() if not k.startswith('check.')}
    about = {k: v for k,v in load_json(folder/'classifier.json').items() if k != 'promised'}
    del about['input']['whole']; (tmp_path/'old').mkdir(); write(tmp_path/'old', about, t)
    x = image_set(9, 3).images
    assert load(tmp_path/'old', 'cpu')(x) == load(folder, 'cpu')(x)

def test_the_check_costs_little(folder):
    from dream_ood.core import load_tensors
    c,t = load(folder, 'cpu'),load_tensors(folder/'classifier.safetensors')
    scores_differ(c, t); began = time.perf_counter(); assert not scores_differ(c, t)
    assert time.perf_counter()-began < .2

# -- what a threshold promises ----------------------------------------------------------------------------------------
@pytest.mark.parametrize('n,recall', [(20, .95), (100, .95), (100, .5), (1, 1.)])
def test_the_interval_is_that_of_clopper_and_pearson(n, recall):
    from scipy.stats import beta
    s = np.random.default_rng(n).normal(size=n)
    k = int(np.ceil(round(n*recall, 9)))
    assert threshold_interval(s, recall) == pytest.approx(beta.ppf([.025, .975], k, n+1-k))

def test_ties_count_as_accepted():
    assert threshold_interval(np.ones(10), .5) == threshold_interval(np.arange(10.), 1.)

def test_to_be_sure_takes_a_lower_threshold_and_enough_images(folder):
    s = np.random.default_rng(0).normal(size=100)
    assert sure_threshold(s, .9, .9) < threshold_for(s, .9) and sure_threshold(s, .9, .99) <= sure_threshold(s, .9, .9)
    assert sure_threshold(s[:45], .95, .9) == s[:45].min()
    with pytest.raises(DreamError, match='takes 45'): sure_threshold(s[:44], .95, .9)
    c = load(folder, 'cpu')
    assert c.at(.8, sure=.9).threshold == sure_threshold(c.validation_scores, .8, .9)
    with pytest.raises(DreamError, match='too few'): c.at(.99, sure=.9)

# -- one file for other languages -------------------------------------------------------------------------------------
def exported(f, tmp_path, **change):
    from dream_ood.handover import OnnxClassifier, export_onnx
    c = load(f, 'cpu')
    by = export_onnx(c, tmp_path/'model.onnx')
    assert max(by.values()) < 1e-4 and len(by) == 10
    return c, OnnxClassifier(tmp_path/'model.onnx')

@pytest.mark.parametrize('detector,how', [
    ('msp', dict(greyscale=True)), ('maxlogit', dict(whole=True)), ('knn', {}),
    ('mahalanobis', dict(greyscale=True, whole=True)), ('combined', {}), ('fisher', {}),
    ('energy+mahalanobis', dict(size=48)), ('energy+knn', {})])
def test_the_file_says_what_the_classifier_says(detector, how, tmp_path):
    c,o = exported(folder_of(tmp_path/'it', detector, **how), tmp_path)
    x = list(image_set(24, 7).images)+[torch.randint(0, 256, (3, *s), dtype=torch.uint8) for s in ((20, 90), (131, 33))]
    a,b = c.scores(x),o.scores(x)
    assert torch.allclose(a.score, b.score, atol=1e-4*float(c.validation_scores.std())) and c(x) == o(x)
    assert torch.allclose(a.probabilities, b.probabilities, atol=1e-5)
    assert o.classes == c.classes and o.threshold == c.threshold and o(x[0]) == c(x[0]) and o([]) == []

@pytest.mark.parametrize('size,shape', [(s, h) for s in (32, 64, 224) for h in
                         ((1, 1), (20, 3000), (900, 7), (97, 131), (64, 64), (224, 225), (500, 375))])
def test_pixels_are_resized_to_the_bit(size, shape):
    import onnx, onnxruntime
    from dream_ood.data import eval_transform, geometry
    from dream_ood.handover import Graph, prepared
    fmt = ImageFormat(image_size=size, mean=[.5, .4, .3], std=[.5, .6, .7])
    g = Graph(); h,T = g.helper,onnx.TensorProto; o = prepared(g, 'pixels', fmt)
    m = h.make_model(h.make_graph(g.nodes, 'g', [h.make_tensor_value_info('pixels', T.UINT8, ['h', 'w', 3])],
                                  [h.make_tensor_value_info(o, T.FLOAT, None)], g.constants),
                     opset_imports=[h.make_opsetid('', 18)], ir_version=9)
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8))
    [got] = onnxruntime.InferenceSession(m.SerializeToString()).run(None, dict(pixels=x.numpy()))
    assert np.array_equal(got, eval_transform(fmt)(geometry(size)(x.permute(2, 0, 1))[None]).numpy())

def test_a_mirrored_one_and_a_stricter_one_are_exported(tmp_path):
    from dream_ood.core import load_tensors
    from dream_ood.handover import OnnxClassifier, export_onnx
    f = folder_of(tmp_path/'it', 'energy')
    t,about = load_tensors(f/'classifier.safetensors'),load_json(f/'classifier.json')
    t |= {f'mirrored.{k}': t[f'validation.{k}'].clone() for k in ('logits', 'features', 'labels')}
    about['settings']['mirrored'] = True; write(f, about, t)
    c = load(f, 'cpu').at(.5); export_onnx(c, tmp_path/'m.onnx'); o = OnnxClassifier(tmp_path/'m.onnx')
    x = list(image_set(24, 7).images)
    assert o(x) == c(x) and UNKNOWN in o(x) and o.threshold == c.threshold and c.mirrored

def test_what_cannot_be_exported_is_a_sentence_and_leaves_no_file(tmp_path, monkeypatch):
    import dream_ood.handover as h
    with pytest.raises(DreamError, match="detector 'gen' cannot be exported") as e:
        h.export_onnx(load(folder_of(tmp_path/'it', 'gen'), 'cpu'), tmp_path/'m.onnx')
    assert '\n' not in str(e.value)
    c = load(folder_of(tmp_path/'other', 'energy'), 'cpu')
    monkeypatch.setattr(h, 'rounded', lambda g, x, p: g.Clip(g.Div(x, p), 0., 255.))   # pixels that are not rounded
    with pytest.raises(DreamError, match='gives other scores'): h.export_onnx(c, tmp_path/'m.onnx')
    assert not (tmp_path/'m.onnx').exists()
    (tmp_path/'x.onnx').write_bytes(b'no model')
    with pytest.raises(DreamError, match='no exported classifier'): h.OnnxClassifier(tmp_path/'x.onnx')

# -- the hub ----------------------------------------------------------------------------------------------------------
def test_saved_and_loaded_anew_it_answers_the_same(folder, tmp_path):
    c,x = load(folder, 'cpu'),list(image_set(24, 7).images)
    for k in (c, c.at(.6)):
        k.save_pretrained(tmp_path/'new')
        again = Classifier.from_pretrained(tmp_path/'new')
        assert again(x) == k(x) and again.about['recall'] == k.about['recall'] and again.threshold == k.threshold
    again.save_pretrained(tmp_path/'new')                # upon itself
    assert Classifier.from_pretrained(str(tmp_path/'new'))(x) == k(x)
    c.folder = tmp_path/'gone'
    with pytest.raises(DreamError, match='is gone'): c.save_pretrained(tmp_path/'other')

def test_what_is_pushed_is_the_folder_with_its_card(folder, monkeypatch):
    import huggingface_hub.hub_mixin as hub
    pushed = {}
    def upload(self, repo_id, folder_path, **_):
        pushed.update(repo=repo_id, files={f.name for f in Path(folder_path).iterdir()})
    monkeypatch.setattr(hub.HfApi, 'create_repo', lambda self, repo_id, **_: SimpleNamespace(repo_id=repo_id))
    monkeypatch.setattr(hub.HfApi, 'upload_folder', upload)
    load(folder, 'cpu').push_to_hub('me/shapes')
    assert pushed['repo'] == 'me/shapes'
    assert pushed['files'] == {'README.md', 'classifier.json', 'classifier.safetensors', 'report.html', 'config.json'}

def test_from_the_hub_only_what_is_needed_is_fetched(folder, monkeypatch):
    asked = {}
    monkeypatch.setattr('huggingface_hub.hub_mixin.hf_hub_download', lambda **k: str(folder/'classifier.json'))
    monkeypatch.setattr(clf, 'snapshot_download', lambda i, **k: asked.update(k, id=i) or str(folder))
    c = Classifier.from_pretrained('me/shapes', revision='v1', device='cpu')
    assert asked['id'] == 'me/shapes' and asked['revision'] == 'v1' and 'classifier.json' in asked['allow_patterns']
    assert c.classes == ['disc', 'bar', 'cross']

def test_the_card_is_one_that_the_hub_reads(folder):
    from huggingface_hub import ModelCard
    about = load_json(folder/'classifier.json')
    about['measured']['ood'] = dict(rings=dict(group='near', images=20, accepted=.1))
    card = ModelCard(clf.model_card(about, thumbnails=True))
    assert card.data.library_name == 'dream_ood' and 'out-of-distribution-detection' in card.data.tags
    assert not card.data.license
    for words in ('90.0% (59.6% to 98.2%)', 'near strangers accepted, wrongly: rings (20 images) | 10.0%',
                  'delete that file', 'validation images; of new pictures'): assert words in card.text, words
    assert 'thumbnails' not in clf.model_card(about)

# -- drift ------------------------------------------------------------------------------------------------------------
def test_the_chance_is_that_of_an_order_statistic():
    from dream_ood.handover import compared
    g = np.random.default_rng(0)
    s = torch.from_numpy(g.normal(size=40)); c = SimpleNamespace(validation_scores=s, threshold=threshold_for(s, .9))
    def tail(refused): return compared(c, refused, 30).p
    assert [compared(c, r, 30).drifted for r in (0, 3, 30)] == [False, False, True] and tail(30) < tail(10) < tail(3)
    refused = []                                         # drawn anew, images and threshold
    for _ in range(4000):
        v = g.normal(size=40); refused.append((g.normal(size=30) < threshold_for(v, .9)).sum())
    lo,hi = compared(c, 0, 30).promised
    assert lo <= np.quantile(refused, .02)/30 and np.mean([lo*30-1e-9 <= r <= hi*30+1e-9 for r in refused]) > .94
    assert tail(10) == pytest.approx(min(1, 2*np.mean(np.array(refused) >= 10)), abs=.02)

def test_a_folder_of_others_has_drifted_and_one_like_it_has_not(folder, photos, tmp_path):
    from dream_ood.handover import drift
    c = load(folder, 'cpu')
    same = drift(c, photos); assert same.images == 71 and not same.drifted and 'as promised' in str(same)
    g = np.random.default_rng(0)     # pictures of large grey squares at random
    for i in range(20):
        Image.fromarray(g.integers(0, 256, (6,8)).astype(np.uint8)).resize((80,60), 0).save(tmp_path/f'{i}.png')
    (tmp_path/'bad.png').write_bytes(b'no picture')
    d = drift(c.at(.9), tmp_path)
    assert d.images == 20 and len(d.unreadable) == 1 and d.p < .05, d
    odd = drift(c.at(.5), tmp_path); assert odd.refused >= d.refused and str(odd.refused) in str(odd)
    (tmp_path/'empty').mkdir()
    with pytest.raises(DreamError, match='no pictures'): drift(c, tmp_path/'empty')

# -- why, and a page --------------------------------------------------------------------------------------------------
def test_an_image_is_its_own_nearest(folder):
    from dream_ood.handover import nearest
    c,train = load(folder, 'cpu'),image_set(60, 0)
    n = nearest(c, list(train.images[:6]), 4)
    assert n.index[:, 0].tolist() == list(range(6)) and n.distance[:, 0].max() < 1e-2 and n.index.shape == (6, 4)
    assert torch.equal(n.labels, train.labels[n.index]) and (n.distance.diff(dim=1) >= 0).all()

@pytest.fixture(scope='module')
def page(folder, tmp_path_factory):
    from threading import Thread
    from dream_ood.handover import demo_server, thumbnail_sheet
    d = tmp_path_factory.mktemp('demo')/'it'
    load(folder, 'cpu').save_pretrained(d)
    thumbnail_sheet(image_set(60, 0), 64).save(d/'thumbnails.webp')
    server = demo_server(load(d, 'cpu'), 0)
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown(); server.server_close()

def ask(server, path='/ask', body=None, method='POST', **headers):
    from http.client import HTTPConnection
    c = HTTPConnection('127.0.0.1', server.server_port, timeout=20)
    c.request(method, path, body, {k.replace('_', '-'): v for k,v in headers.items()})
    r = c.getresponse()
    return r.status, r.read().decode()

def png(x):
    f = io.BytesIO(); Image.fromarray(x.permute(1, 2, 0).numpy()).save(f, 'PNG')
    return f.getvalue()

def test_the_page_answers_and_shows_why(page, folder):
    c,x = load(folder, 'cpu'),image_set(60, 0).images[4]
    code,text = ask(page, body=png(x)); said = json.loads(text)
    assert code == 200 and said['answer'] == c(x)
    assert said['score'] == pytest.approx(float(c.scores(x).score[0]), abs=1e-4)
    assert said['accepted'] == (said['score'] >= said['threshold'])
    assert sum(p for _,p in said['classes']) == pytest.approx(1)
    assert said['nearest'][0]['name'] == 'bar' and all(n['src'].startswith('data:image/png') for n in said['nearest'])
    import base64
    near = Image.open(io.BytesIO(base64.b64decode(said['nearest'][0]['src'].split(',')[1])))
    assert np.abs(np.asarray(near).astype(float)-x.permute(1, 2, 0).numpy()).mean() < 12    # the picture itself

@pytest.mark.parametrize('call,code', [
    (dict(body=b'no picture'), 400), (dict(path='/../../etc/passwd', method='GET'), 404),
    (dict(path='/ask', method='GET'), 404), (dict(path='/other', body=b'x'), 404),
    (dict(body=b'x', Host='evil.example'), 403), (dict(method='GET', path='/', Host='evil.example'), 403),
    (dict(body=b'x', Origin='http://evil.example'), 403), (dict(body=b'x', Content_Length='99999999999'), 413),
    (dict(body=b''), 413), (dict(body=b'x', Content_Length='-5'), 411)])
def test_the_page_takes_pictures_only(page, call, code):
    got,text = ask(page, **call)
    assert got == code and 'error' in json.loads(text) and 'Traceback' not in text and '/work' not in text

def test_the_page_is_for_this_machine_alone_and_asks_nobody(page):
    assert page.server_address[0] == '127.0.0.1'
    code,text = ask(page, '/', method='GET')
    assert code == 200 and 'http' not in text.replace('http-equiv', '') and '{{' not in text
    from dream_ood.handover import demo_server
    with pytest.raises(DreamError, match='Port'): demo_server(load(page_folder(page), 'cpu'), page.server_port)

def page_folder(server): return server.answer.__closure__[0].cell_contents.folder

def test_a_browser_shows_an_answer(page, tmp_path):
    from browser import browser
    (tmp_path/'x.png').write_bytes(png(image_set(60, 0).images[4]))
    with browser() as b:
        b.open(f'http://127.0.0.1:{page.server_port}/')
        b.page.set_input_files('#pick', str(tmp_path/'x.png'))
        b.until("!!document.querySelector('article .near img')")
        assert b.js("document.querySelectorAll('.near img').length") == 5 and not b.complaints
        assert b.js("[...document.images].every(i => i.complete && i.naturalWidth>0)")
        assert all(u.startswith((f'http://127.0.0.1:{page.server_port}/', 'data:', 'blob:')) for u in b.requests)

# -- from the command line, on a folder that was made whole -----------------------------------------------------------
def call(*args):
    r = subprocess.run([sys.executable, '-m', 'dream_ood', *map(str, args)], capture_output=True, text=True, cwd=ROOT)
    return r.returncode, r.stdout, r.stderr

def test_commands(folder, photos, tmp_path):
    code,out,err = call('drift', folder, photos)
    assert code == 0 and 'as promised' in out, err
    code,out,err = call('export', folder, tmp_path/'m.onnx')
    assert code == 0 and (tmp_path/'m.onnx').is_file() and 'agrees to' in out, err
    code,_,err = call('drift', folder, tmp_path/'none')
    assert code == 2 and err.startswith('Error: There are no pictures') and len(err.strip().splitlines()) == 1

def test_the_folder_of_a_study_has_it_all(made):
    from dream_ood.handover import export_onnx, nearest, thumbnails
    from dream_ood.stages import own_sets
    run,folder = made
    c,own = load(folder, 'cpu'),own_sets(run)['own']
    assert c.about['promised'] == list(threshold_interval(c.validation_scores, .95))
    assert torch.equal(c.kept['train'].labels, own.labels)
    n,thumbs = nearest(c, [own.images[7]], 1),thumbnails(c)
    assert n.index.item() == 7 and n.distance.item() < .05
    small = np.asarray(thumbs(7)).astype(float)
    assert np.abs(small-own.at(7, 64).permute(1, 2, 0).numpy()).mean() < 12
    assert 'Apache-2.0' in (folder/'README.md').read_text() and 'thumbnails' in (folder/'README.md').read_text()
    page = (folder/'report.html').read_text()
    assert 'of new images like them' in page and 'give or take' not in page
