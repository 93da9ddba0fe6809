"""What a study would take, without computing anything: `python tools/plan.py PROFILE SEEDS RUNS [ROW] [TARGET] [RATES.csv]`.

Whether its images and its foundation are there, the graph of stages, images drawn, trained on and scored, disk, and hours
estimated from the rates in tools/rates.csv. With TARGET `paper`, of each study behind the paper's tables and figures."""
import re, shutil, sys
from pathlib import Path
from types import SimpleNamespace

import torch
from huggingface_hub import try_to_load_from_cache
import rates
from dream_ood.data import id_set, ood_sets, shift_sets, validation_outliers, wide_set
from dream_ood.dream_id import SHIFTS
from dream_ood.detectors import reads_features
from dream_ood.foundation import model_source
from dream_ood.networks import make_backbone
from dream_ood.core import DreamError, nice, resolve
from dream_ood.settings import MADE
from dream_ood.study import load_profile, only
from dream_ood.runs import NOTEBOOKS, Run, STAGES
from dream_ood.training import make_plan

# Images that a dataset has, for sets that are not here; of folders and lists: ImageNet's (1,300 training and 50 test images a class), and 10,000 of an OOD set
KNOWN = dict(cifar10=dict(train=50000, test=10000), cifar100=dict(train=50000, test=10000), mnist=dict(train=60000, test=10000), fashion_mnist=dict(train=60000, test=10000),
             svhn=dict(train=73257, test=26032), dtd=dict(train=1880, val=1880, test=1880), places365=dict(train=1803460, val=36500, test=328500))


