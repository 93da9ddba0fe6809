"OpenOOD's files, measures and tables, beside a reading of its metrics that shares no code with ours."
import pickle
import numpy as np, pandas as pd, pytest, torch
from copy import copy
from sklearn import metrics as sk
from dream_ood.core import DreamError
from dream_ood.openood import *
from dream_ood.runs import Run
from dream_ood.stages import load_scores, run_evaluation

# -- measures ---------------------------------------------------------------------------------------------------------
def by_description(conf, label, pred):
    "FPR@95, AUROC, AUPR_IN, AUPR_OUT, ACC as OpenOOD v1.5 describes and computes them: OOD is positive."
    ood = np.where(label==-1, 1, 0)
    fpr, tpr, _ = sk.roc_curve(ood, -conf)
    p_in, r_in, _ = sk.precision_recall_curve(1-ood, conf)
    p_out, r_out, _ = sk.precision_recall_curve(ood, -conf)
    first = next(i for i, t in enumerate(tpr) if t>=.95)
    return [fpr[first], sk.auc(fpr, tpr), sk.auc(r_in, p_in), sk.auc(r_out, p_out),
            np.mean([p==y for p, y in zip(pred, label) if y!=-1])]

def ours(conf, label, pred):
    m = openood_metrics(conf, label, pred)
    return [m[k] for k in MEASURES]

