"""Properties that hold for whatever comes: a few examples each, the same every time. HYPOTHESIS_PROFILE=thorough: many,
and others each time."""
import copy,io,json,math,os
from pathlib import Path
import numpy as np,pandas as pd,pytest,torch,yaml
import torch.nn.functional as F
from hypothesis import HealthCheck,Phase,assume,given,settings,strategies as st
from PIL import Image
from sklearn.metrics import average_precision_score,roc_auc_score
from dream_ood.core import *
from dream_ood.core import load_state,one_line,read_yaml,save_state,short,unfit
from dream_ood.data import examined,hidden,is_picture,list_folder,near_copies,picture,share_of
from dream_ood.decoding import batches_of,numbered,plan_named,plan_sampled
from dream_ood.detectors import Outputs,checked_scores,interval,sure_threshold,threshold_for,threshold_interval
from dream_ood.evaluation import (auroc_by_class,bootstrap_metrics,coverage_curve,ece,holm,metrics_of,ood_metrics,
                                  paired,
                                  ranks)
from dream_ood.plots import as_markdown
from dream_ood.sampling import RULES,percentiles,plain_distance,plain_knn,sample,slerp
from dream_ood.search import Candidates,Space,boundary_points,extremes,kth_distance,own_distance
from dream_ood.study import Profile,as_profile,load_profile,merged

ROOT = Path(__file__).parent.parent
CHECKS = dict(deadline=None, suppress_health_check=list(HealthCheck))
settings.register_profile('quick', max_examples=15, derandomize=True, database=None, **CHECKS)
settings.register_profile('thorough', max_examples=int(os.environ.get('HYPOTHESIS_EXAMPLES','1000')), print_blob=True,
                          **CHECKS)
settings.register_profile('mutants', max_examples=30, derandomize=True, database=None, phases=[Phase.generate],
                          report_multiple_bugs=False, **CHECKS)
settings.load_profile(os.environ.get('HYPOTHESIS_PROFILE','quick'))

def told(f, *args, error=DreamError, **kwargs): # a value, or None where a call ends in one sentence
    try: return f(*args, **kwargs)
    except error as e: assert str(e).isprintable() and 0<len(str(e))<5000, repr(str(e))[:500]

# -- profiles ---------------------------------------------------------------------------------------------------------
SHIPPED = {n:load_profile(ROOT/'profiles'/f'{n}.yaml').model_dump(exclude_none=True)
           for n in ('smoke','own_demo','cifar100')}
words = st.text(st.characters(exclude_categories=['Cs']), max_size=12)
name = words.filter(lambda n: not unfit(n)
                    and n not in ('README.md','metadata.parquet','__MACOSX','Thumbs.db','desktop.ini'))
plain = st.none()|st.booleans()|st.integers()|st.floats()|words|st.dates()
values = st.recursive(plain, lambda v: st.lists(v, max_size=3)|st.dictionaries(words|st.integers(), v, max_size=3),
                      max_leaves=6)

def places(d, at=()): # every key of nested mappings and lists
    for k,v in d.items() if isinstance(d, dict) else enumerate(d) if isinstance(d, list) else ():
        yield (*at,k); yield from places(v, (*at,k))
PLACES = {n:[*places(d)] for n,d in SHIPPED.items()}

@given(st.sampled_from([*SHIPPED]), st.data())
def test_a_changed_profile_is_one_or_one_sentence(which, data):
    d = copy.deepcopy(SHIPPED[which])
    for *at,last in data.draw(st.lists(st.sampled_from(PLACES[which]), min_size=1, max_size=3)):
        x = d
        try:
            for k in at: x = x[k]
            how = data.draw(st.sampled_from(['value','value','value','lose','rename','more']))
            if how=='value': x[last] = data.draw(values)
            elif how=='more': x[data.draw(words)] = data.draw(values)
            elif how=='rename': x[data.draw(words)] = x.pop(last)
            else: del x[last]
        except (KeyError,IndexError,TypeError,AttributeError): pass      # an earlier change took it away
    p = told(as_profile, d, 'p.yaml')
    if p: assert as_profile(p.model_dump(), 'again.yaml')==p

