"""Measure how long the pieces of a study take on this machine, with the profile's own architectures and random weights:
`python tools/rates.py PROFILE [RATES.csv] [again]`. Rows of tools/rates.csv say on what device, at what commit and when they
were measured; `make plan` estimates hours from them. What was measured on this device before is kept, unless `again`."""
import os, platform, sys, time
from pathlib import Path

import pandas as pd
import diffusers
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from dream_ood.foundation import model_source
from dream_ood.networks import make_backbone
from dream_ood.core import DreamError, save_table
from dream_ood.study import load_profile
from dream_ood.runs import provenance
from dream_ood.sampling import parameters_of, sample

RATES = Path(__file__).with_name('rates.csv')
KEY = ['work', 'setting', 'device', 'threads']
UNITS = dict(unet='image and solver step', decode='image', vae='image', train='image and step', score='image', sample='class')
SD1 = dict(sample_size=64, cross_attention_dim=768)        # Stable Diffusion 1.x: otherwise diffusers' defaults
SD1_VAE = dict(block_out_channels=(128, 256, 512, 512), down_block_types=('DownEncoderBlock2D',)*4, up_block_types=('UpDecoderBlock2D',)*4,
               layers_per_block=2, sample_size=512)


def device():
    "The name of what computes here."
    if torch.cuda.is_available(): return torch.cuda.get_device_name()
    try: names = [l.split(':', 1)[1].strip() for l in open('/proc/cpuinfo') if l.startswith('model name')]
    except OSError: names = []
    return (names or [platform.processor() or platform.machine()])[0]


def part(study, name, where='meta'):
    "U-Net ('unet') or autoencoder ('vae') of a profile's foundation, with random weights; of Stable Diffusion 1.x if it is not on this machine."
    source, (cls, default) = Path(model_source(study.foundation.model)), dict(unet=(UNet2DConditionModel, SD1), vae=(AutoencoderKL, SD1_VAE))[name]
    with torch.device(where): return cls.from_config(cls.load_config(source/name) if source.is_dir() else default)


def size_of(m): return f'{sum(p.numel() for p in m.parameters())/1e6:.3g}M'
def scale_of(vae): return 2**(len(vae.config.block_out_channels)-1)


def needed(study):
    "(work, setting) -> what it depends on, for everything that a profile's hours are estimated from."
    p, work = study.data.image_size, {}
    try: unet, vae = part(study, 'unet'), part(study, 'vae')
    except (DreamError, OSError): pass                     # a local foundation that is missing or damaged
    else:
        native = unet.config.sample_size*scale_of(vae)
        size = study.decoding.size or native
        work['unet', f'U-Net of {size_of(unet)}, {size//scale_of(vae)}x{size//scale_of(vae)} latents, with and without prompt'] = size
        work['decode', f'autoencoder of {size_of(vae)}, {size} pixels'] = size
        work['vae', f'autoencoder of {size_of(vae)}, {native} pixels'] = native
    for cfg in (study.latent_space, study.training):
        for w in ('train', 'score'): work[w, f'{cfg.backbone}, {p} pixels'] = cfg.backbone, cfg.batch_size
    for b in {study.backbone(c) for c in study.training.contenders}:
        for w in ('train', 'score'): work[w, f'{b}, {p} pixels'] = b, study.training.batch_size
    for q in study.sampling.pools.values(): work['sample', rule_setting(q)] = q
    return work


def rule_setting(q):
    own = q.model_dump(include=set(parameters_of(q.rule)))
    return f'{q.rule}, {q.per_class} a class' + ''.join(f', {k} {v}' for k, v in own.items() if v is not None)


def a_class(n, d):
    "Embeddings of one class: nearly all of their spread lies in a few directions, as that of trained encoders does."
    g = torch.Generator().manual_seed(0)
    x = F.normalize(torch.randn(d, generator=g), dim=0) + .5*torch.randn(n, 8, generator=g)@F.normalize(torch.randn(8, d, generator=g), dim=1)
    return F.normalize(x + .1/d**.5*torch.randn(n, d, generator=g), dim=1)


def job(study, work, what):
    "A call to be timed, and how many units of the work it does."
    cuda = torch.cuda.is_available()
    at = dict(device='cuda' if cuda else 'cpu', dtype=getattr(torch, study.foundation.dtype) if cuda else torch.float32)
    if work in ('unet', 'decode', 'vae'):
        n = study.decoding.batch_size if cuda or sum(p.numel() for p in part(study, 'unet').parameters()) < 1e8 else 1
        s = what//scale_of(part(study, 'vae'))
        net = part(study, 'unet' if work == 'unet' else 'vae', 'cpu').to(**at).eval().requires_grad_(False)
        if work == 'vae': return lambda: net.decode(net.encode(torch.zeros(n, 3, what, what, **at)).latent_dist.mode()), n
        if work == 'decode': return lambda: net.decode(torch.zeros(n, 4, s, s, **at)), n
        c = net.config
        extra = dict(added_cond_kwargs=dict(time_ids=torch.zeros(2*n, 6, **at), text_embeds=torch.zeros(2*n, c.projection_class_embeddings_input_dim-6*c.addition_time_embed_dim, **at))) if c.addition_embed_type == 'text_time' else {}
        return lambda: net(torch.zeros(2*n, 4, s, s, **at), 500, torch.zeros(2*n, 77, c.cross_attention_dim, **at), **extra), n
    if work == 'sample': return sampling_job(study, what)
    (backbone, n), p = what, study.data.image_size
    n = n if cuda or p < 128 else min(n, 8)
    net = make_backbone(backbone, len(study.data.classes), p).to(at['device'])
    x = torch.zeros(n, 3, p, p, device=at['device']).to(memory_format=torch.channels_last)
    if work == 'score': return lambda: net.eval()(x), n
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)
    def step():
        optimizer.zero_grad(); net(x).logsumexp(1).mean().backward(); optimizer.step()
    return step, n


