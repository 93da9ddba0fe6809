"How the paper's claims are judged: tests on paired differences, corrected together, and the seeds that would decide."
from math import inf,isnan,nan
import numpy as np,pytest
from scipy import stats
from dream_ood.claims import CLAIMS,alone,claim_of,made
from dream_ood.core import DreamError
from dream_ood.evaluation import holm
from dream_ood.paper import (MATTERS,corrected,decided,judged,needed_said,p_said,p_values,power_of,seeds_needed,
                             seeds_said,shaffer,table_of_tests,t_test)

def claims_of(groups, **kwargs):
    "Claims as pages record them: a list of differences for each test of each claim."
    return [dict(claim=str(i), page='page', tests=[t_test(d, **kwargs) for d in g]) for i,g in enumerate(groups)]

# -- one test ---------------------------------------------------------------------------------------------------------
def one_sided(d, bound, side): return stats.ttest_1samp(d, bound, alternative=side).pvalue

def test_p_values_are_those_of_scipy():
    rng = np.random.default_rng(0)
    for n in (2,3,5,10):
        for _ in range(20):
            a,b,m = rng.normal(1,2,n),rng.normal(0,2,n),rng.uniform(.1,3); d = a-b
            pro,con = p_values(d)
            assert np.isclose(min(pro,con), stats.ttest_rel(a,b).pvalue) and (pro<con) == (d.mean()>0)
            assert np.isclose(p_values(d,'non-inferiority',m)[0], stats.ttest_rel(a,b-m,alternative='greater').pvalue)
            tost = max(one_sided(d,-m,'greater'),one_sided(d,m,'less'))
            assert np.isclose(p_values(d,'equivalence',m)[0], tost)
            lo,hi = stats.t.interval(.9, n-1, d.mean(), stats.sem(d))
            assert (judged([t_test(d,kind='equivalence',margin=m)])=='holds') == (lo>-m and hi<m)
            assert (judged([t_test(d,kind='non-inferiority',margin=m)])=='holds') == (lo>-m)

def test_turned_round_a_difference_says_the_opposite():
    d = np.array([3.,3.2,2.9])
    assert judged([t_test(d)]) == 'holds' and judged([t_test(-d)]) == 'no, the opposite'
    assert judged([t_test(-d,kind='non-inferiority',margin=.5)]) == 'no, the opposite'
    for s in (1,-1): assert judged([t_test(s*d,kind='equivalence',margin=2.)]) == 'no, the opposite'

@pytest.mark.parametrize('kind,margin', [('superiority',0.),('non-inferiority',1.),('equivalence',1.)])
@pytest.mark.parametrize('d', [[5.],[nan,nan,nan],[5.,5.1,nan]])
def test_what_is_not_a_number_never_holds(d, kind, margin):
    c = corrected(claims_of([[d]], kind=kind, margin=margin))[0]
    assert c['verdict'] == 'no, undecided' and c['p_corrected'] == 1 and 'unknown' in needed_said(c)

def test_differences_without_spread():
    assert p_values([0.,0.,0.]) == (1,1) and p_values([2.,2.]) == (0,1)
    assert p_values([0.,0.],'equivalence',1.)[0] == 0 and p_values([1.,1.],'equivalence',1.)[0] == 1

@pytest.mark.parametrize('kind,margin,words', [('superiority',1.,'superiority has none'),
                         ('equivalence',0.,'one above 0'),('non-inferiority',-1.,'one above 0'),('more',0.,'choose')])
def test_a_test_that_cannot_be_is_one_sentence(kind, margin, words):
    with pytest.raises(DreamError, match=words): t_test([1.,2.], kind=kind, margin=margin)

@pytest.mark.parametrize('kind,margin,mean', [('superiority',0.,0.),('non-inferiority',1.,-1.),('equivalence',1.,1.),
                                              ('equivalence',1.,-1.)])
