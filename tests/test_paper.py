"""The studies behind the paper's tables and figures, and every page of nbs/paper that is made from them, on a study
made small."""
import json,re,subprocess,sys
import numpy as np,pandas as pd,pytest,torch,yaml
from pathlib import Path
from dream_ood import paper
from dream_ood.paper import (MATTERS,PAPER,TESTS,THIRDS,ablated_size,ablations_study,axes,base_pool,by_seed,gain,
                             gather,half_width,judged,latex,needs,open_runs,paper_home,studies,t_test,value_name,
                             write_studies)
from dream_ood.core import load_tensors
from dream_ood.claims import CLAIMS,alone,behind_claims,whole
from dream_ood.study import Profile,load_profile
from dream_ood.training import few_classes
from dream_ood.stages import classifier_of,outliers_of
from dream_ood.runs import Run
from pages import STAGES,executed,fewer,finish,make_runs,small_profile

ROOT = Path(__file__).parent.parent

# -- the studies ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('name', ['mini','mini_full','smoke','imagenet100','imagenet10','cifar100','openood_cifar100',
                                  'openood_imagenet200'])
def test_every_profile_has_its_studies(name):
    p = load_profile(ROOT/'profiles'/f'{name}.yaml')
    parts = studies(p)
    assert {'tables','ablations','dream-id','claims','claims-dream-id'} == set(parts)
    for n,s in parts.items():
        assert s.name == f'{p.name}-{n}' and s.data == p.data and s.foundation == p.foundation and s.paper is None
        assert s.training.model_dump(exclude={'contenders'}) == p.training.model_dump(exclude={'contenders'})
        assert Profile(**s.model_dump()) == s
    for n in ('dream-id','claims-dream-id'):
        assert parts[n].latent_space.model_dump(exclude={'alignment'}) == p.latent_space.model_dump(
            exclude={'alignment'})

@pytest.mark.parametrize('name', ['mini','smoke','imagenet100','cifar100','openood_imagenet200'])
def test_a_study_of_claims_has_the_rows_of_its_origins_and_no_more(name):
    "Same name, same settings: so the same numbers, as all that is drawn depends on the seed and on names."
    p = load_profile(ROOT/'profiles'/f'{name}.yaml'); parts = studies(p); own = parts['claims']
    for what in ((lambda s: s.sampling.pools),(lambda s: s.decoding.pools),(lambda s: s.evaluation.methods)):
        of = [what(parts[n]) for n in ('tables','ablations')]
        for n,v in what(own).items(): assert v in [o.get(n) for o in of], n
    M = ablated_size(p); fewer = M < base_pool(p).per_class
    for n,c in own.training.contenders.items():
        of = [parts[o].training.contenders.get(n) for o in ('tables','ablations')]
        # where the ablations draw fewer than the tables and take them all, here they take as many
        assert c in of or fewer and c.per_class == M and c.model_copy(update=dict(per_class=None)) in of, n
    few,all_ = parts['claims-dream-id'].dream_id,parts['dream-id'].dream_id
    assert few.sizes.items() <= all_.sizes.items() and {min(all_.sizes),max(all_.sizes)} == {*few.sizes}
    assert len(own.training.contenders) < .6*sum(len(parts[n].training.contenders) for n in ('tables','ablations'))

def test_contenders_of_the_tables_differ_in_their_outliers_alone():
    s = studies(load_profile(ROOT/'profiles/mini.yaml'))['tables']
    for n,c in s.training.contenders.items():
        if n != 'cross-entropy':
            assert c.model_dump(exclude={'outliers'}) == s.training.contenders['Dream-OOD'].model_dump(
                exclude={'outliers'}), n
    # only the two without outliers share theirs
    assert len({c.outliers for c in s.training.contenders.values()}) == len(s.training.contenders)-1
    assert len({q.per_class for n,q in s.sampling.pools.items() if n != 'inliers'}) == 1

