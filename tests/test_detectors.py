"""Every detector against its paper's formula, written out in NumPy and SciPy, and on outliers that nobody could miss.

The formulas are in double precision. A score of ours is that of the paper, but for
  gen                the mean of the terms of the M largest probabilities, not their sum, and none below 1e-7;
  vim                with fewer images than features, half as many axes as images;
  mahalanobis, rmd   with shrunk covariances where images are few; and by a covariance times N, as pytorch-ood leaves
                     it, so that the paper's distances are N times as large; `mahalanobis` is half of its distance."""
import numpy as np,pytest,torch
from pytorch_ood import detector as pod
from scipy import special,stats
from scipy.spatial.distance import cdist
from sklearn import covariance
from sklearn.metrics import roc_auc_score
from torch import nn
from dream_ood import detectors
from dream_ood.core import *
from dream_ood.data import ImageSet
from dream_ood.detectors import *
from dream_ood.settings import ImageFormat

C,D,T = 4,24,2.
# training images: more than ten per feature, fewer, and fewer than features
MANY,FEW,FEWER = 400,48,16

# data: each class excites features of its own, in directions of very different spread

def spread(g): return g.normal(size=(D,D))*np.geomspace(1, .05, D)

def drawn(g, n, mu, A): # n images: features (n,D) not negative, labels
    y = np.arange(n)%C
    return np.abs(mu[y]+g.normal(size=(n,D))@A.T/8),y

def outs(head, f, y):
    f = torch.tensor(f, dtype=torch.float32)
    return Outputs((f@head.weight.T+head.bias).detach(), f, torch.tensor(y))

def plain(o): return o.logits.double().numpy(),o.features.double().numpy(),o.labels.numpy()

def case(seed, n=MANY):
    "The last layer; what it says of training images, of validation images and of others, half of them ID."
    g = np.random.default_rng(seed); mu,A = g.gamma(1., 1., (C,D)),spread(g)
    head = nn.Linear(D, C)
    with torch.no_grad():
        head.weight.copy_(torch.tensor(mu-mu.mean(0)+.1*g.normal(size=(C,D))))
        head.bias.copy_(torch.tensor(g.normal(size=C)))
    train,val,x,ood = drawn(g,n,mu,A),drawn(g,80,mu,A),drawn(g,60,mu,A),drawn(g,60,g.gamma(1.,1.,(C,D)),A)
    return head.requires_grad_(False),*(outs(head,*s) for s in (train,val,(np.r_[x[0],ood[0]],np.r_[x[1],-1+0*ood[1]])))

# the papers' formulas

def logit(f, head, W=None): return f@(head.weight.double().numpy() if W is None else W).T+head.bias.double().numpy()

def energies(l, t=T): return t*special.logsumexp(l/t, axis=1)

def softmax(l): return special.softmax(l, axis=1)

def gen(l, gamma=.1, M=None):
    p = np.sort(softmax(l))[:,::-1][:,:M].clip(1e-7,1-1e-7)
    return -(p*(1-p))**gamma@np.ones(p.shape[1])/p.shape[1]

def kl_matching(l, val):
    p,q = softmax(l),softmax(val)
    d = [q[q.argmax(1)==c].mean(0) for c in set(q.argmax(1))]
    return -np.min([stats.entropy(p, dc, axis=1) for dc in np.broadcast_to(d,(len(p),len(d),C)).swapaxes(0,1)], axis=0)

def unit(f): return f/np.linalg.norm(f, axis=1, keepdims=True)

def knn(f, train, k): return -np.sort(cdist(unit(f),unit(train)))[:,k-1]

def nnguide(f, head, train, k=10):
    similar = (unit(f)@unit(train).T)*energies(logit(train,head),1)
    return np.sort(similar)[:,-k:].mean(1)*energies(logit(f,head),1)

def centred(f, y): # about the mean of the own class
    mu = np.stack([f[y==c].mean(0) for c in range(y.max()+1)])
    return f-mu[y],mu

def ledoit_wolf_2004(x): # of centred x: equations (14) and Lemmas 3.2 to 3.4, an image at a time
    n,p = x.shape
    S = x.T@x/n; m = np.trace(S)/p
    d2 = ((S-m*np.eye(p))**2).sum()/p
    b2 = min(sum(((np.outer(v,v)-S)**2).sum()/p for v in x)/n**2, d2)
    return b2/d2*m*np.eye(p)+(1-b2/d2)*S

def estimate(x): return ledoit_wolf_2004(x) if len(x)<10*x.shape[1] else x.T@x/len(x)

