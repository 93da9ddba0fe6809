"""Decoding: what a killed process leaves behind is finished by the next, and embeddings that do not fit are refused
before anything is drawn."""
import io,os,signal,subprocess,sys
import numpy as np,pandas as pd,pytest,torch,yaml
from pathlib import Path
from PIL import Image
from dream_ood.decoding import *
from dream_ood.data import pool_set
from dream_ood.foundation import anchors,tiny_pipeline
from dream_ood.core import *
from dream_ood.settings import *
from dream_ood.study import *
from dream_ood.runs import *
from dream_ood.plots import *
from dream_ood import stages
from dream_ood.stages import *

MINI = Path(__file__).parent.parent/'profiles'/'mini.yaml'
CLASSES = ['coat','boot','shirt']

@pytest.fixture(scope='module')
def settings(foundation):
    d = yaml.safe_load(MINI.read_text())
    d['data'] |= dict(classes=CLASSES, wide=None, validation_outliers=None)
    d['foundation']['model'] = str(foundation)
    d['sampling']['pools'] = dict(knn=dict(rule='knn',per_class=7), inliers=dict(rule='inliers',per_class=4))
    d['decoding'] = dict(steps=2, guidance=3., batch_size=4,
                         pools=dict(knn=dict(source='sampling'), inliers=dict(source='sampling',per_class=2),
                         plain=dict(source='class_names',per_class=3), names=dict(source='other_names',per_class=2)))
    d['training']['contenders'] = dict(cross_entropy={})
    d['evaluation']['methods'] = dict(MSP=dict(contender='cross_entropy',detector='msp'))
    return d

def prepared(profile:Profile, root, z=None):
    "A run whose earlier stages are done, with made-up embeddings."
    run = Run.open(profile, 0, root)
    for n in ('data','foundation','latent_space','sampling'):
        s = run.stage(n).begin()
        if n=='foundation':
            pipe = tiny_pipeline()
            save_tensors(s/'anchors.safetensors', anchors=anchors(pipe,CLASSES))
            save_json(s/'nouns.json', ['cat','dog','tree','fish'])
        elif n=='sampling':
            for pool,q in profile.sampling.pools.items():
                g = run.generator(pool)
                save_tensors(s/f'{pool}.safetensors',
                             z=torch.randn(len(CLASSES),q.per_class,32,generator=g)*.02 if z is None else z,
                             distance=torch.rand(len(CLASSES),q.per_class,generator=g),
                             boundary=torch.zeros(len(CLASSES),q.per_class,dtype=torch.long))
        else: save_json(s/'made_up.json', 1)
        s.finish()
    return run

@pytest.fixture
def run(settings, tmp_path): return prepared(Profile(**settings), tmp_path)

def test_a_pool_is_a_data_set_that_others_read(run):
    from torchvision.datasets import ImageFolder
    run_decoding(run)
    for n,count in dict(knn=21,inliers=6,plain=9,names=6).items():
        folder = run.stage('decoding')/n
        ds,m = ImageFolder(str(folder)),pd.read_parquet(folder/'metadata.parquet')
        assert len(ds)==count and ds.classes==sorted(m['class'].unique())
        # as imagefolder wants it
        assert sorted(str(Path(f).relative_to(folder)) for f,_ in ds.samples)==sorted(m.file_name)
        card = (folder/'README.md').read_text()
        assert (yaml.safe_load(card.split('---')[1])['task_categories']==['image-classification']
                and f'{count} images' in card)

def images(run):
    return {str(f.relative_to(run.folder)):f.read_bytes()
            for f in sorted((run.folder/'decoding').glob('*/*/[!.]*.png'))}