@given(st.sampled_from([*SHIPPED]), st.lists(name, min_size=2, max_size=5, unique=True),
       st.dictionaries(name, st.nothing(), max_size=2),
       st.floats(1e-6,10), st.integers(1,10**6),
       st.text(st.characters(exclude_characters='{}', exclude_categories=['Cs','Cc']), max_size=9))
def test_a_profile_survives_dump_and_load(tmp_path_factory, which, classes, _, lr, steps, text):
    d = copy.deepcopy(SHIPPED[which])
    d['data'] |= dict(classes=classes, nouns={classes[0]:text}); d['foundation'].pop('suffixes', None)
    d['foundation']['prompt'] = text+'{}'; d['latent_space']['lr'] = lr; d['decoding']['steps'] = steps
    p = as_profile(d, 'p.yaml')
    f = tmp_path_factory.getbasetemp()/'p.yaml'
    f.write_text(yaml.safe_dump(p.model_dump(exclude_none=True), allow_unicode=True, sort_keys=False), encoding='utf8')
    again = load_profile(f)
    assert again==p and digest(again.model_dump())==digest(p.model_dump())

@given(st.text(max_size=60)|st.lists(st.sampled_from([*'&*a!?:-[]{}<>|,\n"\'#%@` 019.~']+['!!','&a ','*a',': ','- ',
    '<<: ']), max_size=40).map(''.join))
def test_any_text_is_yaml_or_one_sentence(text):
    v = told(read_yaml, text, error=ValueError)
    assert isinstance(v, (dict,list,str,int,float,bool,type(None),bytes,set)) or 'date' in type(v).__name__

@given(values)
def test_yaml_reads_what_it_wrote(v):
    again = read_yaml(yaml.safe_dump(v, sort_keys=False))
    assert repr(again)==repr(v)

@given(st.dictionaries(words, st.none()|st.integers()|st.dictionaries(words, st.none()|st.integers(), max_size=3),
                       max_size=4),
       st.dictionaries(words, st.none()|st.integers()|st.dictionaries(words, st.none()|st.integers(), max_size=3),
                       max_size=4))
def test_a_base_gives_what_is_not_said(a, b):
    m = merged(a, b)
    assert merged(m, {})==m and None not in m.values()
    for k,v in b.items():
        if not isinstance(v, dict): assert m.get(k)==v

@given(st.text()|st.text('/.~\\\0ab', max_size=20))
def test_any_text_can_be_asked_for_as_a_path_or_shown(text):
    told(load_profile, text); resolve(text); nice(text)
    assert one_line(text).isprintable() and '\n' not in short(text) and len(short(text))<=63
    assert '\n' not in as_markdown(text) and (unfit(text)=='' or unfit(text).isprintable())
    if not unfit(text): assert Path('a',text).parent==Path('a') and len(Path(text).parts)==1

# -- metrics ----------------------------------------------------------------------------------------------------------
score = st.integers(-3,3).map(float)|st.floats(allow_nan=False)
some = st.lists(score, min_size=1, max_size=25)

def brute(i, o): # thresholds one by one, on the places of the scores
    at = {s:n for n,s in enumerate(sorted({*i,*o}))}; i,o = ([at[s] for s in x] for x in (i,o))
    fpr = next(np.mean([x>=t for x in o]) for t in sorted(at.values(), reverse=True)
               if sum(x>=t for x in i)>=.95*len(i)-1e-9)
    y = [1]*len(i)+[0]*len(o)
    return dict(fpr95=fpr, auroc=roc_auc_score(y, i+o), aupr_in=average_precision_score(y, i+o),
                aupr_out=average_precision_score([1-v for v in y], [-x for x in i+o]),
                fpr95_openood=next(np.mean([x<=t for x in i]) for t in sorted(at.values())
                                   if sum(x<=t for x in o)>=.95*len(o)-1e-9))

