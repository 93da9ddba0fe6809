"""Sampling rules of later papers: the map of `ncis` loses nothing, straightens and generalises, and its outliers lie in
the tail; `boundary` can walk as BOOD's code does, and does what it did where nothing is said."""
import numpy as np,pytest,torch
import torch.nn.functional as F
from fastcore.test import test_close as close
from scipy.stats import chi2,kstest
from sklearn.covariance import LedoitWolf
from dream_ood.core import DreamError
from dream_ood.sampling import (VolumePreserving,climb,climb_by_sign,in_tail,ncis,parameters_of,plain_distance,sample,
                                sample_classes,straightened)
from dream_ood.settings import Pool

def G(seed=0): return torch.Generator().manual_seed(seed)

def banana(n, seed=0, d=3): # on the sphere in d dimensions, bent in the first two
    s,ε = torch.randn(2, n, generator=G(seed))
    x = torch.cat([torch.stack([.25*s, .15*(s**2-1)+.03*ε, torch.ones(n)], 1), torch.zeros(n,d-3)], 1)
    return F.normalize(x+.01*torch.randn(n,d,generator=G(seed+50))*(d>3), dim=1)

@pytest.fixture(scope='module')
def bent(): return banana(800)
@pytest.fixture(scope='module')
def straight(bent): return straightened(bent, G(1), fit_steps=120)
@pytest.fixture(scope='module')
def outliers(bent): return ncis(bent, 300, G(1), k=20, fit_steps=120)   # by the same map: the same generator

def rough(d, couplings): # a map with weights far from those it begins with
    f = VolumePreserving(F.normalize(torch.randn(60,d,generator=G(3)),dim=1).double(), G(4), couplings, .3).double()
    with torch.no_grad():
        for p in f.parameters(): p.copy_(torch.randn(p.shape, generator=G(p.numel()))*.5)
    return f.requires_grad_(False)

@pytest.mark.parametrize('d,couplings', [(2,1),(5,2),(7,4),(16,3)])
def test_the_map_is_invertible_and_keeps_volume(d, couplings):
    f,x = rough(d,couplings),torch.randn(9,d,generator=G(5)).double()
    y = f(x)
    linear = (x-f.mean)@f.basis
    assert (y-linear).abs().max()>.1                  # it does bend
    close(f.inverse(y), x, 1e-8); close(f(f.inverse(x)), x, 1e-8)
    for v in x[:3]:
        J = torch.autograd.functional.jacobian(lambda v: f(v[None])[0], v)
        close(J.slogdet().logabsdet, 0., 1e-8)
        assert (J-f.basis.T).abs().max()>.01          # not by being a rotation

def test_the_last_coupling_shifts_the_invariants():
    for n in (1,2,3,4):
        f = VolumePreserving(banana(50).double(), G(), n, .05)
        assert len(f.onto)==n and f.onto[-1] and all(a!=b for a,b in zip(f.onto,f.onto[1:]))

def test_it_begins_as_a_rotation_to_principal_directions():
    z = banana(100,d=9).double()
    f = VolumePreserving(z, G(), 4, .05)
    y = f.double()(z)
    cov = torch.cov(y.T)
    close(cov-cov.diag().diag(), torch.zeros(9,9), 1e-9)
    v = cov.diag()
    assert (v.diff()<=1e-12).all() and v[:f.free].sum()<=.95*v.sum()<v[:f.free+1].sum()

def test_a_banana_is_straightened_and_more_gaussian(bent, straight):
    fresh = banana(2000, seed=9).double()             # points that the map was not fitted to
    before,after = (fresh-straight.mean)@straight.basis,straight(fresh)
    def bend(c): # share of the second coordinate that the first one tells
        a,b = c[:,:2].numpy().T
        return 1-(b-np.polyval(np.polyfit(a,b,4),a)).var()/b.var()
    assert bend(before)>.7 and bend(after)<.3
    # lengths in units of a fitted Gaussian, against those of a Gaussian
    def off(c):
        fit = LedoitWolf().fit(c.numpy())
        return kstest(fit.mahalanobis(c.numpy()), chi2(3).cdf).statistic
    assert off(after)<.8*off(before)
    assert after[:,straight.free:].var(0).sum()<.1*before[:,straight.free:].var(0).sum()
    # volume is kept: a fitted Gaussian of less entropy is a nearer one
    def entropy(c): return torch.cov(c.T).logdet()/2
    assert entropy(after)<entropy(before)-1

