"Scores and measures: equal to scikit-learn's and pytorch-ood's, at the corners too."
import numpy as np,pandas as pd,pytest,torch
from pytorch_ood import detector as pod
from pytorch_ood.metrics import functional as pom
from scipy import stats
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score,roc_auc_score,roc_curve
from dream_ood.data import ImageSet,batches,eval_transform,id_set,validation_outliers
from dream_ood.core import *
from dream_ood.settings import *
from dream_ood.study import *
from dream_ood.runs import *
from dream_ood.plots import *
from dream_ood.settings import Method
from dream_ood import detectors,evaluation,stages
from dream_ood.stages import *
from dream_ood.detectors import *
from dream_ood.evaluation import *
from dream_ood.networks import channels_last,make_backbone
from dream_ood.stages import classifier_of
from conftest import tiny_profile

@pytest.mark.parametrize('seed', range(8))
@pytest.mark.parametrize('levels', [2,5,1000])
def test_measures_equal_scikit_learn(seed, levels):
    g = np.random.default_rng(seed)
    i,o = g.integers(0,levels,g.integers(1,80))+g.integers(0,2),g.integers(0,levels,g.integers(1,80))
    y,s,m = np.r_[np.ones(len(i)),np.zeros(len(o))],np.r_[i,o].astype(float),ood_metrics(i,o)
    fpr,tpr,_ = roc_curve(y,s); fnr,tnr,_ = roc_curve(1-y,-s)
    assert (m['auroc']==pytest.approx(roc_auc_score(y,s)) and m['aupr_in']==pytest.approx(average_precision_score(y,s))
            and m['aupr_out']==pytest.approx(average_precision_score(1-y,-s)))
    assert m['fpr95']==pytest.approx(fpr[tpr>=.95].min()) and m['fpr95_openood']==pytest.approx(fnr[tnr>=.95].min())

def test_fpr95_by_counting():
    g = np.random.default_rng(0)
    for _ in range(50):
        i,o = g.integers(0,9,g.integers(1,60)),g.integers(0,9,g.integers(1,60))
        t = max(t for t in i if np.mean(i>=t)>=.95)
        assert ood_metrics(i,o)['fpr95']==pytest.approx(np.mean(o>=t))

def test_both_conventions_equal_pytorch_ood():
    g = torch.Generator().manual_seed(0)
    i,o = torch.randn(400,generator=g)+1,torch.randn(300,generator=g)
    s,y = torch.cat([i,o]),torch.cat([torch.zeros(400),-torch.ones(300)]).long()
    m = ood_metrics(i,o)
    assert (m['fpr95_openood']==pytest.approx(pom.fpr_at_tpr(-s,y).item())
            and m['fpr95']==pytest.approx(pom.fpr_at_tpr(s,-1-y).item()))
    assert m['fpr95']!=m['fpr95_openood']

@pytest.mark.parametrize('i,o,want', [
    ([1.],[0.], dict(fpr95=0,auroc=1,aupr_in=1,aupr_out=1,fpr95_openood=0)),
    ([0.],[1.], dict(fpr95=1,auroc=0,aupr_in=.5,aupr_out=.5,fpr95_openood=1)),
    ([3.]*9,[3.], dict(fpr95=1,auroc=.5,aupr_in=.9,aupr_out=.1,fpr95_openood=1)),
    ([np.inf,0],[-np.inf], dict(fpr95=0,auroc=1,aupr_in=1,aupr_out=1,fpr95_openood=0)),
])
def test_corners(i, o, want): assert ood_metrics(i,o)==pytest.approx(want)

@pytest.mark.parametrize('i,o,words', [([],[1.],'no ID scores'), ([1.],[],'no OOD scores'),
                                       ([1.,np.nan],[1.],'1 of 2 ID scores'), ([1.],[np.nan],'not numbers')])
def test_empty_and_nan_are_one_sentence(i, o, words):
    with pytest.raises(DreamError, match=words): ood_metrics(i,o)

# detectors