@given(some, some)
def test_measures_are_those_of_scikit_learn_and_of_brute_force(i, o):
    m = ood_metrics(i, o)
    assert m==pytest.approx(brute(i, o), abs=1e-12) and all(0<=v<=1 for v in m.values())

@given(some, some, st.randoms())
def test_measures_know_order_alone(i, o, r):
    m = ood_metrics(i, o)
    a,b = i[:],o[:]; r.shuffle(a); r.shuffle(b)
    assert ood_metrics(a, b)==m
    assert ood_metrics(torch.tensor(i, dtype=torch.float64), np.array(o))==m
    monotone = lambda x: [math.copysign(math.sqrt(abs(v)), v) if math.isfinite(v) else v for v in x]
    if len({*monotone(i+o)})==len({*i,*o}): assert ood_metrics(monotone(i), monotone(o))==m
    back = ood_metrics([-v for v in o], [-v for v in i])     # OOD as the positives
    assert back['auroc']==pytest.approx(m['auroc']) and back['fpr95']==m['fpr95_openood']
    assert back['aupr_in']==pytest.approx(m['aupr_out'])
    assert ood_metrics(o, i)['auroc']==pytest.approx(1-m['auroc']) and ood_metrics(i, i)['auroc']==.5
    twice = ood_metrics(i*2, o*2)
    assert all(twice[k]==pytest.approx(m[k]) for k in ('auroc','fpr95','fpr95_openood'))

@given(some, st.lists(score|st.just(math.nan), max_size=4))
def test_what_is_no_score_is_one_sentence(i, o):
    m = told(ood_metrics, i, o)
    assert (m is None)==(not o or any(map(math.isnan, o))) and told(ood_metrics, o, i) is None or m

@given(some, some, st.integers(1,3), st.data())
def test_auroc_by_class_averages_to_that_of_all(i, o, C, data):
    y = data.draw(st.lists(st.integers(0,C-1), min_size=len(i), max_size=len(i)))
    by = told(auroc_by_class, i, y, o, [f'c{c}' for c in range(C)])
    assert (by is None)==(len({*y})<C)
    if by is not None: assert np.average(by, weights=np.bincount(y))==pytest.approx(ood_metrics(i, o)['auroc'])

@given(some, st.data())
def test_a_coverage_curve_is_what_counting_gives(s, data):
    hit,o = data.draw(st.lists(st.booleans(), min_size=len(s), max_size=len(s))),data.draw(some)
    c = coverage_curve(s, hit, o)
    assert c.threshold.tolist()==sorted({*s}, reverse=True) and c.coverage.iloc[-1]==1
    for r in c.itertuples():
        ok = [v>=r.threshold for v in s]
        assert r.coverage==pytest.approx(np.mean(ok)) and r.ood_accepted==pytest.approx(np.mean([v>=r.threshold
            for v in o]))
        assert r.accuracy==pytest.approx(np.mean([h for h,k in zip(hit,ok) if k]))

@given(st.lists(st.lists(st.floats(-5,5), min_size=3, max_size=3), min_size=1, max_size=20), st.integers(1,15),
       st.data())
def test_calibration_error_is_what_counting_gives(logits, bins, data):
    l = torch.tensor(logits, dtype=torch.float64); y = torch.tensor(data.draw(st.lists(st.integers(0,2),
        min_size=len(l), max_size=len(l))))
    p,said = l.softmax(1).max(1).values,l.argmax(1)
    total,edges = 0.,np.linspace(0, 1, bins+1)
    for lo,hi in zip(edges, edges[1:]):
        own = (p.numpy()>lo)&(p.numpy()<=hi)
        if own.any(): total += own.mean()*abs((said==y).numpy()[own].mean()-p.numpy()[own].mean())
    assert ece(Outputs(l, None, y), 3, bins)==pytest.approx(total, abs=1e-9)

@given(st.lists(st.floats(0,1), min_size=1, max_size=8))
def test_holm_is_the_step_down_rule(p):
    h = holm(p); order,worst = sorted(range(len(p)), key=lambda i: p[i]),0
    for k,i in enumerate(order):
        worst = max(worst, min(1, (len(p)-k)*p[i]))
        assert h[i]==pytest.approx(worst)

