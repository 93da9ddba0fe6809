"""Sampling: the rules against brute force, the fast search against the plain lines, the same samples on any block size
and number of threads, and bad input in one sentence."""
import numpy as np,pytest,torch
import torch.nn.functional as F
from fastcore.test import test_close as close
from sklearn.neighbors import NearestNeighbors
from dream_ood import search
from dream_ood.core import DreamError
from dream_ood.sampling import RULES,inliers,knn,misread,percentiles,plain_distance,plain_knn,sample,slerp,span
from dream_ood.search import (Candidates,Noise,Space,boundary_points,extremes,farthest,kth_distance,neighbours,
                              own_distance)

D,N,K = 24,120,7
PARAMS = dict(k=K, select=12, candidates=150, keep=2, sigma=.1, strength=[.35,.85], nouns=3, step=.05, extra=2.,
              fit_steps=3)

def unit(n, seed, spread=.5): # n points of one class
    g = torch.Generator().manual_seed(seed)
    return F.normalize(F.normalize(torch.randn(1,D,generator=torch.Generator().manual_seed(99)),dim=1)
                       + spread*torch.randn(n,D,generator=g)/D**.5, dim=1)

def words(z, n=4): # anchors of n classes, the first of them that of z
    return torch.cat([F.normalize(z.mean(0,keepdim=True),dim=1),
                      torch.randn(n-1,z.shape[1],generator=torch.Generator().manual_seed(8))])*3

z,nouns = unit(N,0),torch.randn(9,D,generator=torch.Generator().manual_seed(5))
def draw(rule='knn', z=z, M=20, seed=3, **changes):
    return sample(rule, z, M, torch.Generator().manual_seed(seed),
                  **(PARAMS|dict(noun_embeddings=nouns, anchors=words(z), label=0)|changes))
def brute(q, k, own=False): # an independent k-NN distance
    return brute_of(z, q, k+own)
def brute_of(bank, q, k):
    found = NearestNeighbors(n_neighbors=k, algorithm='brute').fit(bank.double().numpy())
    return found.kneighbors(q.double().numpy())[0][:,-1]

def test_distances_agree_with_scikit_learn():
    close(own_distance(z,K).numpy(), brute(z,K,own=True), 1e-6)
    q = unit(50,1,1.)
    for block in (1,N,1000,2**22): close(kth_distance(q,z,K,block).numpy(), brute(q,K), 1e-6)

def test_neighbours_by_faiss():
    q = unit(50,1,1.)
    d,i = neighbours(q, z, K)
    assert d.shape==i.shape==(50,K)
    close(d[:,-1].numpy(), brute(q,K), 1e-4); close((q[:,None]-z[i]).norm(dim=-1), d, 1e-3)
    with pytest.raises(DreamError, match='fewer than the 121'): neighbours(q, z, N+1)

def test_boundary_points_are_the_extreme_ones():
    d = own_distance(z,K)
    assert set(boundary_points(z,K,5).tolist())==set(d.topk(5).indices.tolist())
    assert set(boundary_points(z,K,5,inward=True).tolist())==set((-d).topk(5).indices.tolist())
    assert len(boundary_points(z,K,10**6))==N

def test_knn_keeps_the_farthest_candidates_of_each_boundary_point():
    s,around = draw('knn', M=24),Candidates(z, boundary_points(z,K,12), .1, 150, torch.Generator().manual_seed(3))
    for p,(b,v) in enumerate(zip(around.boundary.tolist(), (v for _,_,v in around))):
        mine = s.boundary==b
        assert mine.sum()==2
        np.testing.assert_allclose(sorted(s.distance[mine]), np.sort(brute(v,K))[-2:], atol=1e-6)
        assert all((v==x).all(1).any() for x in s.z[mine])

def test_the_farthest_is_at_the_top():
    D = torch.tensor([[3.,1.,2.,2.]])
    assert percentiles(D, (torch.zeros(4).long(),torch.arange(4))).tolist()==[1,.25,.75,.75]

def test_percentiles_of_the_rules():
    g = torch.Generator().manual_seed(0)
    around = Candidates(z, boundary_points(z,K,20), .1, 1000, g).distances(K)
    assert percentiles(around, farthest(around,5)).mean()>=.99
    assert .4<percentiles(around, misread(around,10)).mean()<.6
    assert percentiles(around, search.nearest(around,5)).mean()<=.01