@pytest.fixture(scope='module')
def made():
    g = torch.Generator().manual_seed(0)
    head = torch.nn.Linear(16,4); f = torch.randn(300,16,generator=g).relu(); y = torch.arange(300)%4
    def outs(f, y): return Outputs((f@head.weight.T+head.bias).detach(), f, y)
    return head,outs(f,y),outs(torch.randn(50,16,generator=g).relu()*2,
                               y[:50]),outs(torch.randn(80,16,generator=g).relu(),y[:80])

def usual_of(run): return run.profile.scoring

@pytest.fixture
def a_run(foundation, tmp_path): return Run.open(tiny_profile(foundation), 0, tmp_path)

ALL = [*DETECTORS,'odin','combined','fisher']

def usual(name, net, run): # a detector of pytorch-ood as its documentation uses it: with the network, not with outputs
    encoder,head = (lambda x: net.forward_head(net.forward_features(channels_last(x)),
                                               pre_logits=True)),net.get_classifier()
    maps,flat = (lambda x: encoder(x)[:,:,None,None]),torch.nn.Sequential(torch.nn.Flatten(),head)
    return dict(msp=lambda: pod.MaxSoftmax(net), maxlogit=lambda: pod.MaxLogit(net), gen=lambda: pod.GEN(net),
                energy=lambda: pod.EnergyBased(net), kl_matching=lambda: pod.KLMatching(net),
        knn=lambda: pod.KNN(encoder,k=run.profile.evaluation.k), nnguide=lambda: pod.NNGuide(encoder,head),
        mahalanobis=lambda: pod.Mahalanobis(encoder), rmd=lambda: pod.RMD(encoder),
        vim=lambda: pod.ViM(encoder,d=min(head.in_features,len(id_set(run.profile.data,'train')))//2,
                            w=head.weight,b=head.bias),
        dice=lambda: pod.DICE(encoder,head.weight,head.bias,p=.9),
        react=lambda: pod.ReAct(maps,flat), ash=lambda: pod.ASH(maps,flat), scale=lambda: pod.SCALE(maps,flat),
        odin=lambda: pod.ODIN(net,norm_std=run.profile.data.std))[name]()

@pytest.mark.parametrize('name', [n for n in ALL if n not in ('combined','fisher')])
def test_scores_equal_pytorch_ood_on_the_network(name, trained, monkeypatch):
    monkeypatch.setattr(detectors, 'FEW', 0)   # no covariance is shrunk
    p,net = trained.profile,classifier_of(trained,'plain')
    sets = {'ID validation':id_set(p.data,'validation'), 'validation outliers':validation_outliers(p.data)}
    loader = lambda ds: list(batches(ds, p.evaluation.batch_size, eval_transform(p.data)))
    d = usual(name, net, trained)
    if d.requires_fit: d.fit(loader(sets['ID validation'] if name=='kl_matching' else id_set(p.data,'train')))
    got = Scorer(trained, 'plain', sets, id_set(p.data,'train'))(name)
    for s,ds in sets.items():
        want = torch.cat([-d(x).detach().double() for x,_ in loader(ds)])
        assert got[s].shape==(len(ds),) and torch.allclose(got[s], want, atol=1e-5, rtol=1e-5), s

def test_settings_reach_the_detector(made, a_run):
    head,train,x,val = made
    want = dict(gen=({'gamma':.5,'M':2}, pod.GEN(None,gamma=.5,M=2).predict_logits(x.logits)),
                knn=({'k':3}, pod.KNN(None,k=3).fit_features(train.features,train.labels).predict_features(x.features)),
                react=({'percentile':.5}, pod.ReAct(None,head,percentile=.5).fit_feature_maps(train.features,
            train.labels).predict_feature_maps(x.features)),
                dice=({'p':.3}, pod.DICE(None,head.weight,head.bias,p=.3).fit_features(train.features,
            train.labels).predict_features(x.features)))
    for n,(settings,s) in want.items():
        assert torch.allclose(fit_detector(n,head,train,val,**usual_of(a_run),**settings)(x), -s.double(), atol=1e-5), n