@given(some, st.floats(.01,1))
def test_a_threshold_accepts_the_share_and_no_more_than_it_must(s, recall):
    t = told(threshold_for, torch.tensor(s, dtype=torch.float64), recall)
    if t is None: return
    n = sum(v>=t for v in s)
    assert n>=recall*len(s)-1e-6*len(s) and t in s and all(sum(v>=u for v in s)<recall*len(s)+1e-6 for u in s if u>t)
    lo,hi = threshold_interval(torch.tensor(s, dtype=torch.float64), recall)
    assert 0<=lo<=hi<=1

@given(st.integers(1,400), st.data())
def test_an_interval_holds_the_share(n, data):
    hits = data.draw(st.integers(0,n)); lo,hi = interval(hits, n)
    assert 0<=lo<=hits/n+1e-12 and hits/n-1e-12<=hi<=1 and interval(n-hits, n)==pytest.approx((1-hi,1-lo), abs=1e-9)

@given(some, some, st.integers(0,5))
def test_bootstrap_depends_on_its_seed_alone(i, o, seed):
    a,b = (bootstrap_metrics(i, o, 20, seed) for _ in range(2))
    assert a.equals(b) and (a.lo<=a.hi).all() and a.lo.ge(0).all() and a.hi.le(1).all()

# -- sampler ----------------------------------------------------------------------------------------------------------
cloud = st.tuples(st.integers(4,40), st.integers(2,40), st.integers(0,9), st.sampled_from([.05,.5,3.]),
                  st.booleans()).map(
    lambda a: F.normalize(F.normalize(torch.randn(1,a[1],generator=torch.Generator().manual_seed(a[2])),dim=1)
        +a[3]*torch.randn(a[0],a[1],generator=torch.Generator().manual_seed(a[2]+9))[:a[0]//2 or 1 if a[4]
            else a[0]].repeat(1+a[4],1)[:a[0]]/a[1]**.5, dim=1))

@given(cloud, st.integers(1,4), st.integers(1,50), st.randoms())
def test_distances_are_those_of_sorting_and_turn_with_the_points(z, k, block, r):
    assume(len(z)>k)
    D = torch.cdist(z.double(), z.double()).sort(1).values
    assert torch.allclose(kth_distance(z, z, k, block), D[:,k-1], atol=2e-6) and torch.allclose(own_distance(z, k),
        D[:,k], atol=2e-6)
    Q = torch.linalg.qr(torch.randn(z.shape[1], z.shape[1], generator=torch.Generator().manual_seed(3),
                                    dtype=torch.float64)).Q
    assert torch.allclose(kth_distance((z.double()@Q).float(), (z.double()@Q).float(), k), kth_distance(z, z, k),
                          atol=2e-3)
    at = list(range(len(z))); r.shuffle(at)
    assert torch.allclose(kth_distance(z, z[at], k), kth_distance(z, z, k), atol=1e-9)

PARAMS = st.fixed_dictionaries(dict(k=st.integers(1,3), select=st.integers(1,6), candidates=st.integers(1,30),
                                    keep=st.integers(1,4),
                                    sigma=st.sampled_from([.01,.1,1.])))

@given(cloud, PARAMS, st.integers(1,25), st.integers(0,99), st.sampled_from(['knn','inliers']),
       st.sampled_from(['fresh','shared']))
def test_what_is_kept_is_the_most_extreme(z, how, M, seed, rule, noise):
    assume(len(z)>how['k'])
    s = sample(rule, z, M, torch.Generator().manual_seed(seed), noise=noise, **how)
    assert s.z.shape==(M,z.shape[1]) and torch.allclose(s.z.norm(dim=1), torch.ones(M), atol=1e-5)
    assert torch.allclose(s.distance, plain_distance(s.z, z, how['k']), atol=2e-6)
    b = boundary_points(z, how['k'], how['select'], rule=='inliers')
    assert {*s.boundary.tolist()}<={*b.tolist()}
    g,inward = torch.Generator().manual_seed(seed),rule=='inliers'
    q = {k:v for k,v in how.items() if k!='candidates'}
    plain = plain_knn(z, M, lambda b: Candidates(Space(z),b,how['sigma'],how['candidates'],g,
                                                 noise=='shared').vectors(), **q, **({'inward':True} if inward else {}))
    # of equal embeddings either may come first
    assert torch.allclose(s.distance, plain.distance, atol=2e-6) and torch.equal(s.boundary,
        plain.boundary) or len(z.unique(dim=0))<len(z) or inward