def test_an_ablation_changes_one_thing():
    p = load_profile(ROOT/'profiles/mini.yaml'); s = ablations_study(p)
    dream,q,d = s.training.contenders['Dream-OOD'],s.sampling.pools['knn'],s.decoding.pools['knn']
    for axis,values in axes(p).items():
        for v in values:
            c = s.training.contenders[value_name(axis,v)]
            own = [k for k in type(c).model_fields if getattr(c,k) != getattr(dream,k) and k != 'outliers']
            sampled,drawn = s.rule(c.outliers),s.decoding.pools[c.outliers]
            own += ([k for k in type(sampled).model_fields if getattr(sampled,k) != getattr(q,k)]
                    + [k for k in type(drawn).model_fields if getattr(drawn,k) != getattr(d,k) and k != 'of'])
            assert len(own) == 1, (axis,v,own)

def test_a_profile_without_nouns_has_no_contender_that_needs_them():
    p = load_profile(ROOT/'profiles/cifar100.yaml'); s = studies(p)['tables']
    assert 'other class names' not in s.training.contenders and 'drift' not in s.sampling.pools
    with_list = p.model_copy(
        update=dict(foundation=p.foundation.model_copy(update=dict(nouns='profiles/imagenet900_nouns.csv'))))
    assert 'other class names' in studies(with_list)['tables'].training.contenders

def test_nouns_of_imagenet_are_those_of_the_other_classes():
    p = load_profile(ROOT/'profiles/imagenet100.yaml'); nouns = pd.read_csv(ROOT/p.foundation.nouns).noun
    assert nouns.is_unique and nouns.notna().all() and 890 <= len(nouns) <= 900
    assert not {'stingray','hen','zebra','tractor'} & set(nouns) and {'tench','goldfish'} <= set(nouns)

def test_another_foundation_is_a_study_of_its_own():
    p = load_profile(ROOT/'profiles/mini.yaml')
    p = p.model_copy(update=dict(paper=p.paper.model_copy(update=dict(foundations={'other':'_models/other'}))))
    s = studies(p)['foundation-other']
    assert s.foundation.model == '_models/other' and needs(p,'backbones')['foundation-other'] == ['evaluation']

# -- what a contender may have of its own -----------------------------------------------------------------------------
def test_a_batch_of_few_classes():
    y = torch.tensor([0]*5+[1]*50+[2]*7+[3]*20)
    for m in (1,2,3,9):
        g = torch.Generator().manual_seed(m); seen = set()
        for _ in range(30):
            i = few_classes(y, 12, m, g)
            assert len(i) == 12 and len(y[i].unique()) == min(m,4)
            counts = y[i].bincount(); assert counts[counts>0].max()-counts[counts>0].min() <= 1
            seen |= set(y[i].tolist())
        assert seen == {0,1,2,3}

@pytest.mark.parametrize('contender,words', [(dict(start='plain',backbone='regnetx_002'),'give both the same'),
    (dict(start='plain',outliers='wide',per_class=3),'choose among the outliers of sampled pools'),
                                            (dict(start='plain',outliers='names',distance=[0,.5]),'choose among'),
                                            (dict(start='plain',outliers='vos',classes_a_step=2),'choose among')])
def test_a_contender_that_cannot_be_is_refused(contender, words):
    d = load_profile(ROOT/'profiles/mini.yaml').model_dump()
    d['training']['contenders'] = dict(plain={}, other=contender)
    d['evaluation']['methods'] = dict(m=dict(contender='plain',detector='msp'))
    with pytest.raises(ValueError, match=words): Profile(**d)

# -- pages ------------------------------------------------------------------------------------------------------------
SEEDS = [0,1]

@pytest.fixture(scope='module', autouse=True)
def at_root():
    with pytest.MonkeyPatch.context() as m:
        m.chdir(ROOT); yield

@pytest.fixture(scope='module')
def profile(tmp_path_factory):
    d = small_profile()|dict(name='pages')
    d['paper'] = dict(backbones=['mobilenetv3_small_050'], sizes={5:2, 10:3}, inliers_per_class=6)
    path = tmp_path_factory.mktemp('profiles')/'pages.yaml'
    path.write_text(yaml.safe_dump(d, sort_keys=False))
    return path

@pytest.fixture(scope='module')
def runs(profile, tmp_path_factory):
    "All runs behind the pages."
    with pytest.MonkeyPatch.context() as m:
        m.setattr(paper, 'axes', fewer)
        yield make_runs(profile, SEEDS, tmp_path_factory.mktemp('runs'))