def test_every_detector_scores_one_image(made, a_run):
    head,train,x,val = made
    one = Outputs(*(t[:1] for t in x))
    for n in [*DETECTORS,'combined','fisher']:   # odin reads images
        s = fit_detector(n,head,train,val,**usual_of(a_run))
        assert torch.allclose(s(one), s(x)[:1], atol=1e-5), n

def test_combined_is_the_smaller_percentile(made, a_run):
    head,train,x,val = made
    ranks = []
    for n in ('energy','knn'):
        s = fit_detector(n,head,train,**usual_of(a_run))
        ranks.append([np.mean(s(val).numpy()<=v) for v in s(x).numpy()])
    assert np.allclose(fit_detector('combined',head,train,val,**usual_of(a_run))(x), np.minimum(*ranks))

def test_fisher_is_the_statistic_of_fishers_method(made, a_run):
    head,train,x,val = made
    ps = []
    for n in ('energy','mahalanobis'):
        s = fit_detector(n,head,train,**usual_of(a_run))
        ps.append([(1+np.sum(s(val).numpy()<=v))/(1+len(val.labels)) for v in s(x).numpy()])
    want = [stats.combine_pvalues(p, method='fisher').statistic/-2 for p in zip(*ps)]
    assert np.allclose(fit_detector('fisher',head,train,val)(x), want)
    other = fit_detector('fisher',head,train,val,second='knn',neighbour=5)(x)
    assert not np.allclose(other, want) and (other<=0).all()

def test_too_few_images_to_fit_is_one_sentence(made, a_run):
    head,train,*_ = made
    with pytest.raises(DreamError, match='cannot be fitted to 2 images'):
        fit_detector('knn', head, Outputs(*(t[:2] for t in train)), neighbour=5)
    with pytest.raises(DreamError, match='a class has none'):
        fit_detector('mahalanobis', head, train._replace(labels=train.labels*2))

def test_tuning_reads_validation_sets_alone(trained, monkeypatch):
    p = trained.profile
    sets = {'ID validation':id_set(p.data,'validation'), 'validation outliers':validation_outliers(p.data)}
    scorer = Scorer(trained, 'plain', sets | {'ID test':id_set(p.data,'test')}, id_set(p.data,'train'))
    seen,call = [],Scorer.__call__
    monkeypatch.setattr(Scorer, '__call__', lambda self,d,names=None,**kw: seen.append(set(names))
                        or call(self,d,names,**kw))
    for n in ALL:
        t,best = detector_trials(scorer,n),tune_detector(scorer,n)
        assert (t.auroc.max()==t.auroc[t.settings==best].iloc[0] and set(best)==set(GRIDS.get(n,{}))
                and t.auroc.between(0,1).all())
    assert all(s==set(sets) for s in seen)
    assert max(s['k'] for s in detector_trials(scorer,'knn').settings)<=len(scorer.train)
    with pytest.raises(DreamError, match='without validation outliers'):
        tune_detector(Scorer(trained,'plain',{'ID validation':sets['ID validation']},scorer.train), 'knn')

def test_odin_is_computed_once(trained, monkeypatch):
    sets = {'ID validation':id_set(trained.profile.data,'validation')}
    scorer = Scorer(trained, 'dreams', sets, None)
    first,other = scorer('odin'),scorer('odin',eps=.01)
    monkeypatch.setattr(stages, 'odin', lambda *a,**k: pytest.fail('a network was run'))
    assert (scorer('odin')['ID validation'].equal(first['ID validation'])
            and not other['ID validation'].equal(first['ID validation']))

