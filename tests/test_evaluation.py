"Scores and measures: equal to scikit-learn's and pytorch-ood's, at the corners too."
import numpy as np,pandas as pd,pytest,torch
from pytorch_ood import detector as pod
from pytorch_ood.metrics import functional as pom
from sklearn.metrics import average_precision_score,roc_auc_score,roc_curve
from dream_ood.data import id_set
from dream_ood.runs import *
from dream_ood.runs import Method
from dream_ood import evaluation
from dream_ood.evaluation import *
from dream_ood.training import load_classifier
from conftest import tiny_profile

@pytest.mark.parametrize('seed', range(8))
@pytest.mark.parametrize('levels', [2,5,1000])
def test_measures_equal_scikit_learn(seed, levels):
    g = np.random.default_rng(seed)
    i,o = g.integers(0,levels,g.integers(1,80))+g.integers(0,2),g.integers(0,levels,g.integers(1,80))
    y,s,m = np.r_[np.ones(len(i)),np.zeros(len(o))],np.r_[i,o].astype(float),ood_metrics(i,o)
    fpr,tpr,_ = roc_curve(y,s); fnr,tnr,_ = roc_curve(1-y,-s)
    assert m['auroc']==pytest.approx(roc_auc_score(y,s)) and m['aupr_in']==pytest.approx(average_precision_score(y,s)) and m['aupr_out']==pytest.approx(average_precision_score(1-y,-s))
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
    assert m['fpr95_openood']==pytest.approx(pom.fpr_at_tpr(-s,y).item()) and m['fpr95']==pytest.approx(pom.fpr_at_tpr(s,-1-y).item())
    assert m['fpr95']!=m['fpr95_openood']

@pytest.mark.parametrize('i,o,want', [
    ([1.],[0.], dict(fpr95=0,auroc=1,aupr_in=1,aupr_out=1,fpr95_openood=0)),
    ([0.],[1.], dict(fpr95=1,auroc=0,aupr_in=.5,aupr_out=.5,fpr95_openood=1)),
    ([3.]*9,[3.], dict(fpr95=1,auroc=.5,aupr_in=.9,aupr_out=.1,fpr95_openood=1)),
    ([np.inf,0],[-np.inf], dict(fpr95=0,auroc=1,aupr_in=1,aupr_out=1,fpr95_openood=0)),
])
def test_corners(i, o, want): assert ood_metrics(i,o)==pytest.approx(want)

@pytest.mark.parametrize('i,o,words', [([],[1.],'no ID scores'), ([1.],[],'no OOD scores'), ([1.,np.nan],[1.],'1 of 2 ID scores'), ([1.],[np.nan],'not numbers')])
def test_empty_and_nan_are_one_sentence(i, o, words):
    with pytest.raises(DreamError, match=words): ood_metrics(i,o)

# detectors

@pytest.fixture(scope='module')
def made():
    g = torch.Generator().manual_seed(0)
    head = torch.nn.Linear(16,4); f = torch.randn(300,16,generator=g).relu(); y = torch.arange(300)%4
    def outs(f, y): return Outputs((f@head.weight.T+head.bias).detach(), f, y)
    return head,outs(f,y),outs(torch.randn(50,16,generator=g).relu()*2,y[:50]),outs(torch.randn(80,16,generator=g).relu(),y[:80])

@pytest.fixture
def a_run(foundation, tmp_path): return Run.open(tiny_profile(foundation), 0, tmp_path)

def test_scores_equal_pytorch_ood(made, a_run):
    head,train,x,_ = made
    w,b,k = head.weight.data,head.bias.data,a_run.profile.evaluation.k
    want = dict(msp=pod.MaxSoftmax(None).predict_logits(x.logits), maxlogit=pod.MaxLogit(None).predict_logits(x.logits), gen=pod.GEN(None).predict_logits(x.logits),
                energy=pod.EnergyBased(None).predict_logits(x.logits), knn=pod.KNN(None,k=k).fit_features(train.features,train.labels).predict_features(x.features),
                mahalanobis=pod.Mahalanobis(None).fit_features(train.features,train.labels).predict_features(x.features),
                vim=pod.ViM(None,d=8,w=w,b=b).fit_features(train.features,train.labels).predict_features(x.features),
                react=pod.ReAct(None,head).fit_feature_maps(train.features,train.labels).predict_feature_maps(x.features))
    assert set(want)==set(DETECTORS)
    for n,s in want.items(): assert torch.allclose(fit_detector(n,a_run,head,train)(x), -s.double(), atol=1e-5), n