@pytest.mark.parametrize('levels', [2, 3, 9, 10**6])
@pytest.mark.parametrize('seed', range(8))
def test_measures_are_those_of_its_description(seed, levels):
    g = np.random.default_rng(seed)
    n, m = g.integers(1, 90, 2)
    conf = np.r_[g.integers(0, levels, n)+levels//3, g.integers(0, levels, m)]/7
    label, pred = np.r_[g.integers(0, 5, n), [-1]*m], g.integers(0, 5, n+m)
    assert ours(conf, label, pred)==pytest.approx(by_description(conf, label, pred), abs=1e-9)

def test_ood_is_positive_there_and_id_in_the_paper():
    "Ten ID images below all others: refusing 95% of the OOD costs nothing but these, accepting 95% of the ID all OOD."
    conf = np.r_[np.zeros(10), np.full(90, 2.), np.ones(100)]
    label = np.r_[np.zeros(100), np.full(100, -1)]
    m = openood_metrics(conf, label, np.zeros(200))
    assert m['FPR@95']==pytest.approx(.1) and m[ID_POSITIVE]==1

def test_aupr_is_of_straight_lines_not_of_steps():
    conf, label = np.array([3., 2, 1, 0]), np.array([0, -1, 0, -1])
    m = openood_metrics(conf, label, np.zeros(4))
    assert m['AUPR_IN']==pytest.approx(.5 + .5*(.5+2/3)/2) and sk.average_precision_score(label>=0, conf)!=m['AUPR_IN']

def test_infinite_scores_keep_their_order():
    s = finite(dict(a=[np.inf, 3., -np.inf], b=torch.tensor([-np.inf, 7.])))
    assert np.isfinite([*s['a'], *s['b']]).all() and s['a'][0]>7 and s['a'][2]==s['b'][0]<0 and s['a'][1]==3
    with pytest.raises(DreamError, match='not numbers'): finite(dict(a=[np.nan]))

# -- a finished run ---------------------------------------------------------------------------------------------------
@pytest.fixture(scope='module')
def run(trained):
    run_evaluation(trained)
    return trained

@pytest.fixture(scope='module')
def folder(run, tmp_path_factory):
    return export_scores(run, 'KNN', tmp_path_factory.mktemp('openood')/'knn')

@pytest.fixture(scope='module')
def wide(run):
    "The same run, whose profile names ID images from elsewhere: here its own validation images."
    p, own = run.profile, copy(run)
    shift = p.dream_id.model_copy(update=dict(shift_sets=dict(again=p.data.validation)))
    own.profile = p.model_copy(update=dict(dream_id=shift))
    return own

def arrays(path): return [dict(np.load(path, allow_pickle=False))[k] for k in ('conf', 'label', 'pred')]

def test_files_hold_the_scores_of_the_run(run, folder):
    d, own = run.profile.data, load_scores(run)['KNN']
    names = {n for n, s in d.ood.items() if s.group in ('near', 'far')}
    assert names and {f.stem for f in (folder/'scores').iterdir()}=={'mini', *names}          # no noise
    assert {f.stem for f in (folder/'validation').iterdir()}=={'mini', 'validation_outliers'}
    for n in names:
        conf, label, pred = arrays(folder/'scores'/f'{n}.npz')
        assert np.array_equal(conf, own[n].numpy()) and (label==-1).all() and label.dtype.kind==pred.dtype.kind=='i'
    conf, label, pred = arrays(folder/'scores'/'mini.npz')
    assert set(label)==set(range(len(d.classes))) and np.array_equal(conf, own['ID test'].numpy())
    table = pd.read_csv(run.stage('evaluation')/'metrics.csv')
    assert (label==pred).mean()==pytest.approx(table[table.method=='KNN'].id_acc.iloc[0])

def test_an_evaluator_of_the_files_gets_our_numbers(run, folder):
    t, csv = one_table(predicted(run, 'KNN')), pd.read_csv(run.stage('evaluation')/'metrics.csv')
    a, csv = arrays(folder/'scores'/'mini.npz'), csv[csv.method=='KNN'].set_index('ood_set')
    sets = [n for n in t.index if n not in ('nearood', 'farood')]
    for n in sets:
        three = [np.concatenate(x) for x in zip(a, arrays(folder/'scores'/f'{n}.npz'))]
        assert t.loc[n, MEASURES].tolist()==pytest.approx([100*x for x in by_description(*three)], abs=1e-6)
        assert t.loc[n, ['AUROC', 'FPR@95', ID_POSITIVE]].tolist()==pytest.approx(
            (100*csv.loc[n, ['auroc', 'fpr95_openood', 'fpr95']]).tolist(), abs=1e-6)
    assert list(t.index)==[*(n for n in sets if csv.group[n]=='near'), 'nearood',
                           *(n for n in sets if csv.group[n]=='far'), 'farood']
    for g in ('near', 'far'):
        assert t.loc[f'{g}ood'].to_numpy()==pytest.approx(t.loc[[n for n in sets if csv.group[n]==g]].mean().to_numpy())

def test_the_dictionary_is_the_evaluators(run, folder):
    "Its `eval_ood` and `eval_acc` read these keys; what is None there would be computed by a network."
    e = pickle.loads((folder/'scores.pkl').read_bytes())
    assert set(e)=={'id', 'csid', 'ood', 'id_preds', 'id_labels', 'csid_preds', 'csid_labels'}
    pred, conf, label = e['id']['test']
    assert np.array_equal(pred, e['id_preds']) and np.array_equal(label, e['id_labels']) and e['csid']=={}
    assert set(e['ood'])=={'val', 'near', 'far'} and type(e['ood']['val']) is list
    for g in ('near', 'far'):
        for n, (pred, conf, label) in e['ood'][g].items(): assert len(pred)==len(conf)==len(label)==12
    assert np.array_equal(conf, np.load(folder/'scores'/f'{n}.npz')['conf'])

def test_full_spectrum_counts_shifted_images_as_id(run, wide):
    for m in ('Energy', 'KNN'):
        e = predicted(wide, m, full=True)
        again, val = e['csid']['again'], e['id']['val']
        assert again.conf==pytest.approx(val.conf) and np.array_equal(again.label, val.label)
        assert np.array_equal(again.pred, val.pred)
    t, plain = one_table(e), one_table(predicted(run, 'KNN'))
    both = joined(e['id']['test'], again)
    assert t.ACC.unique()==pytest.approx([100*(both.pred==both.label).mean()])
    n = next(iter(e['ood']['near']))
    assert t.loc[n, MEASURES].tolist()==pytest.approx(
        [100*x for x in by_description(*(getattr(joined(both, e['ood']['near'][n]), k)
                                        for k in ('conf', 'label', 'pred')))])
    assert len(both.conf)==2*len(e['id']['test'].conf) and list(t.index)==list(plain.index)

def test_seeds_are_mean_and_spread(run):
    one = one_table(predicted(run, 'Energy'))
    assert with_spread([one]).loc['nearood', 'AUROC']==f"{one.loc['nearood', 'AUROC']:.2f}"
    assert with_spread([one, one+2]).loc['nearood', 'AUROC']==f"{one.loc['nearood', 'AUROC']+1:.2f} ± 1.00"
    other = copy(run); other.profile = run.profile.model_copy(update=dict(name='other'))
    for wrong in ([run, other], []):
        for f in (openood_table, leaderboard):
            with pytest.raises(DreamError, match='seeds of one profile'): f(wrong, 'Energy')

def test_the_leaderboard_and_what_is_written(run, tmp_path):
    board = write_openood([run], tmp_path, ['Energy', 'Dreams'])
    assert list(board)[:4]==['Training', 'Postprocessor', 'Near-OOD AUROC', 'Far-OOD AUROC']
    assert board.Training.tolist()==['plain', 'dreams'] and board['Outlier Data'].tolist()==['none', 'knn']
    assert board.equals(leaderboard([run], ['Energy', 'Dreams']))
    table = pd.read_csv(tmp_path/'dreams'/'ood.csv', index_col=0)
    assert list(table.columns)==[*MEASURES, ID_POSITIVE] and {'nearood', 'farood'}<={*table.index}
    assert board['Near-OOD AUROC'][1]==f"{table.AUROC['nearood']:.2f}"
    assert board['ID Accuracy'][1]==f"{table.ACC['farood']:.2f}"
    val = pd.read_csv(run.stage('evaluation')/'validation.csv').set_index('method')
    assert board['Validation AUROC'][1]==f"{100*val.auroc['Dreams']:.2f}"
    assert (tmp_path/'dreams'/'s0'/'scores'/'mini.npz').is_file()
    assert pd.read_csv(tmp_path/'leaderboard.csv').Method.tolist()==['Energy', 'Dreams']

def test_what_is_not_there_is_one_sentence(run, wide):
    with pytest.raises(DreamError, match="has no method 'Odin': choose from"): predicted(run, 'Odin')
    with pytest.raises(DreamError, match='no ID images under covariate shift'): predicted(run, 'Energy', full=True)
    with pytest.raises(DreamError, match='no near and no far'): one_table(
        predicted(run, 'Energy')|dict(ood=dict(val=None, near={}, far={})))
    p, own = wide.profile, copy(wide)
    clash = p.dream_id.model_copy(update=dict(shift_sets=dict(sandal=p.data.validation)))
    own.profile = p.model_copy(update=dict(dream_id=clash))
    with pytest.raises(DreamError, match="'sandal' is an OOD set"): predicted(own, 'Energy', full=True)
    fresh = Run(run.profile, 7, run.folder.parent.parent)
    with pytest.raises(DreamError, match="'evaluation' is not done"): predicted(fresh, 'Energy')