def test_a_class_without_a_shape_is_not_learned_by_heart():
    z = F.normalize(torch.cat([torch.ones(90,1),.2*torch.randn(90,40,generator=G(2))],1), dim=1)
    new = F.normalize(torch.cat([torch.ones(500,1),.2*torch.randn(500,40,generator=G(3))],1), dim=1).double()
    f = straightened(z, G(), fit_steps=100)
    linear = (new-f.mean)@f.basis
    assert f(new)[:,f.free:].square().mean()<1.1*linear[:,f.free:].square().mean()

def test_the_tail_is_beyond_the_stated_quantile():
    y = torch.randn(400,6,generator=G(1)).double()@torch.randn(6,6,generator=G(2)).double()+3
    fit = LedoitWolf().fit(y.numpy())
    for tail in (.5,.05,.003):
        square = fit.mahalanobis(in_tail(y, 3000, G(), tail).numpy())
        assert square.min()>=chi2.isf(tail,6)-1e-6
        # of what lies there, as much as a Gaussian has
        assert abs((square>chi2.isf(tail/2,6)).mean()-.5)<.04

def test_outliers_lie_outside_the_bulk_and_around_it(bent, straight, outliers):
    s = outliers
    close(s.z.norm(dim=1), torch.ones(300), 1e-5)
    close(s.distance, plain_distance(s.z, bent, 20), 1e-6)
    assert torch.equal(s.boundary, (s.z.double()@bent.double().T).argmax(1))
    y = straight(bent.double())
    fit = LedoitWolf().fit(y.numpy())
    own,out = (fit.mahalanobis(straight(v.double()).numpy()) for v in (bent,s.z))
    # normalising takes a part of the length in y, and the samples stay outside
    assert (out>chi2.isf(.003,3)).mean()>.4 and (out>chi2.isf(.1,3)).mean()>.7
    assert (own>chi2.isf(.003,3)).mean()<.05 and (own>chi2.isf(.1,3)).mean()<.2
    before = straight.inverse(in_tail(y, 300, G(), .003))   # as they are before that
    assert (fit.mahalanobis(straight(before).numpy())>chi2.isf(.003,3)-1e-6).all()
    # on both sides of the curve
    across = straight(s.z.double())[:,1]/y[:,1].std()
    assert (across>1.5).sum()>30 and (across<-1.5).sum()>30
    nearer = F.normalize(straight.inverse(in_tail(y, 300, G(), .3)), dim=1).float()
    assert plain_distance(nearer, bent, 20).mean()<.9*s.distance.mean()

def test_outliers_follow_the_curve_nearer_than_those_of_a_gaussian(bent, outliers):
    g = F.normalize(in_tail(bent.double(), 300, G(), .003), dim=1).float()   # as likely, by an ellipsoid
    assert outliers.distance.median()<.8*plain_distance(g, bent, 20).median()

def pool(**changes): return Pool(**(dict(rule='ncis', per_class=6, k=5, fit_steps=5)|changes))

def test_settings_that_are_not_there_are_the_defaults_of_the_rule():
    new = {'walk','misclassified','tail','couplings','fit_steps','invariant'}
    bare = Pool(rule='ncis', per_class=6)
    assert not new&set(bare.model_dump()) and not new&set(Pool(rule='boundary', per_class=6).model_dump())
    assert new<=set(parameters_of('ncis'))|set(parameters_of('boundary'))
    full = Pool(rule='ncis', per_class=6, tail=.01, couplings=2, fit_steps=3, invariant=.1).model_dump()
    assert {k:full[k] for k in ('tail','couplings','fit_steps','invariant')}==dict(tail=.01,couplings=2,fit_steps=3,
                                                                                   invariant=.1)
    z,y = banana(60,d=8),torch.arange(60)%2
    a = 2*F.normalize(torch.randn(2,8,generator=G(1)), dim=1)
    def drawn(**c): return sample_classes(pool(k=5,**c), z, y, a)['z']
    told = drawn(tail=.003, couplings=4, invariant=.05)
    assert torch.equal(drawn(), told) and not torch.equal(drawn(tail=.2), told)
    assert VolumePreserving(z.double(), G(), 2, .01).free>VolumePreserving(z.double(), G(), 2, .3).free
    assert not torch.equal(drawn(couplings=3), told) and drawn().shape==(2,6,8)
    close(told.norm(dim=-1), torch.full((2,6),2.), 1e-5)

@pytest.mark.parametrize('wrong', [dict(tail=0), dict(tail=1), dict(couplings=0), dict(invariant=1.), dict(fit_steps=0),
                                   dict(walk='up')])
def test_a_pool_refuses(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))): pool(**wrong)