@pytest.mark.parametrize('n', [3,10])
def test_errors_at_the_bound_are_rare(kind, margin, mean, n):
    "Where the claim is just false, it holds in at most 5% of studies."
    rng = np.random.default_rng(n); d = rng.normal(mean, .5, (2000,n))
    wrong = np.mean([p_values(x,kind,margin)[0]<.05 for x in d])
    assert wrong < .05+3*(.05*.95/len(d))**.5

# -- all of them ------------------------------------------------------------------------------------------------------
def test_holm_by_hand():
    "Of .01, .04, .03, .005: times 4, 3, 2, 1 in order of size, .02, .03, .06, .04, and none below the one before."
    assert np.allclose(holm([.01,.04,.03,.005]), [.03,.06,.06,.02]) and np.allclose(holm([.9,.8]), 1)
    assert not len(holm([]))

def test_holm_keeps_the_order_and_lies_between_none_and_bonferroni():
    rng = np.random.default_rng(0)
    for n in (1,2,7,40):
        p = rng.uniform(size=n)**3; q = holm(p)
        assert (np.diff(q[p.argsort()])>=0).all() and (q>=p).all() and (q<=np.minimum(1,n*p)+1e-12).all()
        less = p.copy(); less[0] /= 2           # less of one makes none larger
        assert (holm(less)<=q+1e-12).all()

def test_the_family_is_every_part_of_every_claim():
    d = np.array([[1.,1.2,1.1],[2.,2.5,2.2],[-1.,-1.1,-.9],[.1,-.2,.3]])
    after = corrected(claims_of([d[:2],d[2:]]))
    tests = [t for c in after for t in c['tests']]
    ps = shaffer([[t['p'],t['p_alike']] for t in tests])
    assert np.allclose([[t['p_corrected'],t['p_alike_corrected']] for t in tests], ps)
    said = [decided(t,'_corrected')[1] for t in tests]
    assert [c['p_corrected'] for c in after] == pytest.approx([max(said[:2]),max(said[2:])])
    for c in after: assert c['verdict'] == judged(c['tests'],'_corrected')
    assert corrected(claims_of([d[:1]]))[0]['verdict'] == 'holds'
    many = corrected(claims_of([d[:1]]+[d[3:]]*60))        # the same test among many
    assert {c['verdict'] for c in many} == {'no, undecided'}

def test_shaffer_is_holm_where_a_test_has_one_hypothesis():
    rng = np.random.default_rng(0)
    for n in (1,2,7,40):
        p = rng.uniform(size=n)**3
        assert np.allclose(shaffer(p)[:,0], holm(p))
        two = shaffer(np.stack([p,np.full(n,np.nan)],1))
        assert np.allclose(two[:,0], holm(p)) and np.isnan(two[:,1]).all()

def test_shaffer_by_hand():
    "Of (.001, .2), (.01, .012) and (.03): factors 3, 3, 3, then 2, as the second has had both turns, and 1."
    p = shaffer([[.001,.2],[.01,.012],[.03,np.nan]])
    assert np.allclose(p, [[.003,.2],[.03,.036],[.06,np.nan]], equal_nan=True)

def test_shaffer_lies_between_none_and_counting_all():
    rng = np.random.default_rng(1)
    for n in (1,3,20):
        p = rng.uniform(size=(n,2))**4; q,flat = shaffer(p),p.ravel()
        assert (np.diff(q.ravel()[flat.argsort()])>=0).all() and (q>=p).all()
        assert (q<=np.minimum(1,n*p)+1e-12).all() and (q.ravel()<=holm(flat)+1e-12).all()

# -- no difference that matters ---------------------------------------------------------------------------------------
def test_alike_is_the_90_percent_interval_within_what_matters():
    rng = np.random.default_rng(0); seen = set()
    for n in (3,5,10):
        for _ in range(100):
            d = rng.normal(rng.normal(), abs(rng.normal()), n)
            t = t_test(d,'accuracy'); said = decided(t)[0]; seen.add(said)
            lo,hi = stats.t.interval(.9, n-1, d.mean(), stats.sem(d))
            shown = stats.ttest_1samp(d, 0).pvalue < .05
            assert (said=='alike') == (not shown and lo>-1 and hi<1)
            assert judged([t]) == (said if said=='holds' else f'no, {said}')
    assert seen == {'alike','undecided','holds','the opposite'}

