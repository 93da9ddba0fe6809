"Later methods of training: outliers that break ID images, and a last layer without a null space."
import pytest,torch
from copy import deepcopy
import torch.nn.functional as F
from conftest import tiny_profile,with_dreams
from dream_ood import training
from dream_ood.core import DreamError,load_tensors
from dream_ood.data import ImageSet
from dream_ood.networks import features,make_backbone,narrowed
from dream_ood.runs import Run
from dream_ood.settings import MADE,Contender,Fever,Finetune,ImageFormat,Training
from dream_ood.stages import classifier_of,run_training
from dream_ood.study import Profile
from dream_ood.training import *

def seeded(n=0): return torch.Generator().manual_seed(n)

def some_images(n=6, size=32): # with pixels that are all different
    x = torch.stack([torch.randperm(3*size*size, generator=seeded(i)) for i in range(n)]).view(n,3,size,size)
    return x/(1.5*size*size)-1, torch.arange(n)%4

def some_net(size=32):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = make_backbone('resnet_mini', 4, size)
    with torch.no_grad():
        net.train()(some_images(32, size)[0])     # batch statistics that are not the first ones
    return net

def weighs(net, x, y): # attribution, one image and one plain backward pass at a time
    net = net.eval(); out = []
    for i in range(len(x)):
        one = x[i:i+1].clone().requires_grad_()
        g, = torch.autograd.grad(net(one)[0,y[i]], one)
        out.append(g[0].abs().sum(0))
    return torch.stack(out)

def pixels(x): return x.flatten(2).transpose(1,2)  # (B, HW, 3)

# outliers that break ID images

@pytest.mark.parametrize('size,grid', [(32,4),(96,8),(34,4)])
def test_jigsaw_keeps_every_pixel_and_leaves_no_patch_in_its_place(size, grid):
    x,y = some_images(5, size)
    out = training.jigsaw(x, y, None, seeded())
    for a,b in zip(pixels(x),pixels(out)): assert torch.equal(a[a[:,0].argsort()], b[b[:,0].argsort()])
    h = size//grid
    patches = lambda im: [im[:,r*h:r*h+h,c*h:c*h+h] for r in range(grid) for c in range(grid)]
    for a,b in zip(x,out):
        was,now = patches(a),patches(b)
        place = [next(j for j,q in enumerate(was) if torch.equal(p,q)) for p in now]      # patches stay whole
        assert sorted(place)==[*range(grid*grid)] and all(i!=j for i,j in enumerate(place))
    assert torch.equal(out[:,:,h*grid:], x[:,:,h*grid:])                                  # what no patch covers

def test_cycles_are_all_orders_of_one_cycle():
    from collections import Counter
    seen = Counter(map(tuple, training.cycles(6000, 4, seeded()).tolist()))
    assert len(seen)==6 and min(seen.values())>850                                        # 3! cycles of four, alike
    assert training.cycles(3, 1, seeded()).tolist()==[[0]]*3

def test_ascood_moves_the_pixels_of_the_highest_attribution_alone():
    net,(x,y) = some_net(),some_images()
    out,heat = training.scrambled(x, y, net, seeded(), share=.1),weighs(net, x, y).flatten(1)
    moved = (out!=x).any(1).flatten(1)
    assert moved.sum(1).tolist()==[int(.1*32*32)]*len(x)
    for m,h in zip(moved,heat): assert h[m].min()>=h[~m].max()*(1-1e-3)
    for a,b in zip(pixels(x),pixels(out)): assert torch.equal(a[a[:,0].argsort()], b[b[:,0].argsort()])

def test_ascood_looks_at_the_class_of_the_image():
    net,(x,y) = some_net(),some_images()
    a,b = (training.scrambled(x, l, net, seeded())!=x for l in (y,(y+1)%4))
    assert not torch.equal(a,b)

def test_fodfom_blurs_half_and_leaves_the_rest_as_it_was():
    net,(x,y) = some_net(),some_images()
    out,heat = training.blurred(x, y, net, None),weighs(net, x, y)
    inside = (out!=x).any(1)
    assert inside.flatten(1).float().mean(1).tolist()==[.5]*len(x)
    assert torch.equal(out[~inside[:,None].expand_as(x)], x[~inside[:,None].expand_as(x)])
    cell = inside.unfold(1,4,4).unfold(2,4,4).flatten(3)
    assert (cell.all(3)|~cell.any(3)).all()                                               # whole cells
    warm = F.avg_pool2d(heat[:,None], 4)[:,0]
    for w,c in zip(warm,cell.any(3)): assert w[c].min()>=w[~c].max()*(1-1e-3)
    def rough(im): # differences between neighbours that are both inside
        both = inside[:,:,1:]&inside[:,:,:-1]
        return (im[...,1:]-im[...,:-1]).abs().mean(1)[both].mean()
    assert rough(out)<.2*rough(x)