def test_every_pool_is_whole_and_says_where_its_images_come_from(run):
    run_decoding(run)
    m = {n:pd.read_parquet(run.stage('decoding')/n/'metadata.parquet') for n in run.profile.decoding.pools}
    assert {n:len(d) for n,d in m.items()}==dict(knn=21,inliers=6,plain=9,names=6)
    assert pd.concat(m.values()).seed.is_unique
    d = m['knn']
    assert list(d)==['file','class','seed','source','rule','boundary','distance','prompt','bytes','file_name']
    assert {n:set(x.rule) for n,x in m.items()}==dict(knn={'knn'},inliers={'inliers'},plain={''},names={''})
    assert d.seed.tolist()==[seed_for(0,'decode','knn',c,i) for c in CLASSES for i in range(7)]
    z = load_tensors(run.stage('sampling')/'knn.safetensors')
    assert np.allclose(d.distance, z['distance'].flatten())
    assert m['plain'].prompt.tolist()==[f'a picture of a {c}' for c in CLASSES for _ in range(3)]
    assert m['names']['class'].value_counts().to_dict()==dict(cat=2,dog=1,tree=2,fish=1)
    s = pool_set(run.stage('decoding')/'knn', run.profile.data.classes, run.profile.data.greyscale)
    assert len(s)==21 and s.labels.bincount().tolist()==[7,7,7] and s[0][0].shape==(3,32,32)
    assert (pool_set(run.stage('decoding')/'names', run.profile.data.classes,
                     run.profile.data.greyscale).labels==-1).all()

def test_a_greyscale_profile_writes_grey_images(run):
    run_decoding(run)
    with Image.open(run.stage('decoding')/'knn'/'coat'/'00000.png') as i: assert i.mode=='L' and i.size==(32,32)

def test_finished_work_is_left_alone_and_what_is_lost_or_damaged_is_drawn_again(run, capsys):
    run_decoding(run); before = images(run)
    times = {f:(run.folder/f).stat().st_mtime_ns for f in before}
    run_decoding(run)
    assert 'nothing to do' in capsys.readouterr().out
    result = load_json(run.stage('decoding')/'provenance.json')['result']
    lost,cut = run.folder/'decoding/knn/boot/00003.png',run.folder/'decoding/plain/coat/00001.png'
    lost.unlink(); cut.write_bytes(cut.read_bytes()[:-30])
    run_decoding(run)
    assert images(run).keys()==before.keys()
    again = {f for f,t in times.items() if (run.folder/f).stat().st_mtime_ns!=t}
    assert again=={str(f.relative_to(run.folder)) for f in (lost,cut)}
    assert images(run)==before

def test_images_do_not_depend_on_the_batch_size(settings, run, tmp_path):
    run_decoding(run)
    other = prepared(Profile(**settings|dict(decoding=settings['decoding']|dict(batch_size=21))), tmp_path/'other')
    run_decoding(other)
    for (f,a),(g,b) in zip(images(run).items(), images(other).items()):
        a,b = (np.asarray(Image.open(r.folder/n),int) for r,n in ((run,f),(other,g)))
        assert f==g and np.abs(a-b).max()<=2

@pytest.fixture
def one_thread(): # as the processes that are killed have: bytes are the same for the same number of threads
    n = torch.get_num_threads(); torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)

def test_killed_in_the_middle_it_goes_on_where_it_was(settings, tmp_path, one_thread):
    f = tmp_path/'mine.yaml'; f.write_text(yaml.safe_dump(settings))
    whole_,run = (prepared(load_profile(f), tmp_path/n) for n in ('whole','killed'))
    run_decoding(whole_)
    script = f"""
import os,signal
from dream_ood import decoding,stages
from dream_ood.runs import Run
write,written = decoding.write_image,[]
def write_image(*args): # the ninth image is the last
    write(*args); written.append(1)
    if len(written)==9: os.kill(os.getpid(), signal.SIGKILL)
decoding.write_image = write_image
stages.run_decoding(Run.open({str(f)!r},0,{str(tmp_path/"killed")!r}))"""
    child = subprocess.run([sys.executable,'-c',script], env=os.environ|dict(OMP_NUM_THREADS='1'), capture_output=True)
    assert child.returncode==-signal.SIGKILL
    left = {f:(run.folder/f).stat().st_mtime_ns for f in images(run)}
    assert len(left)==9 and not run.stage('decoding').done
    assert all(whole(run.folder/f) for f in left)             # nothing half-written bears its final name
    (run.folder/'decoding'/'knn'/'coat'/'.00099.1.tmp.png').write_bytes(b'half')
    run_decoding(run)
    assert run.stage('decoding').done
    assert all((run.folder/f).stat().st_mtime_ns==t for f,t in left.items())   # finished images were kept
    assert images(run).keys()==images(whole_).keys()
    assert images(run)==images(whole_)
    assert not list(run.folder.rglob('.*.tmp*'))