def test_every_detector_scores_one_image(made, a_run):
    head,train,x,val = made
    one = Outputs(*(t[:1] for t in x))
    for n in [*DETECTORS,'combined']:
        s = fit_detector(n,a_run,head,train,val)
        assert torch.allclose(s(one), s(x)[:1], atol=1e-5), n

def test_combined_is_the_smaller_percentile(made, a_run):
    head,train,x,val = made
    ranks = []
    for n in ('energy','knn'):
        s = fit_detector(n,a_run,head,train)
        ranks.append([np.mean(s(val).numpy()<=v) for v in s(x).numpy()])
    assert np.allclose(fit_detector('combined',a_run,head,train,val)(x), np.minimum(*ranks))

def test_too_few_images_to_fit_is_one_sentence(made, a_run):
    head,train,*_ = made
    with pytest.raises(DreamError, match='cannot be fitted to 2 images'): fit_detector('knn', a_run, head, Outputs(*(t[:2] for t in train)))

def test_accuracy_refuses_what_does_not_fit(made):
    x = made[2]
    assert accuracy(x,4)==pytest.approx((x.logits.argmax(1)==x.labels).float().mean().item())
    for bad,words in ((x._replace(labels=x.labels-1),'Labels reach from -1'), (x._replace(labels=x.labels+4),'Labels reach')):
        with pytest.raises(DreamError, match=words): accuracy(bad,4)
    with pytest.raises(DreamError, match='4 outputs for 5 classes'): accuracy(x,5)

def test_outputs_do_not_depend_on_batch_size(trained):
    net,ds = load_classifier(trained,'plain'),id_set(trained.profile,'test')
    p = trained.profile.model_dump(); p['evaluation']['batch_size'] = 7
    a,b = outputs(net,ds,trained.profile),outputs(net,ds,Profile(**p))
    assert torch.allclose(a.logits,b.logits,atol=1e-4) and torch.allclose(a.features,b.features,atol=1e-4) and a.labels.equal(ds.labels)

# the stage

@pytest.fixture(scope='module')
def evaluated(trained):
    run_evaluation(trained)
    return trained

def test_tables_have_a_row_for_each_method_and_set(evaluated):
    stage,p = evaluated.stage('evaluation'),evaluated.profile
    m,v = pd.read_csv(stage/'metrics.csv'),pd.read_csv(stage/'validation.csv')
    assert list(m.columns)==list(v.columns)==['method','ood_set','group','seed','fpr95','auroc','aupr_in','aupr_out','id_acc','fpr95_openood']
    assert set(m.ood_set)=={*p.data.ood,'vae','generated'} and set(v.ood_set)=={'validation outliers'}
    assert len(m)==len(p.evaluation.methods)*m.ood_set.nunique() and len(v)==len(p.evaluation.methods)
    assert set(m[m.ood_set=='vae'].group)=={'control'} and m.auroc.between(0,1).all()

def test_validation_table_knows_no_test_image(evaluated):
    s,v = load_scores(evaluated),pd.read_csv(evaluated.stage('evaluation')/'validation.csv').set_index('method')
    for m in s: assert v.auroc[m]==pytest.approx(ood_metrics(s[m]['ID validation'],s[m]['validation outliers'])['auroc'])

def test_outputs_are_computed_once_and_new_methods_reuse_them(evaluated, monkeypatch):
    p = evaluated.profile.model_dump()
    p['evaluation']['methods'] |= dict(Max=dict(contender='plain',detector='maxlogit'))
    again = Run(Profile(**p), 0, evaluated.folder.parent.parent)
    monkeypatch.setattr(evaluation, 'outputs', lambda *a: pytest.fail('a network was run'))
    run_evaluation(again)
    assert 'Max' in load_scores(again)

def test_overview_marks_what_flags_the_autoencoder():
    rows = [dict(method=m,ood_set=s,group=g,fpr95=.5,auroc=a,id_acc=.9) for m,vae in (('good',.52),('bad',.9)) for s,g,a in (('sandal','near',.9),('faces','far',.95),('vae','control',vae))]
    t = overview(pd.DataFrame(rows))
    assert t['control','flags VAE'].to_dict()=={'good':'','bad':'yes'} and t['near and far','auroc']['good']==pytest.approx(92.5)

def test_profiles_know_every_detector():
    known = Method.model_fields['detector'].annotation.__args__
    assert set(known)=={*DETECTORS,'combined'}