def test_nothing_of_the_background_flows_into_the_blur(monkeypatch):
    inside = torch.zeros(2,1,32,32); inside[...,:16] = 1
    monkeypatch.setattr(training, 'attribution', lambda net,x,y: inside[:,0])
    x = torch.where(inside.expand(-1,3,-1,-1)>0, torch.ones(()), torch.randn(2,3,32,32,generator=seeded())*100)
    assert torch.allclose(training.blurred(x, torch.zeros(2).long(), None, None), x, atol=1e-4)

@pytest.mark.parametrize('kind', list(BROKEN))
def test_making_outliers_leaves_no_trace_in_the_network(kind):
    net,(x,y) = some_net(),some_images()
    training_mode(net, freeze=True)
    modes,before,was = [m.training for m in net.modules()],{k:v.clone() for k,v in net.state_dict().items()},x.clone()
    Broken(kind, 8, 4, 0)(x, y, net)
    with torch.no_grad(): Broken(kind, 8, 4, 0)(x, y, net)                                # nor does it need a graph
    assert all(p.grad is None for p in net.parameters()) and not x.requires_grad and torch.equal(x,was)
    assert [m.training for m in net.modules()]==modes
    assert all(torch.equal(v,before[k]) for k,v in net.state_dict().items())

@pytest.mark.parametrize('kind', list(BROKEN))
def test_as_many_as_asked_for_by_the_step_alone(kind):
    net,(x,y) = some_net(),some_images()
    made = Broken(kind, 15, 4, 3)                                                         # more than there are images
    torch.manual_seed(1); one = made(x, y, net)
    torch.manual_seed(2); two = made(x, y, net)
    assert one.shape==(15,3,32,32) and not torch.equal(one,two)
    again = Broken(kind, 15, 4, 3); again.load_state_dict(made.state_dict()); again.step -= 1
    assert torch.equal(again(x, y, net), two)

@pytest.mark.parametrize('kind', list(BROKEN))
def test_their_loss_trains_all_weights(kind):
    net,(x,y),phi = some_net(),some_images(),Phi('linear')
    loss,parts = regularised_loss(net.train(), phi, x, y, Broken(kind, 6, 4, 0), 1.)
    loss.backward()
    assert parts['l_ood']>0 and all(p.grad is not None for p in net.parameters())
    assert torch.allclose(loss.detach(), parts['ce']+parts['l_ood'])