def test_batches_are_shared_out(settings, run):
    plans = {n:plan_of(run,n)[0] for n in run.profile.decoding.pools}
    everything = batches_of(plans, 4)
    for shards in (1,3,8,50):
        parts = [batches_of(plans,4,i,shards) for i in range(shards)]
        sizes = [sum(map(len,p.values())) for p in parts]
        assert max(sizes)-min(sizes)<=1                          # batches, not pools, are shared out
        for n in plans: assert sorted(b for p in parts for b in p[n])==everything[n]
    with pytest.raises(DreamError, match='no shard 3 of 3'): run_decoding(run, 3, 3)
    assert images(run)=={}

# a process that dies a moment after it has begun its so-manieth image
def _shard(profile, root, shard, shards, after, wait):
    import threading
    from dream_ood import decoding
    torch.set_num_threads(1)
    write,begun = decoding.write_image,[]
    def write_image(*args):
        begun.append(1)
        if len(begun)==after: threading.Timer(wait, os.kill, (os.getpid(),signal.SIGKILL)).start()
        write(*args)
    decoding.write_image = write_image
    run_decoding(Run.open(profile,0,root), shard, shards)

def test_eight_shards_killed_at_random_end_in_the_same_bytes(settings, tmp_path):
    from multiprocessing import get_context
    import random
    settings = (settings
                |dict(decoding=settings['decoding']
                      |dict(pools={n:q|({} if q['source']=='sampling' else dict(per_class=8))
                                   for n,q in settings['decoding']['pools'].items()})))
    f = tmp_path/'mine.yaml'; f.write_text(yaml.safe_dump(settings))
    whole_,run = (prepared(load_profile(f), tmp_path/n) for n in ('whole','killed'))
    context,rng,shards,killed = get_context('forkserver'),random.Random(0),8,0
    context.set_forkserver_preload(['dream_ood.stages',
                                    'diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion'])
    p = context.Process(target=_shard, args=(f,tmp_path/'whole',None,1,0,0)); p.start(); p.join()
    assert p.exitcode==0 and whole_.stage('decoding').done
    for turn in range(30):   # eight at a time, until all have come through
        ps = [context.Process(target=_shard, args=(f,tmp_path/'killed',i,shards,rng.randint(1,3),rng.uniform(0,.02)))
              for i in range(shards)]
        for p in ps: p.start()
        for p in ps: p.join()
        assert {p.exitcode for p in ps}<={0,-signal.SIGKILL}
        killed += sum(p.exitcode!=0 for p in ps)
        # whatever bears its name is whole, and the right one
        assert all(images(whole_)[k]==b for k,b in images(run).items())
        if all(p.exitcode==0 for p in ps): break
    assert killed>=20 and images(run)==images(whole_) and not run.stage('decoding').done
    made = {k:(run.folder/k).stat().st_mtime_ns for k in images(run)}
    run_decoding(run)                                                         # finishes the stage, and draws nothing
    assert run.stage('decoding').done and made=={k:(run.folder/k).stat().st_mtime_ns for k in images(run)}
    def everything(r):
        return {str(f.relative_to(r.folder)):f.read_bytes()
                for f in r.stage('decoding').folder.rglob('*') if f.is_file() and f.name!='provenance.json'}
    assert everything(run)==everything(whole_)