@pytest.mark.parametrize('wrong,words', [
    (dict(tail=0.), 'tail is 0.0'), (dict(invariant=1.), 'invariant is 1.0'), (dict(couplings=0), 'one coupling'),
    (dict(fit_steps=0), 'one training step'), (dict(z=torch.eye(3)[:1].repeat(30,1)), 'are the same')])
def test_bad_input_is_one_sentence(wrong, words):
    with pytest.raises(DreamError, match=words) as e: ncis(wrong.pop('z',banana(30)), 3, G(), k=5, **wrong)
    assert '\n' not in str(e.value)

def test_nothing_global_is_changed_and_two_embeddings_do():
    torch.manual_seed(5)
    state,threads = torch.get_rng_state(),torch.get_num_threads()
    with torch.inference_mode(): s = ncis(banana(40), 4, G(), k=3, fit_steps=3)
    assert torch.equal(torch.get_rng_state(), state) and torch.get_num_threads()==threads and torch.is_grad_enabled()
    assert torch.equal(s.z, ncis(banana(40), 4, G(), k=3, fit_steps=3).z) and not s.z.requires_grad
    assert ncis(banana(2,d=4), 3, G(), k=1, fit_steps=2).z.isfinite().all()

# -- BOOD -------------------------------------------------------------------------------------------------------------
D,N = 24,60
def around(centre, n, seed, spread=.9):
    return F.normalize(F.normalize(centre,dim=0)+spread*torch.randn(n,D,generator=G(seed))/D**.5, dim=1)
anchors = torch.randn(4, D, generator=G(8))
z = around(anchors[0], N, 4)
def cross(z=z, M=10, select=10, extra=0., **how):
    return sample('boundary', z, M, G(3), anchors=anchors, label=0, k=5, select=select, step=.05, extra=extra, **how)

def by_autograd(x, step): # a step as BOOD's code has it, of another make
    x = x.clone().requires_grad_()
    g, = torch.autograd.grad(F.cross_entropy(F.cosine_similarity(x, anchors.double(), dim=1)[None]/.1,
                                             torch.tensor([0])), x)
    return x.detach()+step*g.sign()

def test_a_step_by_sign_is_that_of_the_code():
    x = 1.7*z[:9].double()
    mine = climb_by_sign(x, F.normalize(anchors.double(),dim=1), 0, .03)
    close(mine, torch.stack([by_autograd(v,.03) for v in x]), 1e-12)
    close((mine-x).norm(dim=1), torch.full((9,), .03*D**.5), 1e-6)

def test_the_walk_by_sign_crosses_where_the_code_crosses():
    way = {}
    for i,x in enumerate(z.double()):
        path = [x]
        while (F.normalize(anchors.double(),dim=1)@path[-1]).argmax()==0: path.append(by_autograd(path[-1],.05))
        way[i] = path
    s = cross(walk='sign')
    assert sorted(len(way[i]) for i in s.boundary.tolist())==sorted(len(p) for p in way.values() if len(p)>1)[:10]
    for i,v in zip(s.boundary.tolist(), s.z): close(v, F.normalize(way[i][-1],dim=0).float(), 1e-5)
    assert (s.nearest!=0).all() and not torch.equal(s.z, cross().z)

def test_what_is_wrong_from_the_start():
    wrong = around(anchors[1], 3, 6, spread=.3)
    both = torch.cat([z,wrong])
    assert set(cross(both, misclassified=True).boundary.tolist())>={N,N+1,N+2}
    assert not set(cross(both).boundary.tolist())&{N,N+1,N+2}
    # they have no way to go to the boundary
    s = cross(both, misclassified=True)
    close(s.z[s.boundary>=N], both[s.boundary[s.boundary>=N]], 1e-6)
    # enough of them: no other is asked; and where all are wrong there is no error
    assert set(cross(both, select=3, misclassified=True).boundary.tolist())=={N,N+1,N+2}
    many = around(anchors[1], 20, 6, spread=.3)
    assert len(cross(many, misclassified=True).z)==10
    with pytest.raises(DreamError, match='wrong about every'): cross(many)

def test_without_the_new_settings_the_walk_is_the_old_one():
    told = cross(walk='sphere', misclassified=False, M=25, extra=2.)
    assert torch.equal(cross(M=25, extra=2.).z, told.z)
    a,x = F.normalize(anchors.double(),dim=1),z[told.boundary[0]].double()
    while (a@x).argmax()==0: x = climb(x[None], a, 0, .05)[0]
    close(cross().z[0], x.float(), 1e-6)
    with pytest.raises(DreamError, match="no walk 'up'"): cross(walk='up')