def expected(study, role, src):
    "How many images a set that is not here will have."
    C, splits = len(study.data.classes), KNOWN.get(src.kind)
    own = role in ('ID train', 'ID validation', 'ID test')
    whole = (sum(splits.values()) if src.split == 'all' else splits.get(src.split, 0)) if splits else C*(1300 if role == 'ID train' else 50) if own else 10000
    if not own: return min(whole, src.per_class or whole)
    most = study.data.train_per_class if role == 'ID train' else None
    return C*max(1, min(whole//C-src.exclude_first, src.per_class or whole, most or whole)) if src.per_class or src.exclude_first or most else whole


def elsewhere(study):
    "The sets that Dream-ID is tried on under shift, where a study does that."
    return study.dream_id.shift_sets or {} if study.dream_id.shifts else {}


def images(study):
    "(name -> number of images, name -> what is said of a set that is missing, training images of the smallest class or None)."
    d, found, missing, least = study.data, {}, {}, None
    roles = {f'ID {s}': (getattr(d, s), lambda s=s: id_set(study.data, s)) for s in ('train', 'validation', 'test')}
    if d.wide: roles['wide'] = d.wide, lambda: wide_set(study.data)
    if d.validation_outliers: roles['validation outliers'] = d.validation_outliers, lambda: validation_outliers(study.data)
    for n, src in d.ood.items():
        one = study.model_copy(update=dict(data=d.model_copy(update=dict(ood={n: src}))))
        roles[n] = src, lambda one=one, n=n: ood_sets(one.data)[n]
    for n, src in elsewhere(study).items():
        alone = study.model_copy(update=dict(dream_id=study.dream_id.model_copy(update=dict(shift_sets={n: src}))))
        roles[n] = src, lambda alone=alone, n=n: shift_sets(alone.dream_id.shift_sets, alone.data)[n]
    for n, (src, load) in roles.items():
        src = src if src.download is None else src.model_copy(update=dict(download=None))
        try:
            images = load()
            found[n] = len(images)
            if n == 'ID train': least = min((int(c), name) for c, name in zip(images.labels.bincount(minlength=len(d.classes)), d.classes))
        except DreamError as e: found[n], missing[n] = expected(study, n, src), str(e)
    return found, missing, least


def too_few(study, least):
    "What the smallest class has too few training images for: (images, its name) -> sentences."
    (has, name), cfg = least, study.dream_id
    asked = {f'sampling.pools.{p}.k': q.k+1 for p, q in study.sampling.pools.items() if 'k' in rates.parameters_of(q.rule)}
    asked |= {f'dream_id.sizes.{real}': real for real in cfg.sizes} if cfg.sizes else {'dream_id.real_per_class': cfg.real_per_class}
    return [f'{key} needs {n:,} training images of each class, and {name!r} has {has:,}: lower it, or add images.' for key, n in asked.items() if n > has]


def foundation(study):
    "What is said of a foundation that is missing, else ''."
    how = study.foundation
    try: source = model_source(how.model)
    except DreamError as e: return str(e)
    if Path(source).is_dir(): return ''
    there = [isinstance(try_to_load_from_cache(source, f, revision=how.revision), str) for f in ('model_index.json', 'unet/diffusion_pytorch_model.safetensors')]
    return '' if all(there) else (f'foundation: {source!r} is not on this machine: it is fetched from the Hugging Face hub when the graph runs (some GB), or before by '
                                  f'`hf download {source}`; or name a local folder in foundation.model.')


def drawn(study):
    "Images of each decoded pool, of one seed: pool -> (images, solver steps, guided)."
    C, out = len(study.data.classes), {}
    for n, q in study.decoding.pools.items():
        rule, own = study.rule(n), study.for_pool(n).decoding
        out[n] = C*(q.per_class or rule.per_class), own.steps, own.guidance > 1
    return out


def work(study, n):
    "Stage -> what it does in one seed: [(words, rate, amount)]; rate: a kind of tools/rates.py, or None for what is not timed."
    d, t, C = study.data, study.training, len(study.data.classes)
    pools = drawn(study)
    shown = min(20, C)*6
    b = min(study.latent_space.batch_size, n['ID train'])
    seen = study.latent_space.epochs*(n['ID train']//b)*b
    plans = {c: (make_plan(SimpleNamespace(profile=study), how, n['ID train']), how) for c, how in t.contenders.items()}
    trained = {}
    for c, (p, how) in plans.items(): trained[study.backbone(c)] = trained.get(study.backbone(c), 0) + p.steps*(p.batch_size+(p.outliers if how.outliers and how.outliers not in MADE else 0))
    again = min(2000, n['ID train']) if t.finetune.vae_fraction else 0
    inliers = study.dream_id
    conditions = 2+any(q.source == 'class_names' for q in study.decoding.pools.values())+len(inliers.augment or ())
    sizes = inliers.sizes or {inliers.real_per_class: inliers.steps}
    few = min(250*C, n['ID test'])
    test = min(n['ID test'], C*inliers.test_per_class) if inliers.test_per_class else n['ID test']
    each = sum(v for k, v in n.items() if k not in ('ID train', 'wide', *(inliers.shift_sets or ()))) + few + next((i for p, (i, *_) in pools.items() if study.decoding.pools[p].source == 'class_names'), 0)
    readers = {m.contender: any(reads_features(x.detector) for x in study.evaluation.methods.values() if x.contender == m.contender) for m in study.evaluation.methods.values()}
    scored = {}
    for c, fit in readers.items(): scored[study.backbone(c)] = scored.get(study.backbone(c), 0) + each + n['ID train']*fit
    def draw(images, steps, guided): return [('images drawn', 'decode', images), ('', 'unet', images*steps*(1 if guided else .5))]
    return dict(
        data=[('images listed', None, sum(n.values()))],
        foundation=draw(shown, study.decoding.steps, study.decoding.guidance > 1),
        latent_space=[('images trained on', 'train encoder', seen), ('images read', 'score encoder', n['ID train']+study.latent_space.epochs*n['ID validation'])],
        sampling=[(f'embeddings ({p})', ('sample', rates.rule_setting(q), C), C*q.per_class) for p, q in study.sampling.pools.items()],
        decoding=[x for p in pools.values() for x in draw(*p)],
        training=[*(('images trained on', f'train {b}', v) for b, v in trained.items()), ('through the autoencoder', 'vae', again)],
        dream_id=[('images trained on', 'train', sum(conditions*inliers.repeats*steps*min(inliers.batch_size, C*real) for real, steps in sizes.items())),
                  ('images scored', 'score', len(sizes)*conditions*inliers.repeats*(test*(1+5*len(SHIFTS) if inliers.shifts else 1)+sum(n[k] for k in elsewhere(study))))],
        evaluation=[*(('images scored', f'score {b}', v) for b, v in scored.items()), ('through the autoencoder', 'vae', few)])


def bytes_of(study, n, width):
    "Artifact -> bytes of one seed."
    C, px = len(study.data.classes), study.data.image_size**2*(1 if study.data.greyscale else 3)
    with torch.device('meta'):
        encoder, net = make_backbone(study.latent_space.backbone, width, study.data.image_size), make_backbone(study.training.backbone, C, study.data.image_size)
    def weights(m): return 4*sum(p.numel() for p in m.parameters())
    contenders = {m.contender for m in study.evaluation.methods.values()}
    kept = sum(v for k, v in n.items() if k not in ('wide', *(study.dream_id.shift_sets or ())))
    return {'latent_space: embeddings, encoder': 4*width*n['ID train']+weights(encoder),
            'sampling: embeddings': sum(C*q.per_class*(4*width+20) for q in study.sampling.pools.values()),
            'decoding: images (PNG, half a byte for a byte of pixels)': sum(i for i, *_ in drawn(study).values())*px//2,
            'training: classifiers': len(study.training.contenders)*weights(net) + (min(2000, n['ID train'])*px if study.training.finetune.vae_fraction else 0),
            'evaluation: images of the autoencoder': min(250*C, n['ID test'])*px,
            'outputs: logits and features': 4*len(contenders)*kept*(C+net.num_features)}


def lookup(study, table):
    "(kind of rate, amount) -> seconds on a device; None if it was not measured there."
    p = study.data.image_size
    settings = dict(list(rates.needed(study))) | {'train': f'{study.training.backbone}, {p} pixels', 'score': f'{study.training.backbone}, {p} pixels',
                 'train encoder': f'{study.latent_space.backbone}, {p} pixels', 'score encoder': f'{study.latent_space.backbone}, {p} pixels'}
    seconds = {(r.work, r.setting): r.seconds for r in table.itertuples()}
    settings |= {f'{w} {b}': f'{b}, {p} pixels' for w in ('train', 'score') for b in {study.backbone(c) for c in study.training.contenders}}
    def of(rate, amount):
        if rate is None or not amount: return 0.
        if isinstance(rate, tuple): key, amount = rate[:2], rate[2]
        else: key = rate.split()[0], settings.get(rate)
        return seconds[key]*amount if key in seconds else None
    return of


def short(n): return f'{n:,.0f}'
def size(b): return f'{b/1e9:,.1f} GB' if b > 5e7 else f'{b/1e6:,.1f} MB'
def hours(s): return '?' if s is None else f'{s/3600:,.1f} h' if s >= 3600 else f'{s/60:.0f} min' if s >= 60 else '< 1 min' if s else '-'


def total(parts): return None if any(p is None for p in parts) else sum(parts)


def columns(rows, right=()):
    "Rows of words, one under another."
    wide = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    return '\n'.join('  ' + '  '.join(c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(r, wide))).rstrip() for r in rows)


def todo(study, seeds, runs, stage): return sum(not Run(study, s, runs).stage(stage).done for s in seeds)
def counted(n, word): return f'{n} {word}{"s"*(n != 1)}'


def graph(study, seeds, runs, did, stages):
    rows = [('stage', 'reads', 'runs', 'to do', 'work of one run')]
    for stage in stages:
        reads = STAGES[stage][1]
        said = {}
        for words, _, amount in did[stage]:
            if words and amount: said[words] = said.get(words, 0)+amount
        rows.append((NOTEBOOKS[stage], ', '.join(reads) or 'profile', str(len(seeds)), str(todo(study, seeds, runs, stage)), '; '.join(f'{short(v)} {w}' for w, v in said.items())))
    return columns(rows, (2, 3))


def estimate(study, seeds, runs, did, table, stages):
    "A row a stage and a column a device, and what has to be said of them; device -> (seconds of all that is to do, whether some are unknown)."
    devices = table.groupby(['device', 'threads'], sort=False)
    heads, cols, notes, sums, undone = [], [], [], {}, [todo(study, seeds, runs, s) for s in stages]
    for (device, threads), rows in devices:
        of = lookup(study, rows)
        per = [total([of(rate, amount) for _, rate, amount in did[s]]) for s in stages]
        if all(x in (None, 0.) for x in per): continue
        gpu = str(rows.gpu.iloc[0]) == 'True'
        heads.append(device if gpu else f'{device}, {threads} thread{"s"*(int(threads) > 1)}')
        least = '> ' if None in per else ''
        left = [x*n for x, n in zip(per, undone) if x is not None]
        cols.append([*map(hours, per), *(least+hours(x) for x in (sum(x for x in per if x is not None), sum(left)))])
        sums[heads[-1]] = sum(left), None in per
        noise = sorted({x for x in rows.noise if x})
        notes.append(f"{heads[-1]}: measured {', '.join(sorted(set(rows.date)))} at commit {', '.join(sorted(set(rows.commit)))}" + (f", {noise[0].split(' (')[0]}, so the rates are noisy" if noise else '') + '.')
    if not heads: return '  No rate of this study was measured yet: `make rates` with this PROFILE measures them on the machine at hand.', {}
    rows = [('hours of one run', *heads), *((n, *(c[i] for c in cols)) for i, n in enumerate([*(NOTEBOOKS[s] for s in stages), 'one seed', 'all that is to do']))]
    if not (table.gpu.astype(str) == 'True').any(): notes.append('No rate was measured on a GPU yet: the hours are those of the device named, and GPU-hours are unknown until `make rates` has run on one.')
    notes.append('?: not measured. Left out: reading images, pictures, and the start of each notebook (some seconds).')
    return columns(rows, range(1, len(heads)+1)) + '\n' + '\n'.join(f'  {n}' for n in notes), sums


def with_upstream(stages):
    "These stages and all that they read, in their order."
    wanted = set(stages)
    while more := {n for s in wanted for n in STAGES[s][1]}-wanted: wanted |= more
    return [s for s in STAGES if s in wanted]


def targets(study, target):
    "What a target runs: [(study, stages)], and the pages that it ends in."
    if target == 'table1': return [(study, list(STAGES))], ['table1']
    from dream_ood.paper import PAPER, needs, studies
    parts, one = studies(study), target.partition('/')[2]
    if target.partition('/')[0] != 'paper' or one and one not in PAPER: raise DreamError(f'There is no target {target!r} to plan: use table1, paper, or paper/ and one of {", ".join(PAPER)}.')
    pages = [one] if one else list(PAPER)
    read = {n: {t for p in pages for t in needs(study, p).get(n, ())} for n in parts}
    return [(parts[n], with_upstream(ts)) for n, ts in read.items() if ts], pages + ['claims']*(not one)


def report(study, stages, seeds, runs, n, path):
    "The graph, the disk and the hours of one study."
    counts = counted(len(study.training.contenders), 'classifier') + ', ' + counted(len(study.evaluation.methods), 'row') if 'evaluation' in stages else 'no classifier'
    print(f'\n== Study {study.name}: {len(study.data.classes)} classes, {len(study.data.ood)} OOD sets, {counts}; seeds {", ".join(map(str, seeds))}')
    did = work(study, n)
    print('\nThe graph\n' + graph(study, seeds, runs, did, stages))
    use = bytes_of(study, n, width(study))
    there = resolve(runs)
    while not there.exists(): there = there.parent
    print('\nDisk\n' + columns([(k, size(v)) for k, v in use.items()] + [('one seed', size(sum(use.values()))), (counted(len(seeds), 'seed')+', all', size(len(seeds)*sum(use.values()))), (f'free at {nice(resolve(runs))!r}', size(shutil.disk_usage(there).free))], (1,)))
    text, seconds = estimate(study, seeds, runs, did, rates.read(path), stages)
    print('\nHours, estimated from measured rates\n' + text)
    return sum(i for i, *_ in drawn(study).values())*len(seeds), len(seeds)*sum(use.values()), seconds


def main(profile, seeds='0,1,2', runs='_runs', row='', target='table1', path=rates.RATES):
    study = load_profile(profile)
    if row: study = only(study, [row])
    if not re.fullmatch(r'\d+(,\d+)*', seeds): raise DreamError(f'SEEDS is {seeds!r}: give whole numbers with commas between, such as SEEDS=0,1,2.')
    seeds = [int(s) for s in seeds.split(',')]
    parts, pages = targets(study, target)
    n, missing, least = images(next((s for s, _ in parts if elsewhere(s)), study))
    no_model = foundation(study)
    print(f'Profile {study.name}, target {target}. Nothing is computed here.')
    print('\nWhat has to be there')
    for m in [no_model, *missing.values()]:
        if m: print(f'  MISSING  {m}')
    for m in dict.fromkeys(m for s, _ in parts for m in too_few(s, least)) if least else (): print(f'  TOO FEW  {m}')
    if not missing and not no_model: print('  The foundation and every image set are there.')
    print('\nImages\n' + columns([(k, ('about ' if k in missing else '')+short(v)) for k, v in n.items()], (1,)))
    if missing: print('  "about": what the set is expected to have when it is there.')
    made = [report(s, stages, seeds, runs, n, path) for s, stages in parts]
    notebooks = sum(len(seeds)*len(stages) for _, stages in parts)
    print(f'\nIn all: {counted(len(parts), "study").replace("studys", "studies")}, {notebooks} runs of stages for {counted(len(seeds), "seed")}, {counted(len(pages), "page")} of results; {short(sum(i for i, *_ in made))} images to draw, {size(sum(b for _, b, _ in made))} of disk')
    for d in dict.fromkeys(d for *_, sums in made for d in sums):
        each = [sums.get(d, (0, True)) for *_, sums in made]
        print(f'  on {d}: {"> " if any(unknown for _, unknown in each) else ""}{hours(sum(s for s, _ in each))}')
    return 0


def width(study):
    "Of the token embeddings; that of Stable Diffusion 1.x if the foundation is not here."
    try: return rates.part(study, 'unet').config.cross_attention_dim
    except (DreamError, OSError): return 768


if __name__ == '__main__':
    try: sys.exit(main(*sys.argv[1:]))
    except DreamError as e: sys.exit(f'Error: {e}')