@pytest.mark.parametrize('name', ALL)
def test_images_in_memory_are_scored_without_a_run(name):
    "From tensors and a network alone, as the pieces one by one say it, and images do not influence each other."
    g,fmt = torch.Generator().manual_seed(0),ImageFormat(image_size=32)
    def some(n):
        x = torch.randint(0, 256, (n,1,32,32), generator=g, dtype=torch.uint8)
        return ImageSet('mine', x, torch.arange(n)%3)
    train,val,x = some(300),some(30),some(9)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = make_backbone('resnet_mini', 3, 32).eval()
    own = {} if name=='odin' else dict(T=2., neighbour=4)
    detector = Detector(net, fmt, name, train, val, **own)
    s = detector(x)
    assert s.shape==(9,) and s.dtype==torch.float64
    assert torch.allclose(detector(x.subset(range(3))), s[:3], rtol=1e-4, atol=1e-4)
    seen = [outputs(net,ds,fmt) for ds in (train,val,x)]
    if name!='odin': assert torch.equal(s, fit_detector(name, net.get_classifier(), *seen[:2], **own)(seen[2]))
    assert 0<=ood_metrics(detector(val), s)['fpr95']<=1

@pytest.mark.parametrize('name,lacks', [('knn','train'), ('mahalanobis','train'), ('react','train'),
    ('kl_matching','validation'), ('combined','validation'), ('fisher','validation')])
def test_a_detector_without_images_to_fit_it_to_is_one_sentence(made, name, lacks):
    head,train,_,val = made
    given = dict(train=train, validation=val); del given[lacks]
    with pytest.raises(DreamError, match=f'{name}.* and there are none: give `{lacks}`'):
        fit_detector(name, head, **given, neighbour=5)

def test_accuracy_refuses_what_does_not_fit(made):
    x = made[2]
    assert accuracy(x,4)==pytest.approx((x.logits.argmax(1)==x.labels).float().mean().item())
    for bad,words in ((x._replace(labels=x.labels-1),'Labels reach from -1'),
                      (x._replace(labels=x.labels+4),'Labels reach')):
        with pytest.raises(DreamError, match=words): accuracy(bad,4)
    with pytest.raises(DreamError, match='4 outputs for 5 classes'): accuracy(x,5)

def test_outputs_do_not_depend_on_batch_size(trained):
    net,ds = classifier_of(trained,'plain'),id_set(trained.profile.data,'test')
    a,b = outputs(net,ds,trained.profile.data),outputs(net,ds,trained.profile.data,7)
    assert (torch.allclose(a.logits,b.logits,atol=1e-4) and torch.allclose(a.features,b.features,atol=1e-4)
            and a.labels.equal(ds.labels))

def flipped(ds): return ImageSet(ds.name, ds.images.flip(-1), ds.labels, ds.classes, ds.group, ds.greyscale)

@pytest.mark.parametrize('name', [n for n in ALL if n!='odin'])
def test_a_mirrored_score_is_the_mean_of_both_looks(name, trained):
    p,kinds = trained.profile,dict(combined=('energy','knn'), fisher=('energy','mahalanobis'))
    sets = {'ID validation':id_set(p.data,'validation'), 'validation outliers':validation_outliers(p.data)}
    train = id_set(p.data,'train')
    scorer,other = Scorer(trained,'plain',sets,train),Scorer(trained,'plain',sets,train)
    other.outs = {n:outputs(other.net,flipped(ds),p.data) for n,ds in sets.items()}      # of the mirror images alone
    def mean(n): # both fitted to the same images
        fit = fit_detector(n, scorer.net.get_classifier(), cached_outputs(trained,'plain',
            {'ID train':train})['ID train'], scorer.outs['ID validation'], **p.scoring)
        return {s:(fit(scorer.outs[s])+fit(other.outs[s]))/2 for s in sets}
    got = scorer(name, mirrored=True)
    if name in kinds:
        ms = [mean(n) for n in kinds[name]]
        ps = {s:[[np.mean(m['ID validation'].numpy()<=v) for v in m[s].numpy()] for m in ms] for s in sets}
        n = len(sets['ID validation'])
        want = {s:torch.tensor(np.minimum(*p) if name=='combined' else sum(np.log((np.array(q)*n+1)/(n+1)) for q in p))
                for s,p in ps.items()}
    else: want = mean(name)
    for s in sets: assert torch.allclose(got[s], want[s], atol=1e-4), s