def test_a_pool_more_is_all_that_is_drawn(settings, tmp_path, monkeypatch):
    from dream_ood import decoding
    def profile(**pools):
        f = tmp_path/'mine.yaml'
        f.write_text(yaml.safe_dump(settings|dict(decoding=settings['decoding']|dict(
            pools={n:q for n,q in (settings['decoding']['pools']|pools).items() if q}))))
        return load_profile(f)
    run = prepared(profile(), tmp_path/'runs'); run_decoding(run); before = images(run)
    write,drawn = decoding.write_image,[]
    monkeypatch.setattr(decoding, 'write_image', lambda *a: (drawn.append(a), write(*a)))
    changed = Run.open(profile(more=dict(source='class_names',per_class=2), names=None,
                               plain=settings['decoding']['pools']['plain']|dict(steps=3)), 0, tmp_path/'runs')
    run_decoding(changed); after = images(changed)
    kept = {k:b for k,b in before.items() if '/knn/' in k or '/inliers/' in k}
    assert kept and kept.items()<=after.items() and not [k for k in after if '/names/' in k]
    assert len(drawn)==sum('/more/' in k or '/plain/' in k for k in after)
    fresh = prepared(changed.profile, tmp_path/'elsewhere'); run_decoding(fresh)
    assert images(fresh)==after

def test_a_full_disk_is_one_sentence_and_costs_nothing(run, monkeypatch):
    from dream_ood import decoding
    save,left = Image.Image.save,[6]
    def full(self, file, *args, **kw):
        if not left[0]: os.symlink('/dev/full', file)   # a device that really has no room
        else: left[0] -= 1
        save(self, file, *args, **kw)
    monkeypatch.setattr(Image.Image, 'save', full)
    with pytest.raises(DreamError, match='no room to write .*what is finished is kept') as e: run_decoding(run)
    assert '\n' not in str(e.value) and len(images(run))==6 and not list(run.folder.rglob('.*.tmp*'))
    kept = images(run)
    monkeypatch.undo(); run_decoding(run)
    assert run.stage('decoding').done and kept.items()<=images(run).items()

def with_pools(settings, **pools):
    return Profile(**settings|dict(decoding=settings['decoding']
                                   |dict(pools=pools|dict(inliers=dict(source='sampling',per_class=2)))))

def test_pools_of_the_same_embeddings_differ_in_their_recipe_alone(settings, tmp_path):
    run = prepared(with_pools(settings, knn=dict(source='sampling'), same=dict(source='sampling',of='knn'),
                              long=dict(source='sampling',of='knn',steps=6),
                              other=dict(source='sampling',of='knn',scheduler='euler'),
                              plain=dict(source='class_names',per_class=1)), tmp_path)
    run_decoding(run)
    def pixels(pool):
        return np.stack([np.asarray(Image.open(run.stage('decoding')/pool/f),int)
                         for f in pd.read_parquet(run.stage('decoding')/pool/'metadata.parquet').file])
    assert (pixels('same')==pixels('knn')).all()
    for n in ('long','other'): assert (np.abs(pixels(n)-pixels('knn')).mean((1,2))>.1).all()
    assert ('6 steps' in (run.stage('decoding')/'long'/'README.md').read_text()
            and outlier_pools(run)==['knn','same','long','other'])
    with pytest.raises(ValueError, match='same.of names'):
        with_pools(settings, same=dict(source='sampling',of='nothing'))

def test_a_class_may_have_a_suffix_in_its_prompt(settings, tmp_path):
    with_, without = (prepared(Profile(**settings|dict(foundation=settings['foundation']|f)), tmp_path/n)
                      for n,f in (('a',dict(suffixes=dict(boot='bird'))),('b',{})))
    for r in (with_,without): run_decoding(r)
    m = pd.read_parquet(with_.stage('decoding')/'knn'/'metadata.parquet').groupby('class').prompt.first()
    assert m.to_dict()==dict(coat='a picture of a {}', boot='a picture of a {} bird', shirt='a picture of a {}')
    assert {k.split('/')[2] for k,b in images(with_).items() if b!=images(without)[k] and 'names' not in k}=={'boot'}

