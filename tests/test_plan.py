"""A dry run of the full-scale profiles, and the whole graph on a small ImageNet-100 in its real layout with a Stable
Diffusion 1.x of random weights."""
import json,os,re,shutil,subprocess,sys,time
import numpy as np,pandas as pd,pytest,torch,yaml
from pathlib import Path
from PIL import Image
from diffusers import AutoencoderKL,PNDMScheduler,StableDiffusionPipeline,UNet2DConditionModel
from transformers import CLIPTextConfig,CLIPTextModel,CLIPTokenizer
from dream_ood.core import DreamError
from dream_ood.study import Profile,load_profile,read_profile
from dream_ood.runs import Run,STAGES

ROOT = Path(__file__).parent.parent
from dream_ood import planning as plan
from dream_ood.cli import numbers

# of the 100: stingray, hen, magpie, tabby, zebra, microwave
WNIDS = ['n01498041','n01514859','n01582220','n02123045','n02391049','n03761084']
RNG = np.random.default_rng(0)

@pytest.fixture
def project(tmp_path, monkeypatch):
    "This project in a folder of its own, with no data and no runs."
    for f in ('workflow','settings.ini','profiles'):
        (shutil.copytree if (ROOT/f).is_dir() else shutil.copy)(ROOT/f, tmp_path/f)
    (tmp_path/'nbs').symlink_to(ROOT/'nbs')
    monkeypatch.chdir(tmp_path)
    return tmp_path

def said(capsys, profile, seeds='0,1,2', runs='_runs', row='', target='table1', *rates):
    "What the plan prints; it must make no file and open no model."
    before = sorted(Path.cwd().rglob('*'))
    plan.plan_study(profile, numbers(seeds), runs, row, target, *rates)
    assert sorted(Path.cwd().rglob('*'))==before
    return capsys.readouterr().out

def section(out, title): return out[out.index(title):].split('\n\n')[0]

# -- the plan ---------------------------------------------------------------------------------------------------------
@pytest.fixture
def computes_nothing(monkeypatch):
    def refuse(*a, **kw): raise AssertionError('the plan computes')
    monkeypatch.setattr(torch.nn.Module, '__call__', refuse)
    monkeypatch.setattr(torch.Tensor, 'backward', refuse)
    monkeypatch.setattr('diffusers.DiffusionPipeline.from_pretrained', refuse)

def test_what_imagenet100_lacks_is_said_in_sentences(project, capsys, computes_nothing):
    start = time.monotonic()
    out = said(capsys, 'profiles/imagenet100.yaml')
    assert time.monotonic()-start<60
    lacking = [l for l in section(out,'What has to be there').splitlines() if 'MISSING' in l]
    assert len(lacking)==1+3+4 and all(l.endswith('.') for l in lacking)          # foundation, ID splits, OOD sets
    assert 'stable-diffusion-v1-4' in lacking[0] and 'hf download' in lacking[0]
    for words in ('iNaturalist.tar.gz','SUN.tar.gz','Places.tar.gz','DTD','image-net.org'):
        assert any(words in l for l in lacking), words
    assert 'about 128,000' in section(out,'Images')

def test_counts_are_those_of_the_profile(project, capsys):
    out = said(capsys, 'profiles/imagenet100.yaml')
    graph = section(out,'The graph')
    for stage,(_,reads) in STAGES.items(): assert f"{', '.join(reads) or 'profile'}" in graph
    # 100 classes of 1000 outliers, 1000 inliers, 10 plain
    assert '201,000 images drawn' in graph
    assert '38,400,000 images trained on' in graph                        # Dream-ID: 3 conditions, 80,000 steps of 160
    assert f'{100*(128000//160)*160+31600*80+31600*160:,} images trained on' in graph
    assert 'In all: 1 study, 24 runs of stages for 3 seeds, 1 page of results; 603,000 images to draw' in out
    assert '15.1 GB' in section(out,'Disk')                               # half of 201,000 x 224 x 224 x 3 bytes