def test_a_symmetric_image_is_not_changed_by_the_mirror(trained):
    x = torch.randint(0, 256, (6,1,32,16), dtype=torch.uint8)
    sets = {'ID validation':id_set(trained.profile.data,'validation'),
            'even':ImageSet('even', torch.cat([x,x.flip(-1)],-1))}
    net = classifier_of(trained,'plain')
    a,b = (outputs(net, sets['even'], trained.profile.data, mirrored=m) for m in (False,True))
    assert torch.allclose(a.logits, b.logits, atol=1e-4)
    a,b = (outputs(net, sets['ID validation'], trained.profile.data, mirrored=m) for m in (False,True))
    assert not torch.allclose(a.logits, b.logits, atol=1e-4)

def test_odin_has_no_mirror(foundation):
    d = tiny_profile(foundation).model_dump()
    d['evaluation']['methods'] = dict(a=dict(contender='plain', detector='odin', mirrored=True))
    with pytest.raises(ValueError, match='odin reads images, not outputs, and cannot be mirrored'): Profile(**d)

# the stage

@pytest.fixture(scope='module')
def evaluated(trained):
    run_evaluation(trained)
    return trained

def test_tables_have_a_row_for_each_method_and_set(evaluated):
    stage,p = evaluated.stage('evaluation'),evaluated.profile
    m,v = pd.read_csv(stage/'metrics.csv'),pd.read_csv(stage/'validation.csv')
    assert list(m.columns)==list(v.columns)==['method','ood_set','group','seed','fpr95','auroc','aupr_in','aupr_out',
                                              'id_acc','fpr95_openood']
    assert set(m.ood_set)=={*p.data.ood,'vae','generated'} and set(v.ood_set)=={'validation outliers'}
    assert len(m)==len(p.evaluation.methods)*m.ood_set.nunique() and len(v)==len(p.evaluation.methods)
    assert set(m[m.ood_set=='vae'].group)=={'control'} and m.auroc.between(0,1).all()

def test_validation_table_knows_no_test_image(evaluated):
    s,v = load_scores(evaluated),pd.read_csv(evaluated.stage('evaluation')/'validation.csv').set_index('method')
    for m in s:
        assert v.auroc[m]==pytest.approx(ood_metrics(s[m]['ID validation'],s[m]['validation outliers'])['auroc'])

def test_outputs_are_computed_once_and_new_methods_reuse_them(evaluated, monkeypatch):
    p = evaluated.profile.model_dump()
    p['evaluation']['methods'] |= dict(Max=dict(contender='plain',detector='maxlogit'))
    again = Run(Profile(**p), 0, evaluated.folder.parent.parent)
    monkeypatch.setattr(stages, 'outputs', lambda *a: pytest.fail('a network was run'))
    run_evaluation(again)
    assert 'Max' in load_scores(again)

def test_overview_marks_what_flags_the_autoencoder():
    rows = [dict(method=m,ood_set=s,group=g,fpr95=.5,auroc=a,id_acc=.9) for m,vae in (('good',.52),('bad',.9))
            for s,g,a in (('sandal','near',.9),('faces','far',.95),('vae','control',vae))]
    t = overview(pd.DataFrame(rows))
    assert (t['control','flags VAE'].to_dict()=={'good':'','bad':'yes'}
            and t['near and far','auroc']['good']==pytest.approx(92.5))

def test_profiles_know_every_detector():
    known = Method.model_fields['detector'].annotation.__args__
    assert set(known)==set(ALL)

def test_a_tuned_method_is_scored_with_its_best_settings(evaluated):
    p,train = evaluated.profile,id_set(evaluated.profile.data,'train')
    sets = ({s:id_set(p.data,s.split()[1]) for s in ('ID validation','ID test')}
            | {'validation outliers':validation_outliers(p.data)})
    scores,_,chosen = score_contender(evaluated, 'plain', dict(a=Method(contender='plain',detector='knn',tuned=True),
        b=Method(contender='plain',detector='knn')), sets, train)
    scorer = Scorer(evaluated, 'plain', sets, train)
    assert chosen=={'a':tune_detector(scorer,'knn')}
    assert (scores['a/ID test'].equal(scorer('knn',**tune_detector(scorer,'knn'))['ID test'])
            and scores['b/ID test'].equal(scorer('knn')['ID test']))