@pytest.mark.parametrize('mean', [MATTERS['fpr95'],-MATTERS['fpr95']])
@pytest.mark.parametrize('n', [3,10])
def test_what_matters_is_seldom_taken_for_alike(mean, n):
    rng = np.random.default_rng(n)
    wrong = np.mean([decided(t_test(d))[0]=='alike' for d in rng.normal(mean,.5,(2000,n))])
    assert wrong < .05+3*(.05*.95/2000)**.5

def test_only_superiority_asks_whether_two_are_alike():
    for kind in ('non-inferiority','equivalence'):
        assert isnan(t_test([0.,.1,-.1],kind=kind,margin=1.)['p_alike'])

@pytest.mark.parametrize('n', [3,8])
def test_a_page_of_alike_and_of_just_not_alike_errs_in_at_most_5_percent(n):
    "Half of the claims are of no difference (ahead and behind are errors), half of one that matters (alike is)."
    rng = np.random.default_rng(n); wrong = []
    for _ in range(300):
        seed = .3*rng.normal(size=n); s = rng.choice([.05,.5,2],12)
        means = np.where(np.arange(12)<6, 0, MATTERS['fpr95'])
        tests = [t_test(m+seed+x*rng.normal(size=n)) for m,x in zip(means,s)]
        ps = shaffer([[t['p'],t['p_alike']] for t in tests])
        said = [decided(t|dict(p=p,p_alike=q))[0] for t,(p,q) in zip(tests,ps)]
        wrong.append(any(x in ('holds','the opposite') for x in said[:6]) or 'alike' in said[6:])
    assert np.mean(wrong) < .05+3*(.05*.95/300)**.5

def page_of_nothing(rng, n):
    "The tests of a page none of whose claims is true, correlated: p values, and whether one below 5% is an error."
    def d(mean=0.): return mean+rng.normal(size=n)+seed
    seed = .7*rng.normal(size=n)
    each = [(min(p_values(d())),True) for _ in range(14)]
    # an equivalence at its margin is 'the opposite', too: no error
    for kind,mean in (('equivalence',2),('non-inferiority',-2)):
        pro,con = p_values(d(mean), kind, 2.); each.append((min(pro,con),pro<con))
    return map(np.array, zip(*each))

@pytest.mark.parametrize('n', [3,8])
def test_a_page_without_anything_true_shows_something_in_at_most_5_percent(n):
    rng = np.random.default_rng(n); pages = [[*page_of_nothing(rng, n)] for _ in range(500)]
    def share(corrected): return np.mean([((corrected(p)<.05)&error).any() for p,error in pages])
    assert share(holm) < .05+3*(.05*.95/len(pages))**.5
    assert share(lambda p: p) > .2         # uncorrected, many more

# -- seeds ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('n', [3,10,30])
@pytest.mark.parametrize('alpha', [.05,.05/20])
def test_power_is_that_of_the_noncentral_t(n, alpha):
    for effect in (.3,1,2):
        for kind,a in (('superiority',alpha/2),('non-inferiority',alpha)):
            assert power_of(n,1,effect,alpha,kind) == pytest.approx(
                stats.nct.sf(stats.t.isf(a,n-1),n-1,effect*n**.5), abs=2e-3)

@pytest.mark.parametrize('kind,margin,mean', [('superiority',0.,1.),('non-inferiority',1.,0.),('equivalence',1.,0.)])
@pytest.mark.parametrize('sd,alpha', [(.6,.05),(1.5,.05),(.6,.05/30)])
def test_the_seeds_needed_give_the_power_asked_for(kind, margin, mean, sd, alpha):
    n = seeds_needed(sd, 1., alpha, .8, kind); rng = np.random.default_rng(1)
    shown = np.mean([p_values(d,kind,margin)[0]<alpha for d in rng.normal(mean,sd,(1000,n))])
    assert .8-3*(.16/1000)**.5 < shown < .93               # whole seeds: a little more than asked
    assert power_of(n-1,sd,1.,alpha,kind) < .8 <= power_of(n,sd,1.,alpha,kind)