def flat(n, seed, rest): # n points of one class, nearly all of them in six of 64 dimensions
    g = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(1,64,generator=g)+torch.randn(n,6,generator=g)@torch.randn(6,64,generator=g)/3
                       + rest*torch.randn(n,64,generator=g)/8, dim=1)

@pytest.mark.parametrize('shared', [False,True])
@pytest.mark.parametrize('inward', [False,True])
@pytest.mark.parametrize('points,few', [(unit(N,0),False), (flat(150,1,0.),True), (flat(150,2,.02),True),
                                        (-flat(150,3,.5),False)])
def test_extremes_are_what_sorting_all_distances_gives(points, few, inward, shared):
    for sigma,k,n,keep in ((.1,K,150,3),(1.,40,search.PIECE+100,2),(.02,1,50,60)):
        around = Candidates(points, boundary_points(points,k,5), sigma, n, torch.Generator().manual_seed(7), shared)
        assert (around.space.Q is not None)==few
        p,e,v,d = extremes(around, k, keep, inward, block=1000)
        truth = around.distances(k)
        best = truth.topk(min(keep,n), largest=not inward)
        for i in range(5):
            close(d[p==i], best.values[i], 1e-9)
            assert set(e[p==i].tolist())==set(best.indices[i].tolist())
        np.testing.assert_allclose(brute_of(points,v,k), d, atol=1e-5)

CLOUDS = dict(few=unit(9,1), one_class=z, drawn_in_parts=flat(200,2,.02), wide=flat(200,3,.5),
              each_four_times=unit(30,4).repeat(4,1), axes=torch.cat([torch.eye(24),-torch.eye(24)]),
              some_twelve_times=torch.cat([unit(40,5),unit(5,6).repeat(12,1)]))

