"""A practitioner's path: a folder of images, a short profile, and a classifier in a folder of its own that may say
that it does not know."""
import copy, re, shutil, subprocess, sys
from pathlib import Path

import numpy as np, pandas as pd, pytest, torch, yaml
from PIL import Image
from dream_ood.classifier import *
from dream_ood.classifier import FILES
from dream_ood.report import *
from dream_ood.data import id_set, validation_outliers
from dream_ood.stages import *
from dream_ood.detectors import threshold_for
from dream_ood.stages import load_scores, run_evaluation
from dream_ood.core import DreamError, load_json, load_tensors, save_json, save_tensors, sha256
from dream_ood.settings import SPLITS, share_of
from dream_ood.study import Profile, load_profile, merged, only
from dream_ood.runs import Run
from test_workflow import hollow, notebook, project

ROOT = Path(__file__).parent.parent
BASES = ['own_small', 'own_pretrained', 'own']

def draw(path, seed, kind=0):
    "A picture of a made-up class: bright stripes in one direction, or the other."
    g = np.random.default_rng(seed)
    x = g.integers(0, 60, (36, 40))
    x[slice(None, None, 4) if kind == 0 else slice(None), slice(None) if kind == 0 else slice(None, None, 4)] += 150
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.stack([x, x, x//2], 2).astype(np.uint8)).save(path)

@pytest.fixture(scope='session')
def shop(tmp_path_factory):
    "A folder with two subfolders, and one of something else."
    d = tmp_path_factory.mktemp('shop')
    for kind, c in enumerate(('boot', 'coat')):
        for i in range(80): draw(d/'mine'/c/f'{i}.png', 100*kind+i, kind)
    for i in range(8): draw(d/'other'/'cup'/f'{i}.png', 500+i, i % 2)
    return d

def written(path, **d):
    path.write_text(yaml.safe_dump(d))
    return path

def mine(shop, tmp_path, **own):
    return written(tmp_path/'mine.yaml',
                   **merged(dict(base=str(ROOT/'profiles'/'own_small.yaml'), name='mine',
                                 data=dict(images=str(shop/'mine'))), own))

# -- a profile on a profile -------------------------------------------------------------------------------------------
@pytest.mark.parametrize('base', BASES)
def test_a_base_and_five_lines_are_a_whole_profile(shop, tmp_path, base):
    p = load_profile(written(tmp_path/'mine.yaml', base=str(ROOT/'profiles'/f'{base}.yaml'), name='mine',
                             data=dict(images=str(shop/'mine'),
                                       ood=dict(faces=None,
                                                cups=dict(group='near', kind='folder', path=str(shop/'other'))))))
    assert (p.data.classes == ['boot', 'coat'] and 'faces' not in p.data.ood and p.data.ood['cups'].group == 'near'
            and 'noise' in p.data.ood)
    assert len(only(p, [list(p.evaluation.methods)[-1]]).training.contenders) <= len(p.training.contenders)

@pytest.mark.parametrize('base', BASES)
def test_a_base_alone_says_what_it_lacks(base):
    with pytest.raises(DreamError, match='there are no images: name a folder') as e:
        load_profile(ROOT/'profiles'/f'{base}.yaml')
    assert '\n' not in str(e.value)

def test_it_is_the_profile_that_one_would_write_out(shop, tmp_path):
    p = load_profile(mine(shop, tmp_path, training=dict(beta=.5)))
    whole = load_profile(written(tmp_path/'whole.yaml', **p.model_dump(exclude_none=True)))
    assert (whole == p and [Run(q, 0, tmp_path).stage(s).key for q in (p, whole)
                            for s in ('data', 'evaluation')][:2] == [Run(whole, 0, tmp_path).stage(s).key
                            for s in ('data', 'evaluation')])

def test_a_base_may_have_a_base_and_lie_beside(shop, tmp_path):
    mine(shop, tmp_path)
    p = load_profile(written(tmp_path/'next.yaml', base='mine.yaml', name='next', training=dict(epochs=3)))
    assert (p.name, p.training.epochs, p.data.classes) == ('next', 3, ['boot', 'coat'])

@pytest.mark.parametrize('own,words',
                         [(dict(base='none.yaml'), "no profile 'none.yaml', which .*mine.yaml' has as its base"),
                          (dict(base='mine.yaml'), 'is based on itself'),
    (dict(data=dict(images='nowhere')), "no image folder 'nowhere'"),
    (dict(data=dict(train=dict(kind='digits'))), 'so leave out train; a null'),
    (dict(data=dict(classes=['boot', 'hat'])), None), (dict(trainng={}), "'trainng' is not a known key")])
def test_a_profile_that_cannot_be_is_one_sentence(shop, tmp_path, own, words):
    file = mine(shop, tmp_path, **own)
    with pytest.raises(DreamError, match=words or "no images of \\['hat'\\]") as e:
        p = load_profile(file)
        if words is None: check_study(p)
    assert '\n' not in str(e.value)

def test_a_circle_of_bases_is_one_sentence(tmp_path):
    for a, b in ('ab', 'bc', 'ca'): written(tmp_path/f'{a}.yaml', base=f'{b}.yaml')
    with pytest.raises(DreamError, match="c.yaml.*is based on itself|a.yaml' is based on itself, by way of .*c.yaml"):
        load_profile(tmp_path/'a.yaml')

def test_both_bases_can_be_planned(shop, tmp_path):
    for base in BASES:
        profile = written(tmp_path/'mine.yaml', base=str(ROOT/'profiles'/f'{base}.yaml'), name='mine',
                          data=dict(images=str(shop/'mine')))
        r = subprocess.run([sys.executable, '-m', 'dream_ood', 'plan', '--profile', str(profile), '--seeds', '0',
                            '--runs', str(tmp_path/'runs')], cwd=ROOT, capture_output=True, text=True)
        assert ((r.returncode == 0 and 'The graph' in r.stdout
                 and ('CompVis' in r.stdout) == (base == 'own'))), r.stdout + r.stderr

# -- one folder, three splits -----------------------------------------------------------------------------------------
def files(p):
    return {s: {Path(f).relative_to(p.data.train.path).as_posix() for f in id_set(p.data, s).images} for s in SPLITS}

def test_splits_are_disjoint_complete_and_stay_when_an_image_is_added_or_the_folder_moves(shop, tmp_path):
    shutil.copytree(shop/'mine', tmp_path/'own'/'mine')
    before = files(load_profile(mine(shop, tmp_path)))
    assert sum(map(len, before.values())) == 160 == len(set().union(*before.values())) and len(before['train']) > 70
    for i in range(20): draw(tmp_path/'own'/'mine'/'boot'/f'new{i}.png', i)
    after = files(load_profile(mine(tmp_path/'own', tmp_path)))
    assert all(before[s] <= after[s] for s in SPLITS) and sum(map(len, after.values())) == 180
    assert all(SPLITS[s][0] <= share_of(sha256(tmp_path/'own'/'mine'/f)) < SPLITS[s][1]
               for s in SPLITS for f in after[s])

def test_an_image_added_makes_the_study_stale_and_the_same_folder_elsewhere_does_not(shop, tmp_path):
    shutil.copytree(shop/'mine', tmp_path/'own'/'mine')
    p = load_profile(mine(tmp_path/'own', tmp_path, data=dict(ood=dict(photographs=None, textures=None, symbols=None))))
    run = Run.open(p, 0, tmp_path/'runs')
    run_data(run)
    assert run.stage('data').done
    made = run.stage('data')._read('provenance.json')['result']
    shutil.copy(tmp_path/'own'/'mine'/'boot'/'1.png', tmp_path/'own'/'mine'/'boot'/'1 (2).png')
    assert not run.stage('data').done
    run_data(run)
    assert run.stage('data')._read('provenance.json')['result'] != made

def test_outliers_that_bear_a_class_name_are_none(shop, tmp_path):
    p = load_profile(mine(shop, tmp_path)); noun = validation_outliers(p.data).nouns[0]
    named = load_profile(mine(shop, tmp_path, data=dict(nouns=dict(boot=noun))))
    assert (noun not in validation_outliers(named.data).nouns
            and len(validation_outliers(named.data)) == validation_outliers(p.data).nouns.__len__()
            -validation_outliers(p.data).nouns.count(noun))

@pytest.mark.parametrize('spoil,own,words', [
    (lambda d: (d/'boot'/'7.png').write_bytes(b'no picture'), {},
     "1 of your images cannot be read .*boot/7.png.*: replace or remove it"),
    (lambda d: (d/'hat').mkdir(), {}, "no images of \\['hat'\\]"),
    (lambda d: draw(d/'hat'/'a.png', 1), {}, "'hat' has 1 images in .* too few to have some in every split"),
    (lambda d: None, dict(sampling=dict(pools=dict(knn=dict(k=70)))),
     "training images, and the distance to the neighbour sampling.pools.knn.k = 70 needs 71"),
    (lambda d: None, dict(evaluation=dict(k=500)), 'fewer than evaluation.k = 500'),
    (lambda d: (d/'boot').rename(d/'xylophone'), {}, "does not know the word 'xylophone' \\(try piano, "),
    (lambda d: shutil.rmtree(d/'boot'), {}, 'has 1 subfolder: it needs one for each class'),
    (lambda d: shutil.rmtree(d), {}, 'no image folder'),
])
def test_what_a_folder_lacks_is_one_sentence_before_anything_runs(shop, tmp_path, spoil, own, words):
    shutil.copytree(shop/'mine', tmp_path/'own'/'mine')
    spoil(tmp_path/'own'/'mine')
    with pytest.raises(DreamError, match=words) as e: check_study(load_profile(mine(tmp_path/'own', tmp_path, **own)))
    assert '\n' not in str(e.value)

def test_the_command_says_one_sentence(shop, tmp_path):
    for profile, seed in ((mine(shop, tmp_path, data=dict(images=str(shop/'none'))), '0'), (tmp_path/'none.yaml', '0')):
        r = subprocess.run([sys.executable, '-m', 'dream_ood', 'classifier', str(profile), '--seed', seed, '--runs',
                            str(tmp_path/'runs')], cwd=ROOT, capture_output=True, text=True)
        assert (r.returncode and r.stderr.startswith('Error: ') and len(r.stderr.strip().splitlines()) == 1
                and not (tmp_path/'runs').exists()), r.stderr

# -- the command ------------------------------------------------------------------------------------------------------
def command(folder, seed='0'):
    r = subprocess.run([sys.executable, '-m', 'dream_ood', 'classifier', 'profiles/smoke.yaml', '--seed', seed],
                       cwd=folder, capture_output=True, text=True)
    return r.returncode, r.stdout + r.stderr

def test_it_runs_what_is_missing_up_to_the_evaluation_then_the_classifier_then_nothing(project):
    notebook(project/'nbs'/'09_classifier.ipynb', """from pathlib import Path
from dream_ood.core import *
from dream_ood.settings import *
from dream_ood.study import *
from dream_ood.runs import *
from dream_ood.plots import *
run = Run.open(profile, seed, runs)
if Path('broken').exists(): raise DreamError('The image x.png is corrupt: delete it.')
for f in ('classifier.safetensors', 'report.html'): save_json(run.folder.parent/'classifier'/f, 1)
made = dict(seed=seed, evaluation=run.stage('evaluation').require()._read('provenance.json')['result'])
save_json(run.folder.parent/'classifier'/'classifier.json', dict(recall=.95, format=1, made_from=made))""",
parameters="profile = None\nseed = None\nruns = None")
    run = hollow(project)
    shutil.rmtree(run.stage('dream_id').folder); (run.folder/'done'/'07_dream_id.json').unlink()
    shutil.rmtree(run.stage('evaluation').folder)
    (project/'broken').touch()
    code, said = command(project)
    assert (code and 'The image x.png is corrupt' in said and 'Traceback' not in said
            and not (run.folder.parent/'classifier').exists())
    (project/'broken').unlink()
    code, said = command(project)
    assert (code == 0 and re.findall(r'== \[\d of \d\] (.*)', said)[-1] == 'The classifier of smoke, seed 0'
            and "classify = load('_runs/smoke/classifier')" in said), said
    assert not run.stage('dream_id').folder.exists() and not (run.folder.parent/'tables').exists()
    code, said = command(project)
    assert code == 0 and 'Nothing to be done' in said
    (run.folder.parent/'classifier'/'classifier.json').write_text('{')          # what is damaged is made again,
    hollow(project, 1)
    code, said = command(project, '1')                                      # and for another seed, another classifier
    assert (code == 0 and '[1 of 1] The classifier of smoke, seed 1' in said
            and load_json(run.folder.parent/'classifier'/'classifier.json')['made_from']['seed'] == 1)
    code, said = command(project, 'one')
    assert code and said == "Error: SEEDS is 'one': a classifier is made of one seed, a whole number such as 0.\n"

# -- the choice -------------------------------------------------------------------------------------------------------
def chosen_of(run, rows):
    "Which method is chosen if validation.csv says so."
    stage = run.stage('evaluation')
    pd.DataFrame(rows).to_csv(stage/'validation.csv', index=False)
    return compare_methods(run)

@pytest.fixture
def judged(trained, tmp_path):
    "A finished evaluation that may be tampered with."
    run = copy.copy(trained)
    run.folder = tmp_path/'runs'/'mini'/'seed0'
    shutil.copytree(trained.folder, run.folder)
    s = run.stage('evaluation').begin(); save_json(s/'r.json', 1); s.finish('r.json')
    return run

def test_the_choice_is_the_lowest_fpr_that_costs_at_most_half_a_point(judged):
    def row(m, fpr, acc): return dict(method=m, fpr95=fpr, auroc=.9, id_acc=acc)
    rows = [row('Energy', .5, .900), row('KNN', .4, .900), row('Dreams', .1, .894), row('Both', .2, .896)]
    t = chosen_of(judged, rows)
    assert chosen_method(t) == 'Both' and t.allowed.tolist() == [True, True, False, True]
    # half a point is allowed
    assert chosen_method(chosen_of(judged, rows[:2]+[row('Dreams', .1, .895)]+rows[3:])) == 'Dreams'
    (judged.stage('evaluation')/'validation.csv').unlink()
    t = compare_methods(judged)
    # the last, and the report says so
    assert chosen_method(t) == 'Both' and t.fpr95.isna().all()
    assert how_chosen(judged, t)['judged'] is False

# -- the folder -------------------------------------------------------------------------------------------------------
@pytest.fixture(scope='module')
def evaluated(trained):
    run_evaluation(trained)
    return trained

@pytest.fixture(scope='module')
def folder(evaluated): return build_classifier(evaluated)

def rebuilt(run, detector, tmp_path, **settings):
    "A classifier of another detector of the run, in a folder of its own."
    d = run.profile.model_dump()
    d['evaluation']['methods'] = dict(it=dict(contender='dreams', detector=detector, **settings))
    new = copy.copy(run); new.profile, new.folder = Profile(**d), tmp_path/'mini'/'seed0'
    for s in ('data', 'foundation', 'latent_space', 'sampling', 'decoding', 'training'):
        shutil.copytree(run.folder/s, new.folder/s)
    run_evaluation(new)
    return new, load(build_classifier(new))

@pytest.mark.parametrize('detector,settings', [('msp', {}), ('energy', {}), ('knn', {}), ('knn', dict(tuned=True)),
    ('combined', {}), ('fisher', {}), ('fisher', dict(tuned=True)), ('fisher', dict(mirrored=True)),
    ('energy', dict(mirrored=True, tuned=True)), ('mahalanobis', {}), ('react', {}), ('kl_matching', {}), ('odin', {})])
def test_its_scores_are_those_of_the_evaluation(evaluated, detector, settings, tmp_path):
    run, classify = rebuilt(evaluated, detector, tmp_path, **settings)
    stage = load_scores(run)['it']
    for name, ds in results(run, 'it').sets.items():
        assert torch.allclose(classify.scores(ds.images).score, stage[name], rtol=1e-5, atol=1e-6), name
    assert classify.threshold == threshold_for(stage['ID validation'], .95)

def test_answers_follow_the_threshold_and_recall_sets_it(evaluated, folder):
    classify, test = load(folder), id_set(evaluated.profile.data, 'test')
    p, score = classify.scores(test.images)
    known = [test.classes[c] for c in p.argmax(1)]
    for t in (classify.threshold, float(score.median()), -float('inf'), float('inf')):
        classify.threshold = t
        assert classify(test.images) == [k if s >= t else UNKNOWN for k, s in zip(known, score.tolist())]
    loose, strict = classify.at(1.), classify.at(.5)
    v = classify.validation_scores
    assert ((v >= loose.threshold).all() and .5 <= (v >= strict.threshold).double().mean() < .6
            and strict.threshold > loose.threshold and classify.threshold == float('inf'))
    with pytest.raises(DreamError, match='not a share'): classify.at(recall=95)

def test_one_image_of_any_kind_one_answer(folder, tmp_path):
    classify = load(folder)
    x = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    Image.fromarray(x).save(tmp_path/'a.png')
    kinds = [tmp_path/'a.png', str(tmp_path/'a.png'), Image.open(tmp_path/'a.png'), torch.from_numpy(x),
             torch.from_numpy(x)[None], torch.from_numpy(x).expand(3, -1, -1), torch.from_numpy(x)[None]/255]
    one = classify.scores(kinds[0])
    for k in kinds:
        assert isinstance(classify(k), str) and torch.allclose(classify.scores(k).score, one.score, atol=1e-5)
    assert (classify(kinds) == [classify(kinds[0])]*len(kinds) and classify([]) == []
            and classify(tuple(kinds[:1])) == [classify(kinds[0])])
    # of the classifier's own size, where a shortcut would be tempting
    batch = torch.rand(5, 3, 32, 32)
    assert torch.allclose(classify.scores(batch).score, torch.cat([classify.scores(i).score for i in batch]), atol=1e-5)
    with pytest.raises(DreamError, match='is no image'): classify(torch.rand(2, 4, 32, 32))
    big = Image.fromarray(x).resize((99, 50)).convert('RGBA')
    assert classify(big) in [*classify.classes, UNKNOWN]

def test_the_folder_is_enough_wherever_it_lies(folder, evaluated, tmp_path):
    images = id_set(evaluated.profile.data, 'test').images
    torch.save(images, tmp_path/'x.pt')
    shutil.move(shutil.copytree(folder, tmp_path/'a'),
                tmp_path/'deep'/'b') if (tmp_path/'deep').mkdir() is None else None
    (tmp_path/'deep'/'b'/'report.html').unlink()
    code = f"import torch\nfrom dream_ood.classifier import load\nprint(load('deep/b')(torch.load('x.pt')))"
    said = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True)
    assert said.stdout.strip() == str(load(folder)(images)), said.stderr

def test_what_it_was_measured_at_is_what_it_does(folder, evaluated):
    classify, m = load(folder), load_json(folder/'classifier.json')['measured']
    test = id_set(evaluated.profile.data, 'test'); said = classify(test.images)
    accepted = [(s, test.classes[y]) for s, y in zip(said, test.labels) if s != UNKNOWN]
    assert (m['coverage'] == pytest.approx(len(accepted)/len(test))
            and m['accuracy_of_accepted'] == pytest.approx(np.mean([a == b for a, b in accepted])))
    for n, s in results(evaluated, chosen_method(compare_methods(evaluated))).sets.items():
        if n != 'ID test':
            assert m['ood'][n]['accepted'] == pytest.approx(np.mean([a != UNKNOWN for a in classify(s.images)]))

def spoilt(folder, name, how):
    f = folder/name
    if how is None: f.unlink()
    elif callable(how): save_json(f, how(load_json(f)))
    else: f.write_bytes(how)

@pytest.mark.parametrize('name,how,words', [
    ('classifier.json', None, 'holds no classifier .classifier.json is missing'),
    ('classifier.safetensors', None, 'classifier.safetensors is missing'),
    ('classifier.json', b'{', 'is damaged, or no classifier'), ('classifier.json', b'[1]',
        'no classifier of this project'), ('classifier.json', b'{"a": 1}', 'no classifier of this project'),
    ('classifier.safetensors', b'half', 'is damaged, or not the file that'),
    ('classifier.json', lambda d: d | dict(format=99), 'has the format 99'),
    ('classifier.json', lambda d: d | dict(classes=d['classes'][:-1]), 'does not fit together .7 classes'),
    ('classifier.json', lambda d: {k: v for k, v in d.items() if k != 'threshold'}, 'does not fit together'),
    ('classifier.json', lambda d: d | dict(backbone='resnet18'), 'does not fit together')])
def test_a_damaged_or_foreign_folder_is_one_sentence(folder, tmp_path, name, how, words):
    shutil.copytree(folder, tmp_path/'it')
    spoilt(tmp_path/'it', name, how)
    with pytest.raises(DreamError, match=words) as e: load(tmp_path/'it')
    assert '\n' not in str(e.value)

def test_no_image_is_one_sentence(folder, tmp_path):
    classify = load(folder)
    (tmp_path/'bad.png').write_bytes(b'no picture')
    for image, words in ((tmp_path/'none.png', 'no image'), (tmp_path, 'no image'),
                         (tmp_path/'bad.png', 'cannot be read'), (None, 'NoneType is no image'),
                         (torch.zeros(5, 4, 4), 'is no image'), (torch.full((3, 4, 4), 9.), 'values between 0 and 1'),
                         (torch.zeros(3, 4, 4).long(), 'torch.int64'), ([tmp_path/'none.png'], 'no image'),
                         (torch.full((3, 4, 4), torch.nan), 'values between 0 and 1')):
        with pytest.raises(DreamError, match=words) as e: classify(image)
        assert '\n' not in str(e.value)
    with pytest.raises(DreamError, match='holds no classifier'): load(tmp_path/'nowhere')

def test_the_folder_is_whole_or_not_there(tmp_path):
    (tmp_path/'it').mkdir(); (tmp_path/'it'/'old').touch()
    with pytest.raises(KeyboardInterrupt):
        with whole_folder(tmp_path/'it') as d:
            (d/'half').touch()
            raise KeyboardInterrupt
    assert [f.name for f in tmp_path.iterdir()] == ['it'] and [f.name for f in (tmp_path/'it').iterdir()] == ['old']
    with whole_folder(tmp_path/'it') as d: (d/'new').touch()
    assert [f.name for f in tmp_path.iterdir()] == ['it'] and [f.name for f in (tmp_path/'it').iterdir()] == ['new']

def test_it_is_made_once_and_again_for_another_evaluation(evaluated, folder, capsys):
    before = (folder/FILES[1]).stat().st_mtime_ns
    assert (build_classifier(evaluated) == folder and 'nothing to do' in capsys.readouterr().out
            and (folder/FILES[1]).stat().st_mtime_ns == before)
    assert is_made(evaluated) and not is_made(evaluated, recall=.9)
    other = copy.copy(evaluated); other.seed = 7
    assert not is_made(other)

def test_the_report_is_one_page_with_its_pictures(folder):
    from browser import browser
    page = (folder/'report.html').read_text()
    assert (page.count('<img') > 30 and page.count('src="data:') == page.count('<img') and '{{' not in page
            and str(ROOT) not in page)
    with browser() as b:
        b.open((folder/'report.html').as_uri())
        assert b.js("[...document.images].every(i => i.complete && i.naturalWidth>0)")
        assert b.js("document.documentElement.scrollWidth <= innerWidth") and not b.complaints
        assert [u for u in b.requests if not u.startswith(('file:', 'data:'))] == []

def test_names_cannot_break_the_page(evaluated):
    from dream_ood.plots import render
    page = render('gallery.html.j2', title='<script>', data=dict(a='</script><script>'))
    # the data and the code of the page itself
    assert '<title>&lt;script&gt;' in page and page.count('</script>') == 2

def test_class_names_cannot_break_the_report(evaluated, folder):
    about, method = load_json(folder/'classifier.json'), chosen_method(compare_methods(evaluated))
    about['classes'][0] = about['made_from']['foundation'] = '<script>alert(1)</script>'
    page = report(evaluated, compare_methods(evaluated), about, results(evaluated, method))
    assert '<script' not in page and page.count('&lt;script&gt;') == 3

def test_a_classifier_that_refuses_little_is_warned_of():
    about = dict(measured=dict(ood=dict(cups=dict(accepted=.6), noise=dict(accepted=.1))))
    assert taken_in(about) == ['cups'] and taken_in(dict(measured=dict(ood=dict(cups=dict(accepted=.4))))) == []

def test_transparent_and_turned_pictures_are_as_a_viewer_shows_them(tmp_path):
    i = Image.new('RGBA', (6, 4)); i.putpixel((0, 0), (0, 0, 0, 255)); i.save(tmp_path/'clear.png')
    x = as_pixels(tmp_path/'clear.png', False)
    assert (x[:, 0, 0].tolist() == [0]*3 and x[:, 1:].eq(255).all()
            and as_pixels(Image.open(tmp_path/'clear.png'), False).equal(x))
    exif = Image.Exif(); exif[0x0112] = 6                                   # a camera held upright
    Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6)).save(tmp_path/'turned.png', exif=exif)
    assert as_pixels(tmp_path/'turned.png', False).shape == (3, 6, 4)