def test_more_spread_fewer_points_and_more_tests_need_more_seeds():
    for kind in ('superiority','non-inferiority','equivalence'):
        ns = [seeds_needed(s,1.,kind=kind) for s in (.1,.5,1,2,3)]; assert ns == sorted(ns) and len(set(ns)) > 3
        assert seeds_needed(1,1.,.001,kind=kind) > seeds_needed(1,1.,kind=kind) > seeds_needed(1,2.,kind=kind)
    assert seeds_needed(1,1.,kind='non-inferiority') < seeds_needed(1,1.)
    assert seeds_needed(9,1.) == inf and seeds_said(inf) == 'more than 100' and seeds_needed(0,1.) == 2
    assert isnan(seeds_needed(nan,1.)) and seeds_said(nan) == 'unknown' and seeds_said(7) == '7'
    with pytest.raises(DreamError, match='above 0'): seeds_needed(1,0)

def test_what_is_undecided_names_its_seeds():
    d = np.array([3.,-1.,2.]); sure = np.array([5.,5.01,4.99])
    first,second = corrected(claims_of([[sure,d],[sure]]))
    assert first['verdict'] == 'partly' and second['verdict'] == 'holds' and needed_said(second) == ''
    sd = d.std(ddof=1)
    def either(alpha): return max(seeds_needed(sd,MATTERS['fpr95'],alpha,kind=k) for k in ('superiority','equivalence'))
    assert (first['seeds'],first['seeds_alone']) == (either(.05/3),either(.05))
    # its effect is the one that matters, whatever was observed
    assert corrected(claims_of([[d+.1]]))[0]['seeds'] == corrected(claims_of([[d]]))[0]['seeds']

# -- how a claim is made and shown ------------------------------------------------------------------------------------
def of_tests(monkeypatch, tests):
    "A claim with the key `key`, of some tests."
    of = made('A claim.','new','so and so.',tests) if tests else None
    monkeypatch.setitem(CLAIMS, 'key', dict(page='page',study='tables',made=lambda p: of))

def test_a_verdict_can_be_computed_from_what_is_kept(monkeypatch):
    tests = [t_test([2.,2.2,1.9],of='a'),t_test([.1,.2,-.1],'accuracy','non-inferiority',.5,of='b')]
    of_tests(monkeypatch, tests)
    kept,said = claim_of('key',None),alone('key',None).data
    np.testing.assert_equal(kept['tests'], tests)
    assert '**Verdict by itself: holds**' in said and 'Uncorrected' in said
    t = table_of_tests(corrected([kept]))
    assert list(t.of) == ['a','b'] and set(t.n) == {3} and t.page.eq('page').all()
    for r in t.itertuples():
        again = t_test([float(x) for x in r.gains.split()], r.measure, r.kind, r.margin)
        assert again['p'] == pytest.approx(r.p, abs=1e-3) and again['side'] == r.side
        assert again['low'] < again['mean'] < again['high'] and r.p_corrected >= r.p
    of_tests(monkeypatch, None)
    assert claim_of('key',None) is None and 'nothing to judge it by' in alone('key',None).data

def test_one_seed_is_one_sentence(monkeypatch):
    of_tests(monkeypatch, [t_test([1.])])
    said = alone('key',None).data
    assert 'no, undecided** (one seed has no spread, and shows nothing)' in said and 'nan' not in said
    c, = corrected([claim_of('key',None)])
    assert c['verdict'] == 'no, undecided' and p_said(c['p_corrected']) == '1.000'

def test_a_claim_without_tests_is_not_judged():
    old,new = corrected([dict(claim='old',page='p',verdict='holds')]+claims_of([[[1.,1.1,1.05]]]))
    assert old['verdict'] == 'not tested' and p_said(old['p_corrected']) == 'none' and needed_said(old) == ''
    assert new['verdict'] == 'holds' and new['tests'][0]['p_corrected'] == new['tests'][0]['p']