RULED = dict(strength=[.2,.8], nouns=2, step=.05, extra=1., fit_steps=2, temperature=.1)

@given(st.sampled_from([r for r in RULES if r!='ncis']), cloud, PARAMS, st.integers(1,20), st.integers(0,99),
       st.integers(1,10**4))
def test_a_rule_gives_unit_vectors_or_one_sentence_whatever_the_block(rule, z, how, M, seed, block):
    g = lambda: torch.Generator().manual_seed(seed)
    anchors = torch.randn(3, z.shape[1], generator=g()); anchors[0] = 3*z.mean(0)
    nouns = torch.randn(4, z.shape[1], generator=torch.Generator().manual_seed(1))
    a,b = (told(sample, rule, z, M, g(), anchors=anchors, label=0, noun_embeddings=nouns, **RULED, **how)
           for _ in range(2))
    if a is None: return
    assert len(a.z)==M and torch.allclose(a.z.norm(dim=1), torch.ones(M), atol=1e-5) and a.z.isfinite().all()
    assert ((a.boundary>=0)&(a.boundary<len(z))).all() and torch.equal(a.z,
        b.z) and ((a.nearest>=0)&(a.nearest<3)).all()
    c = RULES[rule](z, M, g(), block=block, **{k:v for k,
                                               v in dict(RULED, anchors=anchors, label=0, noun_embeddings=nouns,
                                                         **how).items()
                    if k in __import__('inspect').signature(RULES[rule]).parameters})
    assert torch.equal(c.z, a.z)

@given(st.sampled_from([*RULES]), st.data())
def test_parameters_that_cannot_work_are_one_sentence(rule, data):
    z = F.normalize(torch.randn(data.draw(st.integers(0,6)), 5, generator=torch.Generator().manual_seed(1)), dim=1)
    if len(z) and data.draw(st.booleans()): z[0] = data.draw(st.sampled_from([0., math.nan, math.inf, 2.]))
    how = dict(k=data.draw(st.integers(1,9)), select=data.draw(st.integers(1,3)), candidates=3, keep=1,
               sigma=data.draw(st.sampled_from([0.,-1.,.1])),
               **RULED|dict(strength=data.draw(st.sampled_from([[.2,.8],[.8,.2],[-1,.5]])),
                            nouns=data.draw(st.integers(1,4)), step=data.draw(st.sampled_from([.05,1e-9]))))
    told(sample, rule, z, data.draw(st.integers(-1,3)), torch.Generator().manual_seed(0), label=0,
         anchors=data.draw(st.sampled_from([None, torch.eye(5)[:1], torch.eye(5)[:3]])),
         noun_embeddings=data.draw(st.sampled_from([None, torch.eye(5)[:2]])), **how)

@given(st.integers(1,40), st.integers(1,9), st.integers(1,6), st.integers(0,5))
def test_an_image_s_seed_depends_on_no_batch_and_no_shard(n, size, shards, seed):
    df = numbered(plan_named([f'c{i%3}' for i in range(n)], ['x']*n, ['y']*n)[0], 'pool', seed)
    few = numbered(plan_named(['c0'], ['x'], ['y'])[0], 'pool', seed)
    assert df.seed.is_unique and df.file.is_unique and df.seed.between(0, 2**63-1).all() and df.seed[0]==few.seed[0]
    parts = [batches_of({'p':df}, size, i, shards)['p'] for i in range(shards)]
    rows = [r for part in parts for b in part for r in b]
    assert sorted(rows)==list(range(n)) and sorted(map(tuple, sum(parts, [])))==sorted(map(tuple,
        batches_of({'p':df}, size)['p']))