def test_what_imagenet200_of_openood_lacks_is_said_in_sentences(project, capsys, computes_nothing):
    out = said(capsys, 'profiles/openood_imagenet200.yaml', '0', '_runs', '', 'paper')
    lacking = [l for l in section(out,'What has to be there').splitlines() if 'MISSING' in l]
    assert lacking and all(l.endswith('.') for l in lacking)
    for words in ('test_ssb_hard.txt','test_ninco.txt','val_openimage_o.txt','test_imagenet200_c.txt','image-net.org'):
        assert any(words in l for l in lacking), words

def test_the_bundled_study_lacks_nothing(project, capsys, computes_nothing):
    out = said(capsys, 'profiles/mini.yaml', '0,1')
    assert ('MISSING' not in out and 'The foundation and every image set are there.' in out
            and 'about' not in section(out,'Images'))

@pytest.mark.parametrize('profile', ['cifar100','imagenet10','openood_cifar100','openood_imagenet200','smoke'])
def test_every_kind_of_profile_can_be_planned(profile, project, capsys):
    assert 'The graph' in said(capsys, f'profiles/{profile}.yaml', '0')

@pytest.mark.parametrize('args,words', [(('profiles/none.yaml',),'no profile'), (('profiles/mini.yaml','a'),'SEEDS'),
                                        (('profiles/mini.yaml','0','_runs','Nothing'),'no row')])
def test_a_plan_of_nothing_is_one_sentence(args, words, project):
    profile,seeds,*more = (*args,'0')[:max(2,len(args))]
    with pytest.raises(DreamError, match=words) as e: plan.plan_study(profile, numbers(seeds), *more)
    assert '\n' not in str(e.value)

def test_all_studies_of_the_paper_are_planned(project, capsys, computes_nothing):
    out = said(capsys, 'profiles/imagenet100.yaml', '0,1', '_runs', '', 'paper')
    for n in ('tables','ablations','dream-id'): assert f'== Study imagenet100-{n}:' in out
    parts = {n:out[out.index(f'== Study imagenet100-{n}'):].split('== Study')[1]
             for n in ('tables','ablations','dream-id')}
    assert '08_evaluation' in parts['tables'] and '07_dream_id' in parts['tables']
    assert ('07_dream_id' not in parts['ablations'] and '06_regularized' not in parts['dream-id']
            and '05_decoding' in parts['dream-id'])
    # Dream-ID under shift
    for words in ('imagenet-a.tar','ImageNetV2'):
        assert words in section(out,'What has to be there') and words not in said(capsys,'profiles/imagenet100.yaml')
    drawn = [int(n.replace(',','')) for n in re.findall(r'([\d,]+) images drawn', out) if n!='120']
    assert f'{2*sum(drawn):,} images to draw' in out and 'In all: 3 studies, 42 runs of stages for 2 seeds' in out
    one = said(capsys, 'profiles/imagenet100.yaml', '0', '_runs', '', 'paper/efficiency')
    assert '== Study imagenet100-ablations' in one and 'imagenet100-tables' not in one
    with pytest.raises(DreamError, match='no target'): plan.plan_study('profiles/mini.yaml', [0], '_runs', '', 'papers')

def test_backbones_of_contenders_have_rates_of_their_own(project):
    d = read_profile('profiles/smoke.yaml')
    d['training']['contenders'] |= dict(big=dict(backbone='resnet18'))
    d['evaluation']['methods'] |= dict(Big=dict(contender='big', detector='energy'))
    study,n = Profile(**d),{'ID train':512,'ID validation':200,'ID test':200}
    trained = {rate:amount for _,rate,amount in plan.work(study, n)['training'] if rate.startswith('train')}
    assert trained['train resnet18']==512 and trained['train resnet_mini']>512          # one epoch
    table = made_up(study, 1.); table.loc[table.setting.str.startswith('resnet18'),'seconds'] = 100.
    of = plan.lookup(study, table)
    assert of('train resnet18',3)==300. and of('train resnet_mini',3)==3. and of('score resnet18',1)==100.