def sampling_job(study, q, n=1280, d=768):
    "One class of ImageNet-100 at the width of Stable Diffusion 1.x; of small images, one of the bundled study."
    if study.foundation.model == 'bundled': n, d = 1600, 128
    z, g = a_class(max(n, q.select), d), torch.Generator().manual_seed(0)
    anchors, nouns = (F.normalize(torch.randn(m, d, generator=g), dim=1) for m in (len(study.data.classes), 500))
    own = q.model_dump(exclude={'rule', 'per_class'})
    return lambda: sample(q.rule, z, q.per_class, torch.Generator().manual_seed(0), anchors=anchors, label=0, noun_embeddings=nouns, temperature=study.latent_space.temperature, **own), 1


def timed(call, most=3, enough=20.):
    "Seconds of each of a few repeats, after one that is not counted; fewer repeats of slow calls."
    times = []
    for i in range(most+1):
        start = time.perf_counter()
        call()
        if torch.cuda.is_available(): torch.cuda.synchronize()
        times.append(time.perf_counter()-start)
        if i and sum(times) > enough: break
    return times[1:]


def others():
    "How busy the machine is with other things, in words; '' if it is quiet."
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    return f'beside other work (load {load:.1f} on {cores} cores before the start)' if load > .5 else ''


def measure(study, threads, made_by, busy, known=()):
    "A row for each piece of work that is not in `known`."
    torch.set_num_threads(threads)
    diffusers.utils.logging.set_verbosity_error()          # casting random weights needs no warning
    for (work, setting), what in needed(study).items():
        if (work, setting) in known: continue
        with torch.inference_mode(work not in ('train', 'sample')):
            call, n = job(study, work, what)
            try: times = [t/n for t in timed(call)]
            except DreamError as e:
                print(f'{work}, {setting}: not measured ({e})'); continue
        times.sort()
        row = dict(work=work, setting=setting, seconds=float(f'{times[len(times)//2]:.4g}'), per=UNITS[work], lowest=float(f'{times[0]:.4g}'), highest=float(f'{times[-1]:.4g}'),
                   repeats=len(times), device=device(), gpu=torch.cuda.is_available(), threads=threads, dtype=study.foundation.dtype if torch.cuda.is_available() and work in ('unet', 'decode', 'vae') else 'float32',
                   noise=busy, commit=made_by['commit'], date=made_by['time'][:10], torch=made_by['packages']['torch'])
        print(f"{work:7} {row['seconds']:.4g} s for one {row['per']} ({setting})", flush=True)
        yield row


def read(path=RATES):
    "All measured rates; none if there is no file."
    return pd.read_csv(path, keep_default_na=False) if Path(path).exists() else pd.DataFrame(columns=[*KEY, 'seconds', 'gpu'])


def parts(study, target):
    "The study alone, or those behind the paper's tables and figures."
    if target == 'table1': return [study]
    from dream_ood.paper import studies   # slow to import
    return list(studies(study).values())


def main(profile, path=RATES, again='', target='table1'):
    study, threads = load_profile(profile), int(os.environ.get('OMP_NUM_THREADS') or torch.get_num_threads())
    old = read(path)
    here = old[(old.device == device()) & (old.threads.astype(str) == str(threads))]
    known = set() if again else set(zip(here.work, here.setting))
    print(f'Measuring on {device()}, {threads} thread{"s"*(threads > 1)}' + (f', {others()}' if others() else ''))
    made_by, busy = provenance(), others()                         # before the first row changes the file, and the load
    for part in parts(study, target):
        for row in measure(part, threads, made_by, busy, known):   # written one by one: an interrupted call loses nothing
            known.add((row['work'], row['setting']))
            table = pd.concat([read(path), pd.DataFrame([row])], ignore_index=True).astype(dict(repeats=int, threads=int))
            save_table(path, table.drop_duplicates(KEY, keep='last').sort_values(KEY))
    print(f'Rates are in {Path(path).name}; `make plan PROFILE={profile}` uses them.')


if __name__ == '__main__':
    try: main(*sys.argv[1:])
    except DreamError as e: sys.exit(f'Error: {e}')