def squared(f, mu, S): return cdist(f, mu, 'mahalanobis', VI=np.linalg.inv(S))**2

def mahalanobis(f, train, y):
    x,mu = centred(train, y)
    return -squared(f, mu, estimate(x)).min(1)/2/len(x)

def rmd(f, train, y):
    x,mu = centred(train, y); m = train.mean(0, keepdims=True)
    return -(squared(f,mu,estimate(x))-squared(f,m,estimate(train-m))).min(1)/len(x)

def vim(f, head, train):
    "The origin is where all logits vanish, as nearly as it can; the principal space comes from singular vectors."
    o = np.linalg.lstsq(head.weight.double().numpy(), -head.bias.double().numpy(), rcond=None)[0]
    rest = np.linalg.svd(train-o)[2][min(len(train),D)//2:].T
    alpha = logit(train,head).max(1).sum()/np.linalg.norm((train-o)@rest, axis=1).sum()
    return energies(logit(f,head),1)-alpha*np.linalg.norm((f-o)@rest, axis=1)

def dice(f, head, train, p=.9):
    W = head.weight.double().numpy(); V = W*train.mean(0)
    return energies(logit(f, head, np.where(V>np.percentile(V,100*p),W,0)))

def react(f, head, train, p=.9): return energies(logit(np.minimum(f,np.percentile(train,100*p)), head))

def largest(f, p): return np.sort(f)[:,::-1][:,:D-round(p*D)]   # what pruning leaves

def shaped(f, p=.65): return f*np.exp(f.sum(1)/largest(f,p).sum(1))[:,None]

def ash(f, head, p=.65): return energies(logit(np.where(f>=largest(f,p)[:,-1:],shaped(f,p),0), head))

def scale(f, head, p=.65): return energies(logit(shaped(f,p), head))

def ranked(s, val): return np.array([stats.percentileofscore(val, v, 'weak') for v in s])/100

def formula(name, head, train, val, x, k=5):
    "Scores of x by the paper's formula."
    (l,f,_),(_,t,y),(lv,fv,_) = map(plain, (x,train,val))
    if name=='combined': return np.minimum(*(ranked(formula(n,head,train,val,x,k),formula(n,head,train,val,val,k))
                                             for n in ('energy','knn')))
    if name=='fisher':
        p = [(1+ranked(formula(n,head,train,val,x),s:=formula(n,head,train,val,val))*len(s))/(1+len(s))
             for n in ('energy','mahalanobis')]
        return np.array([-stats.combine_pvalues(q, method='fisher').statistic/2 for q in zip(*p)])
    return dict(msp=lambda: softmax(l).max(1), maxlogit=lambda: l.max(1), gen=lambda: gen(l),
                energy=lambda: energies(l), kl_matching=lambda: kl_matching(l,lv), knn=lambda: knn(f,t,k),
                nnguide=lambda: nnguide(f,head,t), mahalanobis=lambda: mahalanobis(f,t,y), rmd=lambda: rmd(f,t,y),
                vim=lambda: vim(f,head,t), dice=lambda: dice(f,head,t), react=lambda: react(f,head,t),
                ash=lambda: ash(f,head), scale=lambda: scale(f,head))[name]()

ALL = [*DETECTORS,'combined','fisher']

def ours(name, head, train, val, x, **kw): return fit_detector(name,head,train,val,T=T,neighbour=5,**kw)(x).numpy()

@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('n', [MANY,FEW,FEWER])
@pytest.mark.parametrize('name', ALL)
def test_scores_are_those_of_the_papers_formula(name, n, seed):
    made = case(seed, n)
    got,want = ours(name,*made),formula(name,*made)
    assert got.shape==want.shape and np.ptp(want)>0
    assert np.allclose(got, want, rtol=2e-4, atol=2e-4*np.abs(want).mean())

@pytest.mark.parametrize('name,settings,want', [
    ('gen', dict(gamma=.5,M=2), lambda l,f,t,head: gen(l,.5,2)), ('knn', dict(k=17), lambda l,f,t,head: knn(f,t,17)),
    ('nnguide', dict(k=3), lambda l,f,t,head: nnguide(f,head,t,3)),
    ('dice', dict(p=.3), lambda l,f,t,head: dice(f,head,t,.3)),
    ('react', dict(percentile=.6), lambda l,f,t,head: react(f,head,t,.6)),
    ('ash', dict(percentile=.9), lambda l,f,t,head: ash(f,head,.9)),
    ('scale', dict(percentile=.4), lambda l,f,t,head: scale(f,head,.4))])
def test_settings_are_those_of_the_formula(name, settings, want):
    head,train,val,x = case(0)
    (l,f,_),(_,t,_) = plain(x),plain(train)
    got = ours(name,head,train,val,x,**settings)
    assert np.allclose(got, want(l,f,t,head), rtol=2e-4)
    assert not np.allclose(got, ours(name,head,train,val,x), rtol=1e-3)

# ODIN, by the chain rule

class Two(nn.Module):
    "Two layers on pixels."
    def __init__(self, n, seed):
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.U = nn.Parameter(torch.randn(9,n,generator=g)*3/n**.5)
        self.V = nn.Parameter(torch.randn(C,9,generator=g)*2)
    def forward(self, x): return torch.tanh(x.flatten(1)@self.U.T)@self.V.T

@pytest.mark.parametrize('eps,temperature', [(.01,1.), (.01,1000.), (.1,10.)])
def test_odin_is_the_papers_formula(eps, temperature):
    fmt = ImageFormat(image_size=6, mean=[.4,.5,.6], std=[.1,.3,.9])
    images = torch.randint(0, 256, (20,3,6,6), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    net = Two(108, 0); U,V = net.U.double().detach().numpy(),net.V.double().detach().numpy()
    mean,std = (np.reshape(v,(1,3,1,1)) for v in (fmt.mean,fmt.std))
    x = (images.numpy()/255-mean)/std
    def says(x): h = np.tanh(x.reshape(20,-1)@U.T); return h,softmax(h@V.T/temperature)
    h,S = says(x)
    # the gradient of log S of the predicted class: (e - S)/T through both layers
    up = ((np.eye(C)[S.argmax(1)]-S)/temperature@V*(1-h**2)@U).reshape(x.shape)
    def score(step): return says(x+step*np.sign(up)/std)[1].max(1)   # eps is for pixels in [0,1]
    got = odin(net, ImageSet('noise',images), fmt, eps=eps, temperature=temperature, batch_size=7).numpy()
    assert np.allclose(got, score(eps), rtol=2e-6)
    assert (got>score(0)).mean()>.9 and not np.allclose(score(eps), score(0), rtol=2e-5)

# outliers that nobody could miss

def easy(n, seed=0):
    """Classes that excite three features each, and loudly; outliers that excite others instead: far from every class,
    and the last layer hears nothing."""
    g = np.random.default_rng(seed); W = np.c_[np.repeat(np.eye(C),3,axis=1),np.zeros((C,20))]
    head = nn.Linear(32, C).requires_grad_(False)
    head.weight.copy_(torch.tensor(W)); head.bias.zero_()
    noise = lambda m: np.abs(g.normal(size=(m,32))*np.geomspace(.5,.1,32))
    def id_(m): return noise(m)+4*W[np.arange(m)%C],np.arange(m)%C
    far = noise(100); far[:,24:] += 4
    return head,outs(head,*id_(n)),outs(head,*id_(80)),outs(head,*id_(100)),outs(head,far,-np.ones(100,int))

def auroc(a, b): return roc_auc_score(np.r_[np.ones(len(a)),np.zeros(len(b))], np.r_[a,b])

@pytest.mark.parametrize('n', [12,40,400])
@pytest.mark.parametrize('name', ALL)
def test_far_outliers_are_told_from_id_images(name, n):
    head,train,val,x,far = easy(n)
    s = fit_detector(name, head, train, val, neighbour=5)
    assert auroc(s(x),s(far))>.9

def test_odin_tells_far_outliers_from_id_images():
    g = torch.Generator().manual_seed(0)
    net = Two(108, 0); net.U.data = torch.randn(9,108,generator=g)/108**.5
    like = torch.linalg.pinv(net.U.data)@torch.linalg.pinv(net.V.data)@(6*torch.eye(C))   # an image a class, roughly
    def images(x): return ImageSet('x', (127.5*(1+x.clamp(-1,1))).byte().reshape(-1,3,6,6))
    def noise(n): return .05*torch.randn(n,108,generator=g)
    x = images((like/like.abs().max()).T.repeat(25,1)+noise(100)); fmt = ImageFormat(image_size=6)
    assert auroc(odin(net,x,fmt),odin(net,images(noise(100)),fmt))>.9

# few images

def test_what_shrinks_is_ledoit_and_wolfs_estimate():
    for n,d in ((5,30), (50,30), (299,30), (2,1)):
        g = np.random.default_rng(n); x = g.normal(size=(n,d))*np.geomspace(1,.01,d); x -= x.mean(0)
        got = detectors.ledoit_wolf(torch.tensor(x)).numpy()
        assert np.allclose(got, covariance.ledoit_wolf(x,assume_centered=True)[0], rtol=1e-9) or d==1
        assert np.allclose(got, ledoit_wolf_2004(x), rtol=1e-9) if d>1 else np.allclose(got, x.T@x/n)
    assert detectors.ledoit_wolf(torch.zeros(3,4).double()).equal(torch.zeros(4,4).double())

@pytest.mark.parametrize('name', ['mahalanobis','rmd','vim'])
def test_with_ten_images_a_feature_nothing_is_shrunk(name, monkeypatch):
    head,train,val,x = case(0, 10*D)
    usual = dict(mahalanobis=lambda: pod.Mahalanobis(None), rmd=lambda: pod.RMD(None),
                 vim=lambda: pod.ViM(None,d=D//2,w=head.weight,b=head.bias))[name]()
    want = -usual.fit_features(train.features,train.labels).predict_features(x.features).double().numpy()
    assert np.array_equal(ours(name,head,train,val,x,batch_size=len(x.labels)), want)
    less = Outputs(*(t[:-1] for t in train))
    if name!='vim':   # whose principal space shrinking does not turn
        a = ours(name,head,less,val,x); monkeypatch.setattr(detectors, 'FEW', 0)
        assert not np.allclose(a, ours(name,head,less,val,x), rtol=1e-2)

@pytest.mark.parametrize('name,seed', [(n,s) for n in ('mahalanobis','rmd') for s in range(3)])
def test_shrinking_helps_where_images_are_fewer_than_features(name, seed, monkeypatch):
    "Classes and outliers alike are Gaussian about means of their own."
    g = np.random.default_rng(seed); d = 200; s = np.geomspace(1,.05,d); mu = .5*s*g.normal(size=(2*C,d))
    Q = np.linalg.qr(g.normal(size=(d,d)))[0]
    def some(n, first): y = first+np.arange(n)%C; return outs(head, (mu[y]+s*g.normal(size=(n,d)))@Q, y-first)
    head = nn.Linear(d, C).requires_grad_(False)
    train,x,far = some(100,0),some(200,0),some(200,C)
    def auc(): f = fit_detector(name,head,train); return auroc(f(x),f(far))
    with_ = auc(); monkeypatch.setattr(detectors, 'FEW', 0)
    assert with_>.75 and with_>auc()+.1

@pytest.mark.parametrize('name', ALL)
@pytest.mark.parametrize('n', [C,C+1,2*C])
def test_a_class_may_have_a_single_image(name, n):
    "All detectors give numbers; neighbours are asked for as many as there are."
    head,_,_,x = case(0); train,val = case(1,n)[1],case(2,n)[1]
    s = fit_detector(name, head, train, val, T=T, neighbour=2, **({'k':2} if name=='nnguide' else {}))(x)
    assert s.shape==(120,) and s.isfinite().all() and len(s.unique())>1

@pytest.mark.parametrize('name', ALL)
def test_images_all_alike_and_features_that_are_always_zero_give_numbers(name):
    head,train,val,x = case(0, FEW)
    f = train.features.clone(); f[:,5] = 0; f[1:] = f[[0]]
    s = fit_detector(name, head, train._replace(features=f), val, T=T, neighbour=2)(x)
    assert s.isfinite().all()

@pytest.mark.parametrize('name,settings', [('knn',{}), ('combined',{}), ('knn',dict(k=13)), ('combined',dict(k=13)),
                                           ('nnguide',dict(k=13)), ('fisher',dict(second='knn'))])
def test_more_neighbours_than_images_is_one_sentence(name, settings):
    head,train,val,_ = case(0, 12)
    with pytest.raises(DreamError) as e: fit_detector(name, head, train, val, **settings)   # 50, if not said
    told = str(e.value)
    assert f'cannot be fitted to 12 images (' in told and str(settings.get('k',50)) in told and '\n' not in told
    fit_detector('knn', head, train, val, k=12)

def test_a_missing_class_is_one_sentence():
    head,train,*_ = case(0, FEW)
    for n in ('mahalanobis','rmd'):
        for y in (train.labels*2, train.labels-1, train.labels+1):
            with pytest.raises(DreamError, match='to 48 images .a class has none'):
                fit_detector(n, head, train._replace(labels=y))
        with pytest.raises(DreamError, match='to 0 images .a class has none'):
            fit_detector(n, head, Outputs(*(t[:0] for t in train)))