def test_a_damaged_foundation_is_named(project, capsys):
    d = yaml.safe_load(Path('profiles/mini.yaml').read_text()); d['foundation']['model'] = str(project/'_models'/'sd')
    Path('profiles/mine.yaml').write_text(yaml.safe_dump(d|dict(name='mine')))
    assert "there is no folder '_models/sd'" in section(said(capsys,'profiles/mine.yaml'),'What has to be there')
    Path('_models/sd').mkdir(parents=True)
    assert 'no model_index.json' in section(said(capsys,'profiles/mine.yaml'),'What has to be there')

def test_what_a_class_has_too_few_images_for_is_said_before_the_run(project, capsys):
    d = read_profile('profiles/smoke.yaml')
    d['dream_id']['real_per_class'],d['sampling']['pools']['knn']['k'] = 65,64      # train_per_class is 64
    Path('profiles/mine.yaml').write_text(yaml.safe_dump(d|dict(name='mine')))
    few = [l for l in section(said(capsys,'profiles/mine.yaml'),'What has to be there').splitlines() if 'TOO FEW' in l]
    assert (len(few)==2 and all('has 64' in l for l in few) and 'sampling.pools.knn.k needs 65' in few[0]
            and 'dream_id.real_per_class needs 65' in few[1])

def test_trainings_of_dream_id_are_counted_over_sizes_policies_and_shifts(project):
    d = read_profile('profiles/smoke.yaml')
    d['dream_id'] |= dict(sizes={4:10, 10:30}, augment=['cutmix'], shifts=True, repeats=2, batch_size=64,
                          test_per_class=10)
    n = {'ID train':512,'ID validation':200,'ID test':200}
    (_,_,trained),(_,_,scored) = plan.work(Profile(**d), n)['dream_id']
    # a batch has no more images than there are
    assert trained==4*2*(10*32+30*64) and scored==2*4*2*80*(1+5*len(plan.SHIFTS))

# -- the rates --------------------------------------------------------------------------------------------------------
def made_up(study, seconds, **row):
    "A rate for every piece of work of a study."
    return pd.DataFrame([dict(work=w, setting=s, seconds=seconds, per='', device='Some CPU', gpu=False, threads=1,
                              noise='', commit='abc', date='2026-01-01') | row for w,s in plan.needed(study)])

def test_hours_are_counts_times_rates(project, capsys):
    study = load_profile('profiles/imagenet100.yaml')
    table = made_up(study, 0.)
    table.loc[table.work=='unet','seconds'] = .036                         # 201,000 images of 50 steps: 100.5 hours
    table.to_csv('r.csv', index=False)
    hours = section(said(capsys,'profiles/imagenet100.yaml','0,1','_runs','','table1','r.csv'),'Hours')
    row = next(l for l in hours.splitlines() if '05_decoding' in l)
    assert (row.split()[-2:]==['100.5','h']
            and next(l for l in hours.splitlines() if 'all that is to do' in l).split()[-2:]==['201.1','h'])
    assert 'No rate was measured on a GPU' in hours and 'Some CPU, 1 thread' in hours and 'abc' in hours

def test_a_gpu_and_noise_are_named_and_what_is_not_measured_is_not_guessed(project, capsys):
    study = load_profile('profiles/imagenet100.yaml')
    gpu = made_up(study, 1e-3, device='Some GPU', gpu=True)
    cpu = made_up(study, 1e-3, noise='beside other work (load 2.0 on 2 cores before the start)')
    pd.concat([gpu, cpu[cpu.work!='unet']]).to_csv('r.csv', index=False)
    hours = section(said(capsys,'profiles/imagenet100.yaml','0','_runs','','table1','r.csv'),'Hours')
    assert ('Some GPU' in hours and 'No rate was measured on a GPU' not in hours
            and 'beside other work, so the rates are noisy' in hours)
    assert (next(l for l in hours.splitlines() if '05_decoding' in l).count('?')==1
            and '> ' in next(l for l in hours.splitlines() if 'one seed' in l))

