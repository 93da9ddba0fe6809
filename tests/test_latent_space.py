"Latent space: an interrupted training ends as an uninterrupted one, and bad input is one sentence."
import pytest,torch
from fastcore.test import test_close as close
import torch.nn.functional as F
from dream_ood import latent_space
from dream_ood.core import DreamError
from dream_ood.runs import Run
from dream_ood.data import id_set
from dream_ood.stages import embeddings_of

@pytest.fixture(scope='module')
def study(tmp_path_factory):
    run = Run.open('profiles/smoke.yaml', 0, tmp_path_factory.mktemp('runs'))
    some = [id_set(run.profile.data,s).subset(range(0,n,4)) for s,n in (('train',256),('validation',128))]
    anchors = torch.randn(len(run.profile.data.classes), 16, generator=run.generator('anchors'))
    return run.profile.latent_space,run.profile.data,anchors,some

def test_interrupted_training_ends_the_same(study, tmp_path, monkeypatch):
    cfg,fmt,anchors,some = study
    whole,history = latent_space.train_encoder(cfg, anchors, *some, fmt, epochs=3)
    checkpoint,epoch = tmp_path/'checkpoint.pt',latent_space.one_epoch
    def power_cut(*args):
        if checkpoint.exists(): raise KeyboardInterrupt
        return epoch(*args)
    monkeypatch.setattr(latent_space, 'one_epoch', power_cut)
    with pytest.raises(KeyboardInterrupt):
        latent_space.train_encoder(cfg, anchors, *some, fmt, epochs=3, checkpoint=checkpoint)
    monkeypatch.undo()
    resumed,again = latent_space.train_encoder(cfg, anchors, *some, fmt, epochs=3, checkpoint=checkpoint)
    assert list(again.epoch)==[1,2,3]
    close(again.values, history.values, 1e-3)
    close(*(latent_space.embed(e, some[1], fmt)[0] for e in (whole,resumed)), 1e-4)

def test_seed_changes_the_encoder(study):
    cfg,fmt,anchors,some = study
    a,b,c = (latent_space.make_encoder(cfg.backbone, 16, fmt.image_size, s).backbone.conv1[0].weight for s in (0,0,1))
    assert torch.equal(a,b) and not torch.equal(a,c)

def test_embeddings_keep_the_order_of_the_images(study):
    cfg,fmt,anchors,(train,_) = study
    encoder = latent_space.make_encoder(cfg.backbone, 16, fmt.image_size)
    z,y = latent_space.embed(encoder, train, fmt, batch_size=10)
    assert torch.equal(y, train.labels)
    close(z, latent_space.embed(encoder, train, fmt)[0], 1e-4)
    close(z[7:8], latent_space.embed(encoder, train.subset([7]), fmt)[0], 1e-4)

def test_own_and_nearest_other_anchor():
    anchors = torch.eye(3)
    z = F.normalize(torch.tensor([[3.,4.,0.],[0.,0.,1.]]), dim=1)
    own,other = latent_space.anchor_cosines(z, torch.tensor([0,2]), anchors)
    close(own, torch.tensor([.6,1.]), 1e-6); close(other, torch.tensor([.8,0.]), 1e-6)

def test_bad_input(study, tmp_path):
    cfg,fmt,anchors,some = study
    with pytest.raises(DreamError, match='resnet_maxi'): latent_space.make_backbone('resnet_maxi', 8, 32)
    (tmp_path/'c.pt').write_bytes(b'no checkpoint')
    with pytest.raises(DreamError, match='damaged'):
        latent_space.train_encoder(cfg, anchors, *some, fmt, epochs=1, checkpoint=tmp_path/'c.pt')
    with pytest.raises(DreamError, match='lower latent_space.lr'):
        latent_space.train_encoder(cfg, anchors*torch.nan, *some, fmt, epochs=1)
    with pytest.raises(DreamError, match='03_latent_space'): embeddings_of(Run.open('profiles/smoke.yaml', 0, tmp_path))
