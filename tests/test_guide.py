"""Guided drawing: pictures leave the classes as the encoder sees them, each by itself, and nothing else changes."""
import pytest,torch,yaml
import pandas as pd
import torch.nn.functional as F
from functools import partial
from pathlib import Path
from PIL import Image
import numpy as np
from dream_ood.core import DreamError,save_json,save_tensors
from dream_ood.data import ImageSet
from dream_ood.decoding import as_seen,decode,numbered,outside,plan_named
from dream_ood.foundation import (FAMILIES,SOLVERS,anchors,clean_latents,draw,guided,load_foundation,output_for,
                                  signal_noise,tiny_pipeline,use_solver)
from dream_ood.latent_space import embed,make_encoder
from dream_ood.settings import DecodedPool,Decoding,Guide,ImageFormat
from dream_ood.study import Profile
from dream_ood.runs import Run
from dream_ood.stages import card,check_guide,outlier_pools,run_decoding

MINI = Path(__file__).parent.parent/'profiles'/'mini.yaml'
NOUNS = ['tshirt','boot','coat']
FMT = ImageFormat(image_size=32, greyscale=True)
τ = .1

@pytest.fixture(scope='module')
def pipe(): return load_foundation('bundled', 'cpu')

@pytest.fixture(scope='module')
def made(pipe): # a tiny encoder, anchors, a bank of embeddings
    enc = make_encoder('resnet_mini', 128, 32, device='cpu').eval()
    bank = F.normalize(torch.randn(40,128,generator=torch.Generator().manual_seed(0)), dim=1)
    return enc,anchors(pipe,NOUNS),bank

def steering(made, **how):
    how = Guide(**dict(by='energy', weight=5., k=5)|how)
    return partial(guided, score=outside(how, *made, FMT, τ), how=how)

def drawing(pipe, guide=None, nouns=NOUNS, seeds=(1,2,3), steps=3, guidance=3.):
    return draw(pipe, nouns, list(seeds), steps=steps, guidance=guidance, guide=guide)

def judged(made, x, by): # plainly: from bytes, by the library's own reading of them
    enc,Γ,bank = made
    grey = torch.stack([torch.from_numpy(np.array(Image.fromarray(i.permute(1,2,0).numpy()).convert('L')))
                        for i in x])
    z,_ = embed(enc, ImageSet('x', grey[:,None].expand(-1,3,-1,-1).contiguous(), [0]*len(x), NOUNS), FMT)
    if by=='energy': return -((z@F.normalize(Γ,dim=1).T)/τ).exp().sum(1).log()
    return torch.cdist(z,bank).sort(1).values[:,4]/τ

@pytest.mark.parametrize('solver,by', [('dpm','energy'),('dpm','knn'),('unipc','energy'),('ddim','knn'),
                                       ('euler','energy'),('pndm','knn')])
def test_guided_pictures_lie_further_outside(pipe, made, by, solver):
    use_solver(pipe, solver)
    plain,far = drawing(pipe, steps=4),drawing(pipe, steering(made, by=by, weight=30.), steps=4)
    assert judged(made,far,by).mean() > judged(made,plain,by).mean()
    use_solver(pipe)

def test_the_judge_sees_the_picture_that_the_file_will_hold(pipe, made):
    x = drawing(pipe)
    for by in ('energy','knn'):
        f = outside(Guide(by=by,weight=1.,k=5), *made, FMT, τ)(x/255)
        assert torch.allclose(f, judged(made,x,by), atol=.05)
    both = outside(Guide(by='both',weight=1.,k=5), *made, FMT, τ)(x/255)
    assert torch.allclose(both, judged(made,x,'energy')+judged(made,x,'knn'), atol=.1)
    small = as_seen(torch.rand(2,3,64,64,generator=torch.Generator().manual_seed(0)), ImageFormat(image_size=32))
    assert small.shape==(2,3,32,32)

@pytest.mark.parametrize('size', [16,24,64])
def test_what_is_drawn_larger_is_resized_as_the_files_are(size):
    from dream_ood.foundation import _resize
    x = torch.rand(2,3,40,40,generator=torch.Generator().manual_seed(0))
    assert torch.allclose(as_seen(x, ImageFormat(image_size=size))/2+.5, _resize(x,size), atol=1e-5)

def test_weight_zero_is_no_guide(pipe, made):
    assert drawing(pipe, steering(made, weight=0.)).equal(drawing(pipe))