@pytest.mark.parametrize('name', PAPER)
def test_page(name, profile, runs):
    home = paper_home(load_profile(profile), runs)
    cells,made = executed(name, profile, runs, tuple(SEEDS))
    assert not [o for c in cells for o in c.get('outputs',[]) if o['output_type']=='error']
    tables,figures = ({f.rsplit('.',1)[0] for f in made if f.startswith(k)} for k in ('tables/','figures/'))
    assert tables | figures, 'a page ends in a table or a figure'
    assert (made >= {f'{t}.{e}' for t in tables for e in ('md','csv','tex')} | {f'{f}.{e}' for f in figures
        for e in ('png','pdf')})
    for t in tables:
        said = (home/f'{t}.md').read_text().strip().splitlines()[-1]
        assert re.search(r'-(tables|ablations|dream-id)`: `seed0`.*code', said), said
        assert (home/f'{t}.tex').read_text().count('\\\\') > 1 and len(pd.read_csv(home/f'{t}.csv'))
        assert not re.search(r'\bnan\b', (home/f'{t}.md').read_text()), t

def test_claims_page_judges_every_claim(profile, runs):
    home = paper_home(load_profile(profile), runs)
    executed('claims', profile, runs, tuple(SEEDS))
    t = pd.read_csv(home/'tables/claims.csv')
    assert (set(t.key) == set(CLAIMS) and set(t.page) <= set(PAPER)
            and set(t.verdict) <= {'holds','partly','no, undecided','no, alike','no, the opposite'})
    assert t[['claim','reported','ours','p_corrected']].notna().all().all()
    each = pd.read_csv(home/'tables/claims_tests.csv')
    assert len(each) == t.tests.sum() and set(each.kind) == set(TESTS)
    assert (each.p_corrected >= each.p.fillna(0)).all()
    undecided = each.verdict == 'no, undecided'
    assert each[undecided].seeds.notna().all() and each[~undecided].seeds.isna().all()
    assert 'seeds needed' in (home/'tables/claims.md').read_text()

def test_a_page_shows_its_claim_and_a_seed_that_has_everything_needs_no_other_run(profile, runs):
    p = load_profile(profile)
    assert whole(p, [0,7,1], runs) == [0,1]
    over = behind_claims(profile, SEEDS, runs)
    assert ({n:{r.folder.parent.name for r in rs} for n,rs in over.items()}
            == {n:{f'{p.name}-{n}'} for n in ('tables','ablations','dream-id')})
    shown = [''.join(o['data']['text/markdown']) for c in executed('efficiency', profile, runs, tuple(SEEDS))[0]
             for o in c.get('outputs',[]) if 'text/markdown' in o.get('data',{})]
    said = alone('efficiency', p, gather(over['ablations'])).data
    assert said in shown and '**The claim**: A part of the outliers is enough' in said

def test_runs_of_claims_alone_end_in_the_numbers_of_their_origins(profile, runs, monkeypatch):
    monkeypatch.setenv('DREAM_OOD_REUSE', '0')      # trained, not taken from there
    parts = studies(load_profile(profile))
    finish(Run.open(parts['claims'], 0, runs), [*STAGES,'training','evaluation'])
    own,*of = (pd.read_csv(Run(parts[n],0,runs).stage('evaluation')/'metrics.csv').set_index(['method','ood_set'])
               for n in ('claims','tables','ablations'))
    own = own.drop('generated', level=1)        # the control has as many images as the study draws from class names
    for m in own.index.levels[0]:
        for t in [t for t in of if m in t.index]:
            pd.testing.assert_frame_equal(own.loc[[m]], t.loc[[m]].drop('generated', level=1))

def test_numbers_of_the_table_are_those_of_the_runs(profile, runs):
    over = open_runs(profile, SEEDS, runs, 'tables')
    t = pd.concat([pd.read_csv(r.stage('evaluation')/'metrics.csv') for r in over])
    executed('detection', profile, runs, tuple(SEEDS))
    near = 100*t[(t.method=='Dream-OOD: energy')&(t.group=='near')].groupby('seed').fpr95.mean()
    row = next(l for l in (paper_home(load_profile(profile),runs)/'tables/detection.md').read_text().splitlines()
               if l.startswith('| Dream-OOD '))
    head = (paper_home(load_profile(profile),runs)/'tables/detection.md').read_text().splitlines()[0]
    at = [c.strip() for c in head.split('|')].index('near FPR95 ↓')
    assert row.split('|')[at].strip().split(' ± ')[0] == f'{near.mean():.1f}'