def test_an_untuned_method_leaves_no_trace_in_a_key():
    assert Method(contender='plain',detector='knn').model_dump()==dict(contender='plain',detector='knn')
    assert Method(contender='plain',detector='knn',tuned=True).model_dump()['tuned'] is True

def test_every_detector_on_a_contender_is_measured_as_the_stage_does(evaluated):
    run_evaluation(evaluated)   # again, if another profile's was made in its place
    t,m = score_all(evaluated,'plain'),pd.read_csv(evaluated.stage('evaluation')/'metrics.csv')
    assert list(t.columns)==list(m.columns) and set(t.method)==set(ALL)
    for name,d in (('Energy','energy'),('KNN','knn')):
        assert np.allclose(t[t.method==d].iloc[:,4:].astype(float), m[m.method==name].iloc[:,4:].astype(float))
    assert set(score_all(evaluated,'plain',['gen'],tuned=True).method)=={'gen'}

# how sure

@pytest.mark.parametrize('levels', [1,2,5,1000])
def test_measures_depend_on_the_order_alone(levels):
    g = np.random.default_rng(levels)
    for _ in range(30):
        i,o = g.integers(0,levels,g.integers(1,60)),g.integers(0,levels,g.integers(1,60))
        assert ood_metrics(np.exp(i/levels)-9,np.exp(o/levels)-9)==ood_metrics(i,o)

def test_bootstrap_equals_measuring_each_draw():
    i,o = np.array([3.,1,2,2,5]),np.array([0.,2,1])
    g,values = np.random.default_rng(4),[]
    at = np.unique(np.r_[i,o],return_inverse=True)[1]
    for _ in range(50): values.append(ood_metrics(g.choice(at[:5],5),g.choice(at[5:],3)))
    want,got = pd.DataFrame(values).quantile([.05,.95]),bootstrap_metrics(i,o,50,4,.9)
    assert (np.allclose(got.lo,want.loc[.05]) and np.allclose(got.hi,want.loc[.95])
            and got.value.to_dict()==ood_metrics(i,o))

def test_bootstrap_covers_the_truth_and_is_reproducible():
    g = np.random.default_rng(0)
    truth = stats.norm.cdf(1/2**.5)
    inside = [bootstrap_metrics(g.normal(1,1,200),g.normal(0,1,150),200,s).loc['auroc'] for s in range(200)]
    assert .9<=np.mean([r.lo<=truth<=r.hi for r in inside])<=.99
    i,o = g.normal(1,1,90),g.normal(0,1,80)
    assert (bootstrap_metrics(i,o,100).equals(bootstrap_metrics(i,o,100))
            and not bootstrap_metrics(i,o,100).equals(bootstrap_metrics(i,o,100,seed=1)))

@pytest.mark.parametrize('i,o', [([1.],[0.]), ([2.]*9,[2.]*4)])
def test_bootstrap_of_one_image_and_of_constant_scores_has_no_width(i, o):
    b = bootstrap_metrics(i,o,20)
    assert (b.lo<=b.value).all() and (b.value<=b.hi).all() and b.loc['auroc'].nunique()==1

def test_a_bootstrap_has_a_thousand_draws_seed_0_and_95_percent():
    i,o = [1.,2.,2.,4.,5.],[0.,2.,3.]
    assert bootstrap_metrics(i,o).equals(bootstrap_metrics(i,o,1000,0,.95))
    assert not bootstrap_metrics(i,o).equals(bootstrap_metrics(i,o,1000,0,.5))