def test_rates_are_measured_once_with_their_provenance(project, capsys):
    plan.measure_rates('profiles/smoke.yaml', 'r.csv')
    t = plan.read_rates('r.csv')
    assert (set(zip(t.work,t.setting))==set(plan.needed(load_profile('profiles/smoke.yaml'))) and (t.seconds>0).all()
            and (t.lowest<=t.seconds).all() and (t.seconds<=t.highest).all())
    assert (t.device.str.len().min()>0 and t.date.str.len().min()==10 and t.commit.str.len().min()>0
            and set(t.per)<=set(plan.UNITS.values()))
    before = Path('r.csv').read_bytes()
    plan.measure_rates('profiles/smoke.yaml', 'r.csv')
    assert Path('r.csv').read_bytes()==before
    assert 'not measured yet' not in said(capsys,'profiles/smoke.yaml','0','_runs','','table1','r.csv')

def test_rates_of_the_paper_are_those_of_its_studies():
    study = load_profile(ROOT/'profiles'/'imagenet100.yaml')
    settings = [s for part in plan.studies_of(study,'paper') for _,s in plan.needed(part)]
    assert (plan.studies_of(study,'table1')==[study] and all(any(s.startswith(w) for s in settings)
        for w in ('resnet50','densenet121','gaussian','boundary','anywhere','interpolation')))

def test_stable_diffusion_has_its_real_size():
    study = load_profile(ROOT/'profiles'/'imagenet100.yaml')
    assert [plan.size_of(plan.part(study,p)) for p in ('unet','vae')]==['860M','83.7M']
    assert any('64x64 latents' in s for _,s in plan.needed(study))

# -- the whole graph --------------------------------------------------------------------------------------------------
def photograph(path, hue):
    path.parent.mkdir(parents=True, exist_ok=True)
    x = RNG.integers(0,90,(48,64,3))+np.array([hue,(3*hue)%160,160-hue%160])
    Image.fromarray(x.clip(0,255).astype(np.uint8)).save(path)

def small_imagenet(root):
    """ImageNet and the four OOD sets as their archives leave them, a few images each, with classes that are none of
    the hundred."""
    for i,c in enumerate([*WNIDS,'n01440764','n15075141']):
        for j in range(14): photograph(root/'imagenet'/'train'/c/f'{c}_{j}.JPEG', 20*i)
        for j in range(4): photograph(root/'imagenet'/'val'/c/f'ILSVRC2012_val_{100*i+j:08d}.JPEG', 20*i)
    for name in ('iNaturalist','SUN','Places'):
        for j in range(5): photograph(root/name/'images'/f'{j}.jpg', 37*j)
    for split in ('train','val','test'):
        for c in ('banded','zigzagged'): photograph(root/'dtd'/'dtd'/'images'/c/f'{c}_{split}.jpg', 99)
        (root/'dtd'/'dtd'/'labels').mkdir(exist_ok=True)
        (root/'dtd'/'dtd'/'labels'/f'{split}1.txt').write_text(''.join(f'{c}/{c}_{split}.jpg\n'
            for c in ('banded','zigzagged')))

def small_stable_diffusion(folder, words):
    """Stable Diffusion 1.x in small, saved by diffusers; its tokenizer as in the original repository: vocab.json and
    merges.txt."""
    tok = CLIPTokenizer().train_new_from_iterator([words], vocab_size=4000, show_progress=False)
    tok.model_max_length = 77
    torch.manual_seed(0)
    text = CLIPTextModel(CLIPTextConfig(vocab_size=len(tok), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                                        num_attention_heads=4, max_position_embeddings=77,
                                        bos_token_id=tok.bos_token_id, eos_token_id=tok.eos_token_id,
                                        pad_token_id=tok.pad_token_id))
    unet = UNet2DConditionModel(sample_size=8, block_out_channels=(32,32,64,64), layers_per_block=1,
                                attention_head_dim=8, cross_attention_dim=32)
    vae = AutoencoderKL(block_out_channels=(8,8,16,16), down_block_types=('DownEncoderBlock2D',)*4,
                        up_block_types=('UpDecoderBlock2D',)*4, layers_per_block=1, norm_num_groups=4, sample_size=64)
    schedule = PNDMScheduler(beta_start=.00085, beta_end=.012, beta_schedule='scaled_linear', set_alpha_to_one=False,
                             skip_prk_steps=True, steps_offset=1)
    StableDiffusionPipeline(vae, text, tok, unet, schedule, None, None,
                            requires_safety_checker=False).save_pretrained(folder)
    t,bpe = folder/'tokenizer',json.loads(tok.backend_tokenizer.to_str())['model']
    for f in t.iterdir(): f.unlink()
    (t/'vocab.json').write_text(json.dumps(bpe['vocab']))
    (t/'merges.txt').write_text('#version: 0.2\n'+''.join(f"{m if isinstance(m,str) else ' '.join(m)}\n"
        for m in bpe['merges']))
    special = dict(bos_token='<|startoftext|>', eos_token='<|endoftext|>', unk_token='<|endoftext|>',
                   pad_token='<|endoftext|>')
    (t/'special_tokens_map.json').write_text(json.dumps(special))
    (t/'tokenizer_config.json').write_text(json.dumps(special|dict(tokenizer_class='CLIPTokenizer', model_max_length=77,
        do_lower_case=True, add_prefix_space=False, errors='replace')))