def test_an_image_depends_on_itself_alone(pipe, made):
    guide = steering(made, weight=20.)
    together = drawing(pipe, guide, steps=2).int()
    assert together.equal(drawing(pipe, guide, steps=2).int())
    alone = torch.cat([drawing(pipe, guide, [n], [s], steps=2).int() for n,s in zip(NOUNS,(1,2,3))])
    assert (together-alone).abs().max()<=3 and (together-drawing(pipe,steps=2).int()).abs().max()>20

def test_the_pipeline_is_left_as_it_was(pipe, made):
    before = drawing(pipe)
    def fails(x): raise RuntimeError('no')
    with pytest.raises(RuntimeError): drawing(pipe, partial(guided, score=fails, how=Guide(by='energy',weight=1.)))
    assert 'forward' not in vars(pipe.unet) and 'step' not in vars(pipe.scheduler)
    assert torch.is_grad_enabled() and drawing(pipe).equal(before)

def test_it_is_guided_in_its_share_of_the_steps_alone(pipe, made):
    calls = []
    def score(x):
        calls.append(len(x))
        return x.mean((1,2,3))
    for between,n in (([0.,1.],3), ([.5,1.],1), ([0.,.5],2), ([.3,.6],1)):
        calls.clear()
        drawing(pipe, partial(guided, score=score, how=Guide(by='energy',weight=1.,between=between)))
        assert calls==[3]*n, between

@pytest.mark.parametrize('family', FAMILIES)
def test_every_family_can_be_guided(family):
    pipe = tiny_pipeline(family=family)
    def score(x): return -x.mean((1,2,3))
    dark = partial(guided, score=score, how=Guide(by='energy',weight=200.,mu=20.))
    for guidance in (1.,3.):
        plain,far = (draw(pipe, ['cat','dog'], steps=2, guidance=guidance, guide=g).float().mean() for g in (None,dark))
        assert far<plain

@pytest.mark.parametrize('kind', ['epsilon','v_prediction','sample'])
def test_a_moved_output_predicts_what_it_was_moved_by(kind):
    g = torch.Generator().manual_seed(0)
    x,out,Δ = torch.randn(3,2,4,8,8,generator=g,dtype=torch.float64)
    α,σ = signal_noise(tiny_pipeline().scheduler, 300)
    assert abs(α**2+σ**2-1)<1e-9
    assert torch.allclose(clean_latents(kind,x,output_for(kind,out,Δ,α,σ),α,σ)-clean_latents(kind,x,out,α,σ), Δ)

def test_noise_levels_are_those_of_the_solvers(pipe):
    for s in ('euler','dpm'):
        solver = use_solver(pipe,s).scheduler; solver.set_timesteps(7)
        for t,ratio in list(zip(solver.timesteps,solver.sigmas))[1:]:
            α,σ = signal_noise(solver,t)
            assert abs(σ/α/float(ratio)-1)<1e-3
    use_solver(pipe)

def test_gradients_agree_with_small_differences(made):
    enc = made[0].double()
    try:
        x = torch.rand(1,3,40,40,generator=torch.Generator().manual_seed(0),dtype=torch.float64)*.8+.1
        for by in ('energy','knn'):
            f = outside(Guide(by=by,weight=1.,k=5), enc, *made[1:], FMT, τ)
            x.requires_grad_(); grad, = torch.autograd.grad(f(x).sum(), x); x = x.detach()
            v = grad/grad.norm()
            slope = (f(x+.01*v)-f(x-.01*v))/.02
            assert abs(slope.item()/grad.norm().item()-1)<.1
    finally: enc.float()

def test_a_killed_pool_ends_as_one_that_was_not(pipe, made, tmp_path):
    df,what = plan_named(NOUNS+NOUNS[:2], NOUNS+NOUNS[:2], NOUNS+NOUNS[:2])
    df,how = numbered(df, 'good', 0),Decoding(steps=2, guidance=1., batch_size=4)
    def go(folder, guide): return decode(pipe, df, what, folder, how, FMT, guide=guide)
    guide = steering(made, weight=20.)
    assert go(tmp_path, guide)==5
    before = {f:(tmp_path/f).read_bytes() for f in df.file}
    (tmp_path/df.file[1]).unlink(); (tmp_path/df.file[4]).write_bytes(b'')
    assert go(tmp_path, guide)==2
    assert before=={f:(tmp_path/f).read_bytes() for f in df.file}
    go(tmp_path/'plain', None)
    assert any(b!=(tmp_path/'plain'/f).read_bytes() for f,b in before.items())