def test_what_is_no_outlier_is_set_aside(settings, tmp_path, monkeypatch, capsys):
    from dream_ood import decoding
    from torchvision.datasets import ImageFolder
    run = prepared(with_pools(settings, knn=dict(source='sampling',refuse=dict(confidence=.8,k=3))), tmp_path)
    ids = [4,5,7,8,9,10,11,12,13]   # two of coat, all of boot
    seen = []
    def seen_as(run, files, how):
        seen.append(how)
        return pd.DataFrame(dict(predicted='coat', confidence=.9, inside=[i in ids for i in range(len(files))]))
    monkeypatch.setattr(stages, 'seen_as', seen_as)
    run_decoding(run)
    folder,aside = run.stage('decoding')/'knn',run.stage('decoding')/'refused'/'knn'
    kept,out = (pd.read_parquet(f/'metadata.parquet') for f in (folder,aside))
    assert seen[0].confidence==.8 and '9 of 21 images refused (9 no outlier)' in capsys.readouterr().out
    assert (len(kept),len(out))==(12,9) and set(out.why)=={'no outlier'} and set(out.file).isdisjoint(kept.file)
    for f,m in ((folder,kept),(aside,out)):
        assert sorted(m.file)==sorted(str(x.relative_to(f)) for x in f.glob('*/*.png'))
    # no training sees the others
    assert (ImageFolder(str(folder)).classes==['coat','shirt']
            and len(pool_set(folder, run.profile.data.classes, run.profile.data.greyscale))==12)
    assert refused(run).loc['knn'].to_dict()=={'drawn':21,'black':0,'no outlier':9/21}
    assert '12 images (of 21; the others were refused)' in (folder/'README.md').read_text()
    before,drawn,write = images(run),[],decoding.write_image
    monkeypatch.setattr(decoding, 'write_image', lambda f,*args: (drawn.append(f),write(f,*args)))
    (folder/kept.file[3]).unlink(); run_decoding(run)
    # of what was drawn, refused or not, nothing is drawn again
    assert images(run)==before and drawn==[folder/kept.file[3]]
    ids[:] = range(21)
    (folder/kept.file[3]).unlink()
    with pytest.raises(DreamError, match='knn: 21 of 21 images refused .21 no outlier., which leaves none'):
        run_decoding(run)

def test_the_filter_knows_training_images_and_not_noise(settings, tmp_path):
    from dream_ood.data import id_set
    from dream_ood.latent_space import embed,make_encoder
    d = settings['data']|dict(train=settings['data']['train']|dict(per_class=20))
    run = prepared(Profile(**settings|dict(data=d)), tmp_path)
    encoder,train = make_encoder(run.profile.latent_space.backbone,32,32),id_set(run.profile.data,'train')
    z,y = embed(encoder, train, run.profile.data)
    save_tensors(run.stage('latent_space')/'encoder.safetensors', **encoder.state_dict())
    save_tensors(run.stage('latent_space')/'embeddings.safetensors', z=z, y=y)
    files = [tmp_path/f'{i}.png' for i in range(len(train))]
    for f,(x,_) in zip(files,train): Image.fromarray(x.permute(1,2,0).numpy()).save(f)
    noise = tmp_path/'noise.png'
    Image.fromarray(np.random.default_rng(0).integers(0,255,(32,32),dtype=np.uint8)).save(noise)
    seen = seen_as(run, [*files,noise], OutlierFilter(confidence=0,k=5))
    Γ = load_tensors(run.stage('foundation')/'anchors.safetensors')['anchors']
    sure = (z@torch.nn.functional.normalize(Γ,dim=1).T/run.profile.latent_space.temperature).softmax(1)
    assert (np.allclose(seen.confidence[:-1], sure.max(1).values, atol=1e-4)
            and seen.predicted[:-1].tolist()==[CLASSES[c] for c in sure.argmax(1)])
    own = seen[:-1][(sure.argmax(1)==y).numpy()]
    # of its own images a class knows about 95%
    assert len(own)>5 and own.inside.mean()>=.9 and not seen.inside.iloc[-1]
    assert not seen_as(run, files, OutlierFilter(confidence=1,k=5)).inside.any()
    with pytest.raises(DreamError, match='too few for neighbour k=50'): seen_as(run, files, OutlierFilter())