def seeds(**methods): # method -> AUROC of two near sets' mean, seed by seed
    return pd.DataFrame([dict(method=m,ood_set=s,group='near',seed=k,auroc=v+d,fpr95=1-v-d) for m,vs in methods.items()
                         for k,v in enumerate(vs) for s,d in (('x',-.01),('y',.01))])

def test_interval_over_seeds_is_students():
    v = [.8,.9,.85,.7]
    r = over_seeds(seeds(a=v,b=[.5]*4))
    lo,hi = stats.t.interval(.95,3,np.mean(v),stats.sem(v))
    assert (np.allclose(r.loc[('a','near')]['auroc'].astype(float),[np.mean(v),lo,hi])
            and r.loc[('a','near'),('seeds','')]==4)
    assert (np.allclose(r.loc[('b','near')]['auroc'].astype(float),.5)
            and np.allclose(r.loc[('b','near')]['fpr95'].astype(float),.5))
    with pytest.raises(DreamError, match='one seed only'): over_seeds(seeds(a=[.8]))

def test_paired_equals_scipy_and_knows_the_direction():
    a,b = [.8,.9,.85],[.7,.72,.9]
    t,r = stats.ttest_rel(a,b),paired(seeds(a=a,b=b),'a','b')
    ci = t.confidence_interval()
    assert (r['p']==pytest.approx(t.pvalue) and (r['lo'],r['hi'])==pytest.approx((ci.low,ci.high)) and r['wins']==2
            and r['seeds']==3)
    f = paired(seeds(a=a,b=b),'a','b','fpr95')
    assert f['gain']==pytest.approx(r['gain']) and f['wins']==2
    assert paired(seeds(a=a,b=a),'a','b')['p']==1 and paired(seeds(a=[.75,.75],b=[.5,.5]),'a','b')['p']==0

@pytest.mark.parametrize('t,words', [(seeds(a=[.8],b=[.7]),'needs two or more'),
                                     (seeds(a=[.8,.9],b=[.7]),'do not have the same seeds'),
                                     (seeds(a=[.8,.9]),'do not have the same seeds')])
def test_a_pair_without_seeds_is_one_sentence(t, words):
    with pytest.raises(DreamError, match=words): paired(t,'a','b')

def test_holm_and_versus():
    assert (np.allclose(holm([.01,.04,.03,.005]),[.03,.06,.06,.02]) and np.allclose(holm([.6,.7]),[1,1])
            and np.allclose(holm([.02]),[.02]))
    t = versus(seeds(a=[.9,.91,.89],b=[.5,.52,.5],c=[.9,.92,.88]),'a')
    assert list(t.b)==['b','c'] and list(t.significant)==[True,False] and np.allclose(t.p_holm,holm(t.p))

def test_two_seeds_are_enough_rows_keep_their_order_and_level_is_no_win():
    t = seeds(b=[.8,.9],a=[.7,.75])
    assert [*over_seeds(t).index]==[('b','near'),('a','near')] and paired(t,'b','b')['wins']==0
    t = versus(seeds(a=[.6,.59,.54],b=[.5]*3),'a')
    assert .05<t.p[0]<.1 and not t.significant[0]
    assert versus(seeds(a=[.6,.59,.54],b=[.5]*3),'a',alpha=.1).significant[0]

# for practitioners

def test_auroc_by_class_and_what_it_refuses():
    g = np.random.default_rng(0); i,y,o = g.integers(0,9,60),np.arange(60)%3,g.integers(0,7,40)
    r = auroc_by_class(i,torch.tensor(y),o,['a','b','c'])
    for c,n in enumerate('abc'):
        assert r[n]==pytest.approx(roc_auc_score(np.r_[np.ones(20),np.zeros(40)],np.r_[i[y==c],o]))
    for bad,words in ((dict(labels=y-1),'Labels reach from -1'), (dict(labels=y+1),'Labels reach from 1 to 3'),
                      (dict(labels=y[:5]),'60 ID scores but 5 labels'), (dict(labels=y*0),"class 'b'"),
                      (dict(ood_scores=[]),'no OOD scores')):
        with pytest.raises(DreamError, match=words):
            auroc_by_class(**(dict(id_scores=i,labels=y,ood_scores=o,classes=['a','b','c'])|bad))