@given(cloud, st.floats(0,1))
def test_slerp_stays_on_the_sphere_and_between(z, t):
    v = slerp(z[:-1], z[1:], torch.full((len(z)-1,), t))
    assert torch.allclose(v.norm(dim=1), torch.ones(len(v)), atol=1e-5)

# -- folders and files ------------------------------------------------------------------------------------------------
def encoded(kind): b = io.BytesIO(); Image.fromarray(np.arange(12*9*3, dtype=np.uint8).reshape(9,12,3)).save(b,
    kind); return b.getvalue()
KINDS = {k:encoded(k) for k in ('PNG','JPEG','GIF','BMP','WEBP','TIFF','PPM','TGA')}

@given(st.sampled_from([*KINDS]), st.lists(st.tuples(st.integers(0,10**6), st.integers(0,255)), max_size=6),
       st.integers(0,600)|st.none())
def test_damaged_pictures_are_pictures_or_one_sentence(tmp_path_factory, kind, flips, cut):
    data = bytearray(KINDS[kind])
    for at,v in flips: data[at%min(len(data), 400)] = v
    f = tmp_path_factory.getbasetemp()/'a.img'
    f.write_bytes(bytes(data[:cut]))
    i = told(picture, f)
    if i is not None: assert i.mode in ('1','L','P','RGB','RGBA','CMYK','YCbCr','LAB','HSV','LA','PA','RGBX','RGBa',
                                        'La') and i.width*i.height<2**26
    e = examined(f, 16, False)
    assert bool(e['error'])==(i is None) and (i is None or e['pixels'].shape==(3,16,16))

file_name = st.text(st.characters(exclude_categories=['Cs'], exclude_characters='/\0'), min_size=1,
                    max_size=9).filter(lambda n: n not in ('.','..'))

@given(st.dictionaries(file_name, st.dictionaries(file_name, st.sampled_from([*KINDS,'text','empty']), max_size=4),
                       max_size=4))
def test_a_folder_is_read_as_it_lies(tmp_path_factory, tree):
    root = tmp_path_factory.mktemp('tree')
    for d,files in tree.items():
        (root/d).mkdir()
        for f,kind in files.items(): (root/d/f).write_bytes(KINDS.get(kind, b'text' if kind=='text' else b''))
    got = list_folder(root)
    mine = [root/d/f for d,files in tree.items() if not hidden(d) for f in files if not hidden(f)]
    assert got.files==sorted(f for f in mine if is_picture(f)) and got==list_folder(root)
    assert len(got.files)+sum(why=='no picture' for _,why in got.left)==len(mine)
    assert listing(root)==listing(root) and list_folder(root, [*tree]).files==sorted(f
        for f in [root/d/f for d in tree for f in tree[d] if not hidden(f)] if is_picture(f))

@given(st.text())
def test_a_share_is_one(name_):
    try: s = share_of(name_)
    except UnicodeEncodeError: return                      # no name of a file
    assert 0<=s<1 and share_of(name_)==s

tensors = st.dictionaries(words.filter(lambda k: k!='__metadata__'),
                          st.tuples(st.sampled_from([torch.float32,torch.float64,torch.int64,torch.uint8,torch.bool,
                                                     torch.bfloat16]),
    st.lists(st.integers(0,3), max_size=3), st.integers(0,
                                                        99)).map(lambda a: (100*torch.randn(a[1],
                                                            generator=torch.Generator().manual_seed(a[2]))).to(a[0])),
                                                            max_size=4)

@given(tensors)
def test_tensors_are_read_as_written(tmp_path_factory, t):
    f = tmp_path_factory.getbasetemp()/'t.safetensors'
    save_tensors(f, **t); again = load_tensors(f)
    assert {*again}=={*t} and all(torch.equal(again[k], t[k]) and again[k].dtype==t[k].dtype for k in t)