def test_the_safety_checker_of_a_foundation_is_used_unless_turned_off(settings, tmp_path):
    from diffusers import StableDiffusionPipeline
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from transformers import CLIPConfig,CLIPImageProcessor
    few = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    strict = StableDiffusionSafetyChecker(CLIPConfig(vision_config=few|dict(image_size=32,patch_size=16),
        text_config=few, projection_dim=8))
    with torch.no_grad(): strict.concept_embeds_weights.fill_(-9)     # any picture is above it
    tiny = tiny_pipeline()
    pipe = StableDiffusionPipeline(**tiny.components|dict(safety_checker=strict,
        feature_extractor=CLIPImageProcessor(size=32,crop_size=32)))
    pipe.save_pretrained(tmp_path/'model')
    def profile(**decoding):
        return Profile(**settings|dict(foundation=settings['foundation']|dict(model=str(tmp_path/'model')),
                                       decoding=settings['decoding']|decoding))
    with pytest.raises(DreamError, match='21 of 21 images refused .21 black.'):
        run_decoding(prepared(profile(), tmp_path/'a'))
    run = prepared(profile(safety_checker=False), tmp_path/'b')
    run_decoding(run)
    assert len(images(run))==42 and not (run.stage('decoding')/'refused').exists()

def test_a_black_picture_is_set_aside(run):
    df = plan_of(run,'knn')[0]
    run_decoding(run)
    for i in (2,9): Image.new('L', (32,32)).save(run.stage('decoding')/'knn'/df.file[i])
    Image.fromarray(np.eye(32,dtype=np.uint8)).save(run.stage('decoding')/'knn'/df.file[4])   # nearly black
    assert (len(refuse(run,'knn',df))==19
            and pd.read_parquet(run.stage('decoding')/'refused'/'knn'/'metadata.parquet').why.tolist()==['black']*2)

def test_too_little_disk_is_said_before_anything_is_drawn(run, monkeypatch):
    from collections import namedtuple
    from dream_ood import decoding
    monkeypatch.setattr(stages.shutil, 'disk_usage', lambda f: namedtuple('u','free')(10_000))
    with pytest.raises(DreamError, match='42 images of 32 pixels will take about .* GB'): run_decoding(run)
    assert images(run)=={}

@pytest.mark.parametrize('z,words', [
    (torch.zeros(2,7,32), "'shirt' has none"),
    (torch.zeros(3,0,32), 'has 0 embeddings'),
    (torch.zeros(3,7,768), "'coat'.*768.*32"),
    (torch.zeros(3,7,32).index_fill(0,torch.tensor([1]),torch.nan), "'boot'.*NaN"),
    (torch.zeros(3,1,32), 'inliers.per_class asks for 2'),
])
def test_embeddings_that_do_not_fit_are_refused_before_anything_is_drawn(settings, tmp_path, z, words):
    run = prepared(Profile(**settings), tmp_path, z)
    with pytest.raises(DreamError, match=words): run_decoding(run)
    assert images(run)=={}

def test_a_pool_of_other_names_needs_names(run):
    save_json(run.stage('foundation')/'nouns.json', [])
    with pytest.raises(DreamError, match='foundation.nouns'): plan_of(run, 'names')

def test_sampling_comes_first(settings, tmp_path):
    with pytest.raises(DreamError, match='run nbs/'): run_decoding(Run.open(Profile(**settings), 0, tmp_path))

def test_the_gallery_shows_real_plain_and_dreamed(run, monkeypatch):
    from dream_ood.data import ImageSet
    monkeypatch.setattr(stages, 'id_set', lambda d,
                        split: ImageSet(split, torch.zeros(9,1,32,32,dtype=torch.uint8), [0,0,0,1,1,1,2,2,2], CLASSES))
    run_decoding(run)
    fig = gallery(run, n=3)
    assert [t.get_text() for t in fig.axes[0].get_xticklabels()]==['real','from the name','dreamed: knn']
    assert [t.get_text() for t in fig.axes[0].get_yticklabels()]==CLASSES
    x,d = by_distance(run, 'knn', 'coat', 5)
    assert len(x)==5 and d==sorted(d)