def tiny_set(n=48, size=16): # four classes of pictures: a bright quarter each
    y = torch.arange(n)%4
    x = torch.randint(0, 120, (n,3,size,size), generator=seeded())
    h = size//2
    for i,c in enumerate(y.tolist()): x[i,:,c//2*h:c//2*h+h,c%2*h:c%2*h+h] += 120
    return ImageSet('tiny', x.byte(), y, list('abcd'))

def tiny_training(**finetune):
    return Training(backbone='resnet_mini', epochs=1, batch_size=16, lr=.05, weight_decay=5e-4, beta=.1,
                    finetune=Finetune(**dict(steps=7, lr=.02, batch_size=16, outlier_batch_size=8)|finetune))

FMT = ImageFormat(image_size=16)

def start(): return fresh_classifier('resnet_mini', 4, 16, 0, device='cpu')

def whole_and_cut(contender, tmp_path, monkeypatch, **finetune):
    "The same training twice: in one go, and by two processes, the first of which loses its power."
    t,train,real = tiny_training(**finetune),tiny_set(),training.train_leg
    whole,_,_ = train_contender(t, contender, start(), train, FMT, checkpoint=tmp_path/'whole.pt')
    legs = []
    def power_cut(*args):
        legs.append(1)
        if len(legs)==2: raise KeyboardInterrupt
        return real(*args)
    monkeypatch.setattr(training, 'train_leg', power_cut)
    again = lambda: train_contender(t, contender, start(), train, FMT, checkpoint=tmp_path/'cut.pt')
    with pytest.raises(KeyboardInterrupt): again()
    cut,_,history = again()
    assert len(history)==t.finetune.steps and len(legs)==4                    # three legs, the second twice
    return whole,cut

def same(a, b): return all(torch.allclose(v.float(), b.state_dict()[k].float(), atol=1e-5)
                           for k,v in a.state_dict().items())

@pytest.mark.parametrize('contender', [dict(outliers='ascood'),
                                       dict(outliers='fodfom',fever=dict(width=6,singular=.01))])
def test_a_training_goes_on_where_it_was(tmp_path, monkeypatch, contender):
    assert same(*whole_and_cut(Contender(start='plain',**contender), tmp_path, monkeypatch))

def test_all_that_is_made_is_known():
    assert set(MADE)=={*MIXED,*BROKEN,*VIRTUAL} and not set(MIXED)&set(BROKEN)

# a last layer without a null space

def test_narrowing_keeps_the_logits_that_can_be_kept():
    net,(x,y) = some_net().eval(),some_images(40)
    with torch.no_grad():
        f,before = features(net, x),net(x)
        W,b = net.get_classifier().weight.clone(),net.get_classifier().bias.clone()
        for width in (2,3,4,5,20):
            few = narrowed(deepcopy(net), width, f).eval()
            U,S,Vh = torch.linalg.svd(W, full_matrices=False)
            k = min(width,4)
            best = f@((U[:,:k]*S[:k])@Vh[:k]).T+b                             # Eckart and Young
            assert torch.allclose(few(x), best, atol=1e-4)
            assert torch.allclose(few.get_classifier()(features(few,x)), few(x), atol=1e-5)
            assert width<4 or torch.allclose(few(x), before, atol=1e-4)
            assert torch.allclose(few.narrow.weight@few.narrow.weight.T, torch.eye(width), atol=1e-5)

@pytest.mark.parametrize('width', [2,4,9])
def test_the_null_space_has_the_dimension_that_is_said(width):
    few = narrowed(some_net(), width)
    W = few.get_classifier().weight.detach()
    assert W.shape==(4,width) and width-int(torch.linalg.matrix_rank(W))==max(width-4,0)

def test_a_width_that_cannot_be_is_one_sentence():
    for width in (128,500):
        with pytest.raises(DreamError, match=f'{width}.*has 128'): narrowed(some_net(), width)
        with pytest.raises(DreamError, match='fever.width'): fresh_classifier('resnet_mini', 4, 16, width=width)
    with pytest.raises(ValueError, match='width'): Fever(width=1)
    with pytest.raises(ValueError, match='singular'): Fever(singular=-1)

def test_least_singular_value_and_its_gradient():
    net = some_net()
    with torch.no_grad():
        U,V = (torch.linalg.qr(torch.randn(n,4,generator=seeded()))[0] for n in (4,128))
        net.get_classifier().weight.copy_(U@torch.diag(torch.tensor([5.,3.,2.,.5]))@V.T)
    σ = training.least_singular(net)
    σ.backward()
    assert torch.allclose(σ.detach(), torch.tensor(.5), atol=1e-5)
    assert torch.allclose(net.get_classifier().weight.grad, (U[:,3:]@V[:,3:].T), atol=1e-4)

def test_the_term_is_added_once_and_only_if_asked_for():
    net,(x,y) = some_net().eval(),some_images()
    plain,a = regularised_loss(net, None, x, y, None)
    more,b = regularised_loss(net, None, x, y, None, λ=.3)
    assert torch.allclose(more-plain, .3/training.least_singular(net), atol=1e-4)
    assert 'singular' not in a and torch.allclose(b['singular'], training.least_singular(net))

@pytest.mark.parametrize('outliers,width', [(None,None),('jigsaw',6)])
def test_the_least_singular_value_grows_by_the_term(outliers, width):
    def after(λ):
        c = Contender(start='plain', outliers=outliers, fever=Fever(width=width,singular=λ))
        net,_,history = train_contender(tiny_training(steps=12), c, start(), tiny_set(), FMT)
        assert net.get_classifier().weight.shape==(4,width or 128) and ('singular' in history)==(λ>0)
        return training.least_singular(net).item(),history
    (without,_),(with_it,h) = after(0.),after(.1)
    assert with_it>1.1*without and h.singular.iloc[-1]>h.singular.iloc[0]

def test_no_fever_is_none_of_the_keys():
    assert 'fever' not in Contender(start='plain').model_dump()
    assert Contender(fever=dict(width=8)).fever==Fever(width=8,singular=0.)

def test_a_study_reloads_a_narrowed_classifier(foundation, tmp_path):
    p = tiny_profile(foundation); t = p.training.model_dump()
    t['contenders'] = dict(plain={}, few=dict(start='plain',outliers='vos',fever=dict(width=12,singular=.1)),
                           fewer=dict(start='few',outliers='jigsaw',fever=dict(width=12)),
                           scratch=dict(fever=dict(width=12)))
    t |= dict(epochs=1); t['finetune'] |= dict(steps=2, vae_fraction=0)
    p = p.model_copy(update=dict(training=Training(**t)))
    run = with_dreams(Run.open(p, 0, tmp_path))
    run_training(run)
    nets = {n:classifier_of(run, n) for n in t['contenders']}
    assert [n.get_classifier().in_features for n in nets.values()]==[128,12,12,12]
    kept = load_tensors(run.stage('training')/'few.safetensors')
    assert all(torch.equal(v.cpu(),kept[f'net.{k}']) for k,v in nets['few'].state_dict().items())
    x,_ = some_images()
    with torch.no_grad(): assert features(nets['few'],x).shape==(6,12) and (features(nets['few'],x)>=0).all()
    wrong = p.model_copy(update=dict(training=Training(**t|dict(contenders=dict(few=dict(fever=dict(width=300)))))))
    with pytest.raises(DreamError, match='300'): run_training(with_dreams(Run.open(wrong, 1, tmp_path)))
    assert not (Run.open(wrong, 1, tmp_path).stage('training')/'few.csv').exists()

@pytest.mark.parametrize('fever', [None,dict(singular=1),dict(width=9)])
def test_a_narrowed_start_stays_as_narrow(foundation, fever):
    d = tiny_profile(foundation).model_dump()
    cs = dict(plain=dict(fever=dict(width=8)), more=dict(start='plain',**({'fever':fever} if fever else {})))
    d['training'] |= dict(contenders=cs); d['evaluation'] |= dict(methods={})
    with pytest.raises(ValueError, match='fever.width .* give both the same'): Profile(**d)