def shortened():
    """profiles/imagenet100.yaml with six of its classes, few images, few steps and small networks; all else is the
    paper's."""
    d = yaml.safe_load((ROOT/'profiles'/'imagenet100.yaml').read_text())
    data = d['data']
    data['classes'],data['nouns'],data['image_size'] = WNIDS,{c:data['nouns'][c] for c in WNIDS},32
    data['train']['exclude_first'],data['validation']['per_class'] = 4,4
    d['foundation'] |= dict(model='_models/sd', dtype='float32')
    if 'suffixes' in d['foundation']:
        d['foundation']['suffixes'] = {c:s for c,s in d['foundation']['suffixes'].items() if c in WNIDS} or None
    small = dict(backbone='resnet_mini', epochs=2, batch_size=20)
    d['latent_space'] |= small
    for p in d['sampling']['pools'].values(): p |= dict(per_class=3, k=2, select=5, candidates=10)
    d['decoding'] |= dict(steps=2, batch_size=18)
    d['decoding']['pools']['plain']['per_class'] = 2
    d['training'] |= (small | dict(finetune=d['training']['finetune'] | dict(steps=3, batch_size=8,
        outlier_batch_size=8)))
    d['dream_id'] |= dict(real_per_class=4, steps=3, batch_size=8)
    d['evaluation'] |= dict(k=5)
    return d | dict(name='imagenet6')

def test_the_whole_graph_of_a_small_imagenet(project, capsys):
    d = shortened()
    small_imagenet(project/'_data')
    small_stable_diffusion(project/'_models'/'sd', 'a high - quality image of the'.split()
                           +list(d['data']['nouns'].values()))
    Path('profiles/imagenet6.yaml').write_text(yaml.safe_dump(d, sort_keys=False))
    before = said(capsys, 'profiles/imagenet6.yaml', '0')
    assert 'MISSING' not in before and 'ID train' in before and f'{6*10}' in section(before,'Images')
    env = (os.environ | dict(HF_HUB_OFFLINE='1', OMP_NUM_THREADS='1',
                             PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH','')])))
    r = subprocess.run([sys.executable,'-m','dream_ood','reproduce','--profile','profiles/imagenet6.yaml','--seeds','0',
                        '--','--cores','1'],
                       capture_output=True, text=True, env=env)     # one core: other tests run beside this one
    assert r.returncode==0, r.stdout[-3000:]+r.stderr[-3000:]
    run = Run.open('profiles/imagenet6.yaml', 0, '_runs')
    assert all(run.stage(s).done for s in STAGES)
    t = pd.read_csv(run.folder.parent/'tables'/'table1.csv')
    assert (set(t.method)==set(d['evaluation']['methods']) and {*d['data']['ood'],'vae','generated'}==set(t.ood_set)
            and t.notna().all().all())
    drawn = {p:sum(1 for _ in (run.stage('decoding')/p).rglob('*.png')) for p in d['decoding']['pools']}
    assert drawn=={n:i for n,(i,*_) in plan.drawn(run.profile).items()}=={'knn':18,'inliers':18,'plain':12}
    after = section(said(capsys,'profiles/imagenet6.yaml','0'),'The graph')
    for line in after.splitlines()[2:10]: assert line.split('  ')[-2].strip()=='0' or ' 0  ' in line, line