@pytest.fixture
def run(foundation, tmp_path):
    d = yaml.safe_load(MINI.read_text())
    d['data'] |= dict(classes=NOUNS, wide=None, validation_outliers=None)
    d['foundation']['model'],d['latent_space']['backbone'] = str(foundation),'resnet_mini'
    d['sampling']['pools'] = dict(inliers=dict(rule='inliers',per_class=2))
    d['decoding'] = dict(steps=2, guidance=3., batch_size=4, pools=dict(inliers=dict(source='sampling'),
        good=dict(source='class_names',per_class=2,guide=dict(by='both',weight=5.,k=3)),
        plain=dict(source='class_names',per_class=2)))
    d['training']['contenders'] = dict(cross_entropy={})
    d['evaluation']['methods'] = dict(MSP=dict(contender='cross_entropy',detector='msp'))
    run = Run.open(Profile(**d), 0, tmp_path)
    Γ,g = anchors(tiny_pipeline(),NOUNS),torch.Generator().manual_seed(0)
    for n in ('data','foundation','latent_space','sampling'):
        s = run.stage(n).begin()
        if n=='foundation':
            save_tensors(s/'anchors.safetensors', anchors=Γ)
            save_json(s/'nouns.json', ['cat'])
        elif n=='latent_space':
            save_tensors(s/'encoder.safetensors', **make_encoder('resnet_mini',32,32,device='cpu').state_dict())
            save_tensors(s/'embeddings.safetensors', z=F.normalize(torch.randn(9,32,generator=g),dim=1),
                         y=torch.arange(9)%3)
        elif n=='sampling': save_tensors(s/'inliers.safetensors', z=torch.randn(3,2,32,generator=g)*.02)
        else: save_json(s/'made_up.json', 1)
        s.finish()
    return run

def test_a_study_draws_a_guided_pool_and_says_so(run):
    run_decoding(run)
    pools,said = run.profile.decoding.pools,(run.stage('decoding')/'good'/'README.md').read_text()
    assert 'steered out of the classes' in said and '`by` both' in said and '**not** its label' in said
    assert 'steered' not in (run.stage('decoding')/'plain'/'README.md').read_text()
    assert outlier_pools(run)==['good'] and [n for n,q in pools.items() if q.plain]==['plain']
    assert 'steered out of the classes by both' in (run.stage('decoding')/'gallery.html').read_text()

def test_a_plan_counts_the_steps_that_are_steered(run):
    from dream_ood.planning import drawing as work,drawn
    assert drawn(run.profile)['good']==(6,2,True,1.) and drawn(run.profile)['plain']==(6,2,True,0)
    def of(x, rate): return sum(v for _,r,v in x if r==rate)
    plain,far = work(6,2,True),work(6,2,True,1.)
    assert (of(plain,'unet'),of(far,'unet'),of(plain,'decode'),of(far,'decode'))==(12,36,6,42)
    assert sum(v for words,_,v in far if words=='images drawn')==6

def test_a_setting_that_is_not_used_leaves_no_trace():
    assert 'guide' not in DecodedPool(source='class_names').model_dump(exclude_none=False)

@pytest.mark.parametrize('bad,words', [(dict(weight=-1.),'greater than or equal'),
                                       (dict(by='logit'),"'energy', 'knn' or"),
                                       (dict(between=[.5,.5]),'the smaller first'), (dict(k=0),'greater than 0'),
                                       (dict(rho=1.),'Extra inputs')])
def test_bad_settings_are_refused(bad, words):
    with pytest.raises(ValueError, match=words): Guide(**dict(by='knn',weight=1.)|bad)

def test_more_neighbours_than_images_are_refused_before_anything_is_drawn(run, made):
    pools = dict(good=run.profile.decoding.pools['good'].model_copy(update=dict(guide=Guide(by='knn',weight=1.))))
    many = run.profile.model_copy(update=dict(decoding=run.profile.decoding.model_copy(update=dict(pools=pools))))
    run.profile = many
    with pytest.raises(DreamError, match='good.guide.k is 100 and there are 9 training images'): check_guide(run,'good')
    with pytest.raises(DreamError, match='40 training images, fewer than the 100'):
        outside(Guide(by='knn',weight=1.), *made, FMT, τ)