def test_thirds_by_distance_are_a_partition_of_the_pool(profile, runs):
    run = open_runs(profile, SEEDS, runs, 'ablations')[0]
    whole = outliers_of(run,'knn'); distance = load_tensors(run.stage('sampling')/'knn.safetensors')['distance']
    parts = {n:outliers_of(run,'knn',distance=r) for n,r in THIRDS.items()}
    files = [f for p in parts.values() for f in p.images]
    assert sorted(files) == sorted(whole.images) and len(set(files)) == len(files)
    of = lambda f: distance[run.profile.data.classes.index(f.parent.name), int(f.stem)].item()
    for c in run.profile.data.classes:
        lo,mid,hi = ([of(f) for f in p.images if f.parent.name==c] for p in parts.values())
        assert max(lo) <= min(mid) and max(mid) <= min(hi)
    first = outliers_of(run,'knn',per_class=2)
    assert [f.stem for f in first.images] == ['00000','00001']*len(run.profile.data.classes)

def test_own_backbones_are_trained_and_scored(profile, runs):
    run = open_runs(profile, SEEDS, runs, 'ablations')[0]
    a,b = classifier_of(run,'mobilenetv3_small_050, Dream-OOD'),classifier_of(run,'Dream-OOD')
    assert type(a) != type(b)
    m = pd.read_csv(run.stage('evaluation')/'metrics.csv')
    assert m[m.method=='mobilenetv3_small_050, Dream-OOD: energy'].auroc.notna().all()

def test_an_ablation_that_changes_nothing_else_shares_its_start(profile, runs):
    "Same start, same ID batches: with β alone changed, the first step's cross-entropy is the same."
    stage = open_runs(profile, SEEDS, runs, 'ablations')[0].stage('training')
    first = {n:pd.read_csv(stage/f'{n}.csv').ce[0] for n in ('Dream-OOD','β 0.01','β 1')}
    assert len(set(first.values())) == 1

def test_the_graph_asks_for_what_the_pages_read(profile, tmp_path):
    def ask(target, how='-n'):
        r = subprocess.run([sys.executable,'-m','snakemake',how,'--cores','2','--nolock','--snakefile',
                            str(ROOT/'workflow'/'Snakefile'),
                            '--directory',str(tmp_path),'--config',f'profile={profile}','seeds="0,1"',
                            f'runs={tmp_path}',f'target={target}'],
                           capture_output=True, text=True, cwd=tmp_path)
        assert r.returncode == 0, r.stdout+r.stderr
        return r.stdout+r.stderr
    def edges(target): # pairs of rules
        graph = json.loads(re.search('^{.*}$', ask(target, '--d3dag'), re.M)[0])
        rule = {n['id']:n['value']['rule'] for n in graph['nodes']}
        return {(rule[l['u']],rule[l['v']]) for l in graph['edges']}
    def dry(target): return set(re.findall(r'^Job \d+: (.*)$', ask(target), re.M))
    for f in ('nbs','profiles','settings.ini'): (tmp_path/f).symlink_to(ROOT/f)
    name = load_profile(profile).name
    jobs = dry('paper')
    # what studies share is made once: one waits for another, where that is asked for, too
    assert {('latent_space','latent_space'),('training','training')} <= edges('paper')
    assert ('latent_space','latent_space') not in edges('runs/ablations')
    assert {f'{name}: paper/{n}, seeds 0, 1' for n in (*PAPER,'claims')} <= jobs
    assert {f'{name}-{s}, seed {k}: 08_evaluation' for s in ('tables','ablations') for k in SEEDS} <= jobs
    assert {f'{name}-dream-id, seed {k}: 07_dream_id' for k in SEEDS} <= jobs
    assert not {f'{name}-dream-id, seed 0: 06_regularized_training',f'{name}-ablations, seed 0: 07_dream_id'} & jobs
    one = dry('paper/efficiency')
    assert (f'{name}: paper/efficiency, seeds 0, 1' in one
            and not [j for j in one if 'claims' in j or j.startswith(f'{name}-tables')])
    assert not [j for j in dry('runs/ablations') if 'paper/' in j or j.startswith(f'{name}-tables')]
    claims = dry('paper/claims')     # runs of their own: nothing of the pages is done
    assert {f'{name}-claims, seed 1: 08_evaluation',f'{name}-claims-dream-id, seed 0: 07_dream_id',
            f'{name}: paper/claims, seeds 0, 1'} <= claims
    assert not [j for j in claims if j.startswith((f'{name}-tables',f'{name}-ablations',f'{name}-dream-id'))]