@pytest.mark.parametrize('shared', [False,True])
@pytest.mark.parametrize('inward', [False,True])
@pytest.mark.parametrize('cloud', CLOUDS)
def test_fast_search_and_plain_lines_agree(cloud, inward, shared):
    points = CLOUDS[cloud]
    k = min(K, len(points)//3)
    close(plain_distance(points,points,k), kth_distance(points,points,k), 1e-7)
    # those that are there twelve times are at no distance from their neighbours, and any of them may be first
    if inward and cloud=='some_twelve_times': return
    # in several rounds; fewer than there are boundary points; candidates in pieces
    for M,select,n,keep in ((50,12,60,2), (5,12,7,9), (10,3,search.PIECE+50,3)):
        q,g,space = dict(k=k, select=select, keep=keep, sigma=.1),torch.Generator().manual_seed(3),Space(points)
        fast = (inliers if inward else knn)(points, M, torch.Generator().manual_seed(3), candidates=n,
                                            noise='shared' if shared else 'fresh', **q)
        plain = plain_knn(points, M, lambda b: Candidates(space,b,.1,n,g,shared).vectors(), inward=inward, **q)
        assert torch.equal(fast.boundary, plain.boundary)
        close(fast.z, plain.z, 1e-6); close(fast.distance, plain.distance, 1e-9)

def test_noise_drawn_in_parts_is_gaussian():
    space = Space(flat(150,2,.02))
    x = Noise(space, 30_000, torch.Generator().manual_seed(0)).vectors(torch.arange(30_000))
    cov = torch.cov(x.T)
    assert space.Q is not None and x.mean(0).abs().max()<.03 and (cov-torch.eye(64)).abs().max()<.05
    close((x**4).mean().item(), 3., .03)
    v = space.z[:7].double()@x[:500].T
    noise = Noise(space, 30_000, torch.Generator().manual_seed(0))
    low,high = (noise.times(torch.arange(7), b)[:500].T.double() for b in (-1,1))
    assert (low<=v+1e-5).all() and (v<=high+1e-5).all()

def test_misread_is_what_the_reference_code_computes():
    P,L,keep = 4,30,2
    d = torch.rand(P,L)
    flat = d.flatten()                        # candidates lie point after point
    top = flat.view(L,-1).topk(keep,dim=0).indices
    theirs = {c*L+r for c in range(P) for r in top[:,c].tolist()}
    p,e = misread(d,keep)
    assert set((p*L+e).tolist())==theirs

def test_inliers_are_inside_and_outliers_outside():
    d = own_distance(z,K)
    assert draw('inliers',sigma=.01).distance.mean()<d.mean()<draw('knn').distance.mean()
    assert draw('reference').distance.mean()<draw('knn').distance.mean()

def test_rounds():
    s = draw('knn', M=60)                     # 12 boundary points x 2 kept = 24 a round
    assert len(s.z)==60 and len(s.z.unique(dim=0))==60
    assert s.boundary.bincount().max()<=6
    close(s.distance.numpy(), brute(s.z,K), 1e-5)

def test_shared_and_fresh_noise():
    def noise(rule):
        s = draw(rule, M=12, select=12, keep=1, candidates=5, sigma=100.)   # so strong that only the noise is left
        return (s.z@s.z.T).fill_diagonal_(0).max().item()
    assert noise('knn')<.9<noise('reference')
    only = dict(M=12, select=12, keep=1, candidates=5, sigma=100.)
    assert (draw('knn',noise='shared',**only).z@draw('reference',**only).z.T).max()>.9   # the very same noise

def test_drift():
    s = draw('drift', M=300, strength=[.25,.25])
    # every image before any is used again
    assert s.boundary.bincount(minlength=N).max()<=3 and s.boundary.unique().numel()==N
    turned = (s.z*z[s.boundary]).sum(1).acos()
    goal = draw('drift', M=300, strength=[1,1]).z
    close(turned, .25*(goal*z[s.boundary]).sum(1).acos(), 1e-3)
    unit_nouns = F.normalize(nouns,dim=1)
    sums = torch.stack([F.normalize(unit_nouns[list(c)].mean(0),dim=0)
                        for c in torch.combinations(torch.arange(9),3).tolist()])
    close((goal@sums.T).amax(1), torch.ones(300), 1e-4)
    close(draw('drift', M=5, strength=[0,0]).z, z[draw('drift', M=5, strength=[0,0]).boundary], 1e-3)

def test_drift_to_nearby_nouns():
    near = (F.normalize(nouns,dim=1)@F.normalize(words(z)[0],dim=0)).topk(3).indices
    goal = draw('drift', M=50, strength=[1,1], nearby=3, nouns=3).z
    close(goal, F.normalize(F.normalize(nouns,dim=1)[near].mean(0),dim=0).expand(50,-1), 1e-4)

def by_autograd(x, a, label, step): # one step up the loss, by another road
    x = x.clone().requires_grad_()
    g, = torch.autograd.grad(F.cross_entropy(x[None]@a.T/.1, torch.tensor([label])), x)
    return F.normalize(x.detach()+step*F.normalize(g,dim=0), dim=0)

def test_boundary_crosses_where_it_is_nearest():
    points = unit(60,4,.9); a = F.normalize(words(points),dim=1).double()
    way = {}
    for i,x in enumerate(points.double()):
        path = [x]
        while (path[-1]@a.T).argmax()==0 and len(path)<200: path.append(by_autograd(path[-1],a,0,.05))
        way[i] = path
    s = draw('boundary', z=points, M=10, select=10, extra=0.)
    taken = sorted(len(way[i]) for i in s.boundary.tolist())
    # inside at first, and the nearest of those
    assert min(taken)>1 and taken==sorted(len(p) for p in way.values() if len(p)>1)[:10]
    for i,v in zip(s.boundary.tolist(), s.z): close(v, way[i][-1].float(), 1e-4)
    further = draw('boundary', z=points, M=40, select=10, extra=3.)
    assert ((further.nearest!=0).all() and set(further.boundary.tolist())==set(s.boundary.tolist())
            and len(further.z.unique(dim=0))==40)

def test_gaussian_keeps_the_least_likely():
    from sklearn.covariance import LedoitWolf
    fit = LedoitWolf().fit(z.double().numpy())
    far = lambda **c: fit.mahalanobis(draw('gaussian', M=200, **c).z.double().numpy()).mean()
    # all that were drawn; a tenth of ten times as many
    all_,best = far(select=20,candidates=10,keep=10),far(select=2000,candidates=10,keep=1)
    assert abs(all_/fit.mahalanobis(z.double().numpy()).mean()-1)<.25 and best>1.2*all_

def test_rules_without_the_learned_space():
    a = F.normalize(words(z),dim=1)
    close(draw('token_noise', sigma=1e-6).z, a[:1].expand(20,-1), 1e-4)
    spread = draw('token_noise', M=4000, sigma=.1).z@a[0]
    close(spread.mean(), 1/(1+.01*(D-1))**.5, .02)
    close(draw('interpolation', strength=[0,0], label=2).z, a[2].expand(20,-1), 1e-3)
    ends = draw('interpolation', strength=[1,1], label=2, M=60)
    assert set(ends.nearest.tolist())=={0,1,3}
    close(ends.z, a[ends.nearest], 1e-3)
    n = draw('names', M=18).z@F.normalize(nouns,dim=1).T
    close(n.amax(1), torch.ones(18), 1e-4); assert (n.argmax(1).bincount(minlength=9)==2).all()
    s = draw('token_noise')
    # where there is no start, the nearest embedding
    assert torch.equal(s.boundary, (s.z.double()@z.double().T).argmax(1))

@pytest.mark.parametrize('rule', RULES)
def test_the_record_names_distance_and_nearest_class(rule):
    s = draw(rule)
    close(s.distance.numpy(), brute(s.z,K), 1e-5)
    assert (torch.equal(s.nearest, (s.z@F.normalize(words(z),dim=1).T).argmax(1)) and s.boundary.min()>=0
            and s.boundary.max()<N)

def test_slerp_of_equal_and_opposite_points_is_finite():
    assert (slerp(z[:4], z[:4], torch.full((4,),.5)).isfinite().all()
            and slerp(z[:4], -z[:4], torch.full((4,),.5)).isfinite().all())

@pytest.mark.parametrize('rule', RULES)
@pytest.mark.parametrize('points', [z,flat(150,2,.02)])   # noise drawn at once, and in parts
def test_same_seed_same_samples_on_any_block_and_threads(points, rule):
    others = torch.randn(9, points.shape[1], generator=torch.Generator().manual_seed(5))
    def draw(rule, **changes):
        return globals()['draw'](rule, **(dict(z=points, anchors=words(points), noun_embeddings=others)|changes))
    first,threads = draw(rule),torch.get_num_threads()
    try:
        for n,block in ((1,2**22),(2,2**22),(2,131),(1,1)):
            torch.set_num_threads(n)
            again = draw(rule, block=block)
            assert torch.equal(again.z,first.z) and torch.equal(again.boundary,first.boundary)
            close(again.distance, first.distance, 1e-9)
    finally: torch.set_num_threads(threads)
    assert not torch.equal(draw(rule,seed=4).z, first.z)
    close(first.z.norm(dim=1), torch.ones(20), 1e-5)

def test_many_candidates_are_drawn_in_pieces():
    around = Candidates(z, torch.tensor([0,1]), .1, search.PIECE+3, torch.Generator().manual_seed(0))
    pieces = [(p,first,m) for p in (0,1) for first,m in ((0,search.PIECE),(search.PIECE,3))]
    assert sorted((p,first,len(v)) for p,first,v in around)==pieces
    d = around.distances(K)
    p,e = torch.tensor([1,0]),torch.tensor([search.PIECE+2,5])
    close(brute(around[p,e],K), d[p,e].numpy(), 1e-6)

nan = z.clone(); nan[3,0] = torch.nan
@pytest.mark.parametrize('changes, words', [
    (dict(rule='magic'), "no sampling rule 'magic'"), (dict(z=z[:K]), f'too few for neighbour k={K}'),
    (dict(z=z[:1]), 'A class has 1 embedding: k-NN'),
    (dict(z=z*2), 'unit norm'), (dict(z=z*1.0015), 'unit norm'), (dict(z=nan), '1 of 120 embeddings hold NaN'),
    (dict(sigma=0), 'sigma is 0'),
    (dict(sigma=-1.), 'sigma is -1'),
    (dict(sigmas=1), 'sigmas'), (dict(noise='loud'), "no noise 'loud'"), (dict(M=0), 'at least one'),
    (dict(rule='drift',strength=[.8,.3]), 'strength'),
    (dict(rule='drift',strength=[.8,1.1]), 'strength'), (dict(rule='drift',strength=[-.1,.3]), 'strength'),
    (dict(rule='drift',noun_embeddings=nouns[:2]), '3 nouns'), (dict(rule='drift',noun_embeddings=None), '3 nouns'),
    (dict(rule='drift',nearby=2), 'raise nearby'),
    (dict(rule='names',noun_embeddings=None), 'needs at least 1 nouns'),
    (dict(rule='interpolation',anchors=None), 'class names'), (dict(rule='token_noise',anchors=None), 'class names'),
    (dict(rule='boundary',anchors=None), 'decision boundary'),
    (dict(rule='boundary',anchors=words(z)[[1,0,2]]), 'wrong about every embedding'),
    (dict(rule='boundary',step=1e-9), 'raise step'),
    # two classes of one name: no boundary to reach
    (dict(rule='boundary',z=z[:9],M=5,anchors=words(z)[[0,0]]), 'Only 0 embeddings reach'),
    (dict(rule='gaussian',z=z[:1].repeat(N,1)), 'are the same'),
    (dict(rule='token_noise',sigma=0), 'sigma is 0'),
    (dict(rule='interpolation',strength=[.8,.3]), 'strength')])
def test_bad_input_is_one_sentence(changes, words):
    with pytest.raises(DreamError, match=words) as e: draw(**changes)
    assert '\n' not in str(e.value)

def test_a_vector_is_no_class_in_one_sentence():
    with pytest.raises(DreamError, match=r'a row an image: these have the shape \(24,\)'):
        sample('knn', z[0], 5, torch.Generator(), **{k: PARAMS[k] for k in ('k','select','candidates','keep','sigma')})

def test_two_embeddings_are_enough_for_distances():
    s = draw(z=z[:2], k=1, select=2, M=5)
    close(s.distance.numpy(), brute_of(z[:2],s.z,1), 1e-6)

def test_drift_goes_any_share_of_the_way_between_two_ends():
    t = span([.2,.6], 2000, torch.Generator().manual_seed(0))
    assert t.shape==(2000,) and .2<=t.min()<.21 and .59<t.max()<=.6 and abs(t.mean()-.4)<.01
    assert span([.5,.5], 3, torch.Generator()).tolist()==[.5]*3

def test_gaussian_of_two_different_embeddings_is_a_line():
    two = z[:2].repeat(N//2,1)
    s = draw('gaussian', z=two)
    Q = torch.linalg.qr(two[:2].T.double())[0]
    off = s.z.double()-s.z.double()@Q@Q.T
    assert s.z.isfinite().all() and off.norm(dim=1).max()<.01<(s.z-two[0]).norm(dim=1).min()

def test_missing_parameters_are_named():
    with pytest.raises(DreamError, match="'sigma'"):
        sample('knn', z, 5, torch.Generator(), k=K, select=5, candidates=10, keep=1)

def test_counting_compiled_is_counting():
    g = torch.Generator().manual_seed(0)
    s,own,t = torch.randn(40,300,generator=g),torch.rand(5,300,generator=g),torch.rand(5,40,generator=g)
    for k in (1,60,300):
        slow = torch.stack([((s*.5).add_(o)>x[:,None]).sum(1)>=k for o,x in zip(own,t)])
        assert torch.equal(search.at_least(s,own,t,k,.5), slow)
    assert search.at_least(s,own,t,150,.5).float().mean() not in (0,1)

@pytest.mark.parametrize('width', [64,256])
def test_main_directions_hold_the_embeddings(width):
    g = torch.Generator().manual_seed(0)
    for few,within in ((10,16),(60,70)):
        x = F.normalize(torch.randn(400,few,generator=g)@torch.randn(few,width,generator=g)
                        + .02*torch.randn(400,width,generator=g), dim=1)
        Q = search.main_directions(x)
        if few>width//2: assert Q is None; continue
        assert few<=Q.shape[1]<=within
        close(Q.T@Q, torch.eye(Q.shape[1]), 1e-5)
        assert (x-x@Q@Q.T).square().sum(1).mean()<.01**2

def test_equal_embeddings_tie():
    "Many neighbours at one distance: 32 bits cannot tell them apart, the distance is right all the same."
    same = unit(30,4).repeat(4,1)
    q = unit(20,5)
    for k in (1,4,5,60,120): close(kth_distance(q,same,k).numpy(), brute_of(same,q,k), 1e-6)
    s = sample('knn', same, 10, torch.Generator().manual_seed(0), k=7, select=5, candidates=40, keep=2, sigma=.1)
    close(s.distance.numpy(), brute_of(same,s.z,7), 1e-5)