def test_an_image_of_absurd_size_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 10)
    Image.new('L', (50, 50)).save(tmp_path/'a.png')
    with pytest.raises(DreamError, match='cannot be read as an image .DecompressionBombError'):
        as_pixels(tmp_path/'a.png', False)

def test_a_process_that_only_classifies_stays_light(folder, tmp_path):
    "No text-to-image model, no notebooks, no workflow, no plots: importing them would take longer than the answer."
    about = load_json(folder/'classifier.json')
    about['settings'] |= dict(detector='energy', detector_settings={}, mirrored=False)   # knn asks for scikit-learn
    shutil.copytree(folder, tmp_path/'it')
    t = load_tensors(folder/'classifier.safetensors')
    t['validation.scores'] = t['validation.logits'].double().logsumexp(1)   # they are compared when it is loaded
    save_tensors(tmp_path/'it'/'classifier.safetensors', **t)
    about['weights'] = sha256(tmp_path/'it'/'classifier.safetensors'); save_json(tmp_path/'it'/'classifier.json', about)
    slow = 'diffusers transformers papermill snakemake pandas matplotlib.pyplot skimage sklearn numba'
    code = f"""import sys, torch
from dream_ood.classifier import load
load({str(tmp_path/'it')!r})(torch.zeros(1, 32, 32, dtype=torch.uint8))
heavy = {{*'{slow} scipy.stats torch._dynamo'.split()}} & set(sys.modules)
sys.exit(f'imported: {{sorted(heavy)}}' if heavy else 0)"""
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)
    assert r.returncode == 0, r.stderr