@pytest.mark.parametrize('more,words', [(['-t','papers'],'There is no target'),
                                        (['-t','paper/none'],'There is no target'),
                                        (['-t','runs/controls'],'There is no target'),
                                        (['-t','paper','--row','Dream-OOD'],'ROW')])
def test_a_target_that_is_none_is_one_sentence(more, words):
    r = subprocess.run([sys.executable,'-m','dream_ood','reproduce','-s','0',*more], cwd=ROOT,
                       capture_output=True, text=True)
    assert (r.returncode == 2 and r.stderr.startswith('Error: ') and words in r.stderr
            and len(r.stderr.strip().splitlines()) == 1)

def test_studies_are_written_once(profile, tmp_path):
    paths = write_studies(load_profile(profile), tmp_path)
    before = {p:p.stat().st_mtime_ns for p in paths.values()}
    assert (write_studies(load_profile(profile), tmp_path) == paths
            and before == {p:p.stat().st_mtime_ns for p in paths.values()})
    # a profile like any other
    for n,p in paths.items(): assert load_profile(p) == studies(load_profile(profile))[n]

def test_a_verdict_follows_the_interval():
    rng = np.random.default_rng(0)
    for _ in range(200):
        t = t_test(rng.normal(rng.normal(), abs(rng.normal()), 3))
        m,inner = MATTERS['fpr95'],half_width(t['gains'], .9)
        alike = -m<t['mean']-inner and t['mean']+inner<m       # the 90% interval
        assert judged([t]) == ('holds' if t['low']>0 else 'no, the opposite' if t['high']<0
                               else 'no, alike' if alike else 'no, undecided')
    good,bad,wide,one = (t_test(d) for d in ([1.,1.1,.9],[-1.,-1.1,-.9],[5.,-4.,1.],[3.]))
    assert judged([good,bad]) == 'partly' == judged([good,wide]) and judged([wide,bad]) == 'no, the opposite'
    assert judged([one]) == 'no, undecided'     # one seed shows nothing

def test_gain_is_in_favour_of_the_first():
    m = pd.DataFrame([dict(method=n,ood_set='x',group='near',seed=s,fpr95=f+s,auroc=a,id_acc=0)
                      for n,f,a in (('a',10,90),('b',20,80)) for s in (0,1)])
    t = by_seed(m)
    assert gain(t,'a','b',('near','fpr95')).tolist() == [10,10] and gain(t,'a','b',('near','auroc')).tolist() == [10,10]

def test_latex_can_be_set():
    t = latex(pd.DataFrame({'FPR95 ↓':['1.0 ± 0.2'], 'a_b & c':['50%'], 'β':['σ × φ']}),
              'All of `a_b`, in %: 1 ± 2.', 'mine')
    assert (r'\caption{All of \texttt{a\_b}, in \%: 1 $\pm$ 2.}' in t and t.count('{')==t.count('}')
            and not re.search(r'[^\x00-\x7f]', t) and r'a\_b \& c' in t and r'50\%' in t)

def test_figures_of_later_papers_name_their_source():
    t = pd.read_csv(ROOT/'nbs'/'paper'/'reported_later.csv', dtype=str)
    assert list(t) == ['method','paper','arxiv','benchmark','backbone','fpr95','auroc','id_acc','where','note']
    assert t[['method','paper','arxiv','benchmark','where','note']].notna().all().all()
    figures = t[['fpr95','auroc','id_acc']].astype(float)
    assert figures.notna().any(axis=1).all() and figures.stack().dropna().between(0,100).all()