def test_ece_equals_scikit_learns_bins(made):
    x = made[1]._replace(logits=made[1].logits*3)
    conf,hit = x.logits.double().softmax(1).max(1).values.numpy(),(x.logits.argmax(1)==x.labels).numpy()
    acc,mean = calibration_curve(hit,conf,n_bins=15)
    counts = np.histogram(conf,np.linspace(0,1,16))[0]
    assert ece(x,4)==pytest.approx((counts[counts>0]*abs(acc-mean)).sum()/len(conf))
    # one bin: both kinds agree
    assert ece(x,4,bins=1)==pytest.approx(pom.calibration_error(torch.tensor(conf),torch.tensor(hit),p='1',
        beta=len(conf)))
    for bad,words in ((x._replace(labels=x.labels+4),'Labels reach'),
                      (x._replace(logits=x.logits[:,:3]),'3 outputs for 4 classes')):
        with pytest.raises(DreamError, match=words): ece(bad,4)

def test_a_bin_has_its_upper_end_and_there_are_fifteen():
    o = Outputs(torch.tensor([[0.,0.],[np.log(1.5),0.]]), None, torch.tensor([1,0]))   # wrong, of .5; right, of .6
    assert ece(o, 2, 2)==pytest.approx(.45)
    g = torch.Generator().manual_seed(0)
    o = Outputs(torch.randn(200,3,generator=g), None, torch.randint(3,(200,),generator=g))
    assert ece(o, 3)==ece(o, 3, 15)!=ece(o, 3, 16)

@pytest.mark.parametrize('levels', [1,4,1000])
def test_coverage_and_threshold_by_counting(levels):
    g = np.random.default_rng(levels)
    for _ in range(20):
        i,o = g.integers(0,levels,g.integers(1,50)).astype(float),g.integers(0,levels,g.integers(1,50)).astype(float)
        hit = g.random(len(i))<.8; c = coverage_curve(i,torch.tensor(hit),o)
        assert (c.threshold.is_monotonic_decreasing and len(c)==len(set(i))
                and list(coverage_curve(i,hit).columns)==['threshold','coverage','accuracy'])
        for _,r in c.iterrows():
            assert (r.coverage,r.accuracy,r.ood_accepted)==pytest.approx(((i>=r.threshold).mean(),
                hit[i>=r.threshold].mean(),(o>=r.threshold).mean()))
        for q in (.05,.5,.95,1): assert threshold_for(i,q)==max(t for t in i if np.mean(i>=t)>=q)
        assert c.ood_accepted[c.threshold==threshold_for(i)].iloc[0]==pytest.approx(ood_metrics(i,o)['fpr95'])

@pytest.mark.parametrize('f,words', [(lambda: threshold_for([]),'no ID scores'),
                                     (lambda: threshold_for([1.],0),'recall of 0'),
                                     (lambda: coverage_curve([np.nan],[True]),'not numbers'),
    (lambda: coverage_curve([1.],[True,False]),'1 ID scores but 2 answers'),
    (lambda: coverage_curve([1.],[True],[]),'no OOD scores'), (lambda: bootstrap_metrics([],[1.]),'no ID scores')])
def test_bad_input_is_one_sentence(f, words):
    with pytest.raises(DreamError, match=words): f()

def test_aupr_agrees_with_pytorch_ood_where_the_integrals_do():
    """pytorch-ood joins the points of the curve by straight lines, scikit-learn's average precision by steps: equal
    where OOD and ID do not interleave."""
    i,o = torch.arange(10.)+20,torch.arange(5.)
    s,y = torch.cat([i,o]),torch.cat([torch.zeros(10),-torch.ones(5)]).long()
    assert (ood_metrics(i,o)['aupr_out']==pytest.approx(pom.aupr(-s,y).item())
            and ood_metrics(i,o)['aupr_in']==pytest.approx(pom.aupr(-s,y,positive='id').item()))