# -- asking from the command line -------------------------------------------------------------------------------------
def predict(*args):
    r = subprocess.run([sys.executable, '-m', 'dream_ood', 'predict', *map(str, args)], cwd=ROOT,
                       capture_output=True, text=True)
    return r.returncode, r.stdout, r.stderr

def test_predict_answers_as_the_classifier_does(folder, tmp_path):
    import csv, json
    classify = load(folder)
    for i in range(3): draw(tmp_path/'some'/f'{i}.png', i, i % 2)
    files = sorted((tmp_path/'some').iterdir())
    code, out, err = predict(folder, tmp_path/'some', '--format', 'json')
    rows = json.loads(out)
    assert (code == 0 and [r['file'] for r in rows] == list(map(str, files))
            and [r['answer'] for r in rows] == classify(files)), err
    assert all(r['best'] != r['runner_up'] and (r['answer'] == UNKNOWN) == (r['score'] < r['threshold']) for r in rows)
    (tmp_path/'some'/'3.png').write_bytes(b'no picture')
    code, out, err = predict(folder.parent, tmp_path/'some', tmp_path/'none.png', '--format', 'csv', '--output',
                             tmp_path/'answers.csv')
    assert code == 1 and out == '' and len(err.strip().splitlines()) == 2 and '3.png' in err and 'none.png' in err, err
    assert [r['answer'] for r in csv.DictReader(open(tmp_path/'answers.csv'))] == classify(files)
    code, out, err = predict(folder, files[0])
    assert code == 0 and len(out.splitlines()) == 2 and out.startswith('file')