number = st.none()|st.booleans()|st.integers(-2**60,2**60)|st.floats(allow_nan=False)|words
states = st.recursive(number|tensors.map(lambda t: next(iter(t.values()), torch.zeros(2))),
                      lambda v: st.lists(v, max_size=3)|st.dictionaries(words|st.integers(), v, max_size=3),
                      max_leaves=6)
def same(a, b):
    if torch.is_tensor(a): return torch.equal(a, b) and a.dtype==b.dtype
    if isinstance(a, dict): return [*a]==[*b] and all(same(a[k], b[k]) for k in a)
    return len(a)==len(b) and all(map(same, a, b)) if isinstance(a, list) else type(a)==type(b) and a==b

@given(states)
def test_a_state_is_read_as_written(tmp_path_factory, s):
    f = tmp_path_factory.getbasetemp()/'a.checkpoint'
    save_state(f, s); assert same(s, load_state(f))

@given(st.lists(st.tuples(st.integers(0,10**6), st.integers(0,255)), max_size=8), st.integers(0,400)|st.none(),
       st.booleans())
def test_damaged_tensors_are_tensors_or_one_sentence(tmp_path_factory, flips, cut, head):
    f = tmp_path_factory.getbasetemp()/'d.safetensors'
    save_state(f, dict(a=torch.arange(9.), b=[1,dict(c=torch.eye(2))]))
    data = bytearray(f.read_bytes())
    for at,v in flips: data[at%(8 if head else len(data))] = v
    f.write_bytes(bytes(data[:cut]))
    for read in (load_tensors,load_state):
        try: read(f)
        except DreamError as e:
            assert all(w in str(e) for w in (f.name,'delete it','stage')) and str(e).isprintable()

@given(st.recursive(st.none()|st.booleans()|st.integers()|st.floats(allow_nan=False)
                    |st.text(st.characters(exclude_categories=['Cs'])),
                    lambda v: st.lists(v, max_size=3)|st.dictionaries(words, v, max_size=3)), st.integers(0,50),
                    st.binary(max_size=3))
def test_json_is_read_as_written_and_damage_is_one_sentence(tmp_path_factory, obj, cut, more):
    f = tmp_path_factory.getbasetemp()/'a.json'
    save_json(f, obj); assert load_json(f)==obj
    f.write_bytes(f.read_bytes()[:cut]+more); told(load_json, f)

@given(st.lists(st.tuples(words.filter(lambda w: w.strip(' ') and w.strip() not in pd._libs.parsers.STR_NA_VALUES
                                       and '\r' not in w and not w.strip().replace('_','').lstrip('+-').replace('.',
                                           '').isnumeric()).map(lambda w: 'x'+w),
                          st.floats(allow_nan=False, allow_infinity=False), st.integers(-2**62,2**62)), min_size=1,
                          max_size=6), st.sampled_from(['csv','parquet','md']))
def test_tables_are_read_as_written(tmp_path_factory, rows, kind):
    f,df = tmp_path_factory.getbasetemp()/f't.{kind}',pd.DataFrame(rows, columns=['name','share','n'])
    save_table(f, df)
    if kind=='md': assert len(f.read_text().splitlines())==2+len(df)
    elif kind=='csv': pd.testing.assert_frame_equal(pd.read_csv(f, dtype={'share':str}).astype({'share':float}), df)
    else: pd.testing.assert_frame_equal(pd.read_parquet(f), df)

@given(st.binary(max_size=50), st.booleans())
def test_a_file_is_whole_or_as_it_was(tmp_path_factory, data, fails):
    d = tmp_path_factory.mktemp('atomic'); (d/'a.bin').write_bytes(b'before')
    try:
        with atomic(d/'a.bin') as p:
            p.write_bytes(data)
            if fails: raise KeyboardInterrupt
    except KeyboardInterrupt: pass
    assert [f.name for f in d.iterdir()]==['a.bin'] and (d/'a.bin').read_bytes()==(b'before' if fails else data)
    assert sha256(d/'a.bin')==__import__('hashlib').sha256((d/'a.bin').read_bytes()).hexdigest()
