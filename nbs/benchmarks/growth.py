"""Measure how the processor time and the peak memory of each stage grow, for growth.ipynb.

    python nbs/benchmarks/growth.py [OUT.csv]           # minutes; a killed call goes on where it was
    python nbs/benchmarks/growth.py --one KIND N        # one point, as JSON

Every point is measured in a process of its own, on one thread: the processor time of the work alone (imports, made-up
inputs and a first call at the smallest size left out), which other work on the machine changes little, and by how much
the memory of the process rose at most. Needs Linux.
"""
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.update(OMP_NUM_THREADS='1', HF_HUB_OFFLINE='1', TQDM_DISABLE='1')
SIZES = dict([      # what grows: how many of them
    ('images read', [1000, 2000, 4000, 8000]),
    ('images embedded', [1000, 2000, 4000, 8000]),
    ('images the encoder trains on', [500, 1000, 2000, 4000]),
    ('embeddings of a class', [400, 800, 1600, 3200, 6400]),
    ('outliers of a class', [125, 250, 500, 1000]),
    ('images drawn', [25, 50, 100, 200]),
    ('steps of fine-tuning', [10, 20, 40, 80]),
    ('images spoilt and scored', [100, 200, 400, 800]),
    ('images scored', [1000, 2000, 4000, 8000]),
    ('features k-NN searches', [2000, 4000, 8000, 16000])])

def work(kind, n):
    "A call to be measured; what it needs is there before."
    import torch
    from dream_ood.data import id_set
    from dream_ood.study import load_profile
    torch.set_num_threads(1)
    p = load_profile('profiles/mini.yaml')
    d, g = p.data, torch.Generator().manual_seed(0)
    def train(n): return id_set(d, 'train').subset(torch.randperm(12800, generator=g)[:n])
    if kind == 'images read':
        import numpy as np
        from PIL import Image
        from dream_ood.data import pool_set
        folder = Path(tempfile.mkdtemp())
        for i in range(n):
            f = folder/f'class{i%8}'/f'{i:06}.png'
            f.parent.mkdir(exist_ok=True)
            Image.fromarray(np.random.default_rng(i).integers(0, 255, (64, 64, 3), dtype='uint8')).save(f)
        return lambda: pool_set(folder, [f'class{i}' for i in range(8)]).pixels(32)
    if kind == 'images embedded':
        from dream_ood.latent_space import embed, make_encoder
        encoder, ds = make_encoder('resnet_mini', 128, 32), train(n)
        return lambda: embed(encoder, ds, d)
    if kind == 'images the encoder trains on':
        from dream_ood.latent_space import train_encoder
        ds, few = train(n), id_set(d, 'validation').subset(range(16))
        return lambda: train_encoder(p.latent_space, torch.randn(8, 128, generator=g), ds, few, d, epochs=1)
    if kind in ('embeddings of a class', 'outliers of a class'):
        from dream_ood.planning import a_class
        from dream_ood.sampling import sample
        z = a_class(n if kind == 'embeddings of a class' else 1300, 768)
        m = 100 if kind == 'embeddings of a class' else n
        return lambda: sample('knn', z, m, g, k=300, select=200, candidates=1000, keep=5, sigma=.03)
    if kind == 'images drawn':
        from dream_ood.foundation import draw, load_foundation
        pipe = load_foundation('bundled')
        size = p.decoding.batch_size
        def batches():
            for i in range(0, n, size): draw(pipe, ['coat']*min(size, n-i), steps=p.decoding.steps)
        return batches
    if kind == 'steps of fine-tuning':
        from dream_ood.settings import Contender, Finetune
        from dream_ood.training import fresh_classifier, train_contender
        net, out = fresh_classifier('resnet_mini', 8, 32), train(500)
        t = p.training.model_copy(update=dict(finetune=p.training.finetune.model_copy(update=dict(steps=n))))
        return lambda: train_contender(t, Contender(start='x'), net, train(4000), d, out)
    net = __import__('dream_ood.training').training.fresh_classifier('resnet_mini', 8, 32).eval()
    if kind == 'images spoilt and scored':
        from dream_ood.dream_id import under_shift
        ds = train(n)
        return lambda: under_shift(net, ds, {}, d)
    from dream_ood.detectors import Outputs, fit_detector, outputs
    if kind == 'images scored':
        ds = train(n)
        return lambda: outputs(net, ds, d)
    bank, new = (Outputs(*(torch.randn(m, w, generator=g) for w in (8, 128)), torch.arange(m) % 8) for m in (n, 1000))
    return lambda: fit_detector('knn', torch.nn.Linear(128, 8), bank)(new)

def one(kind, n):
    "Processor seconds and megabytes of one point, after the same at the smallest size, which compiles what is compiled."
    work(kind, SIZES[kind][0])()
    call = work(kind, n)
    Path('/proc/self/clear_refs').write_text('5')       # the peak is counted from here
    before, start = memory('VmRSS'), time.process_time()
    call()
    return dict(seconds=time.process_time()-start, megabytes=memory('VmHWM')-before)

def memory(what):
    "Megabytes that this process has (VmRSS), or had at most (VmHWM)."
    return int(re.search(rf'{what}:\s+(\d+)', Path('/proc/self/status').read_text())[1])/1024

def main(out):
    import pandas as pd
    from dream_ood.core import save_table
    from dream_ood.planning import device
    from dream_ood.runs import provenance
    made = provenance()
    rows = pd.read_csv(out).to_dict('records') if Path(out).exists() else []
    done = {(r['kind'], r['n'], r['repeat']) for r in rows}
    for repeat in range(1):
        for kind, sizes in SIZES.items():
            for n in sizes:
                if (kind, n, repeat) in done: continue
                r = subprocess.run([sys.executable, __file__, '--one', kind, str(n)], capture_output=True, text=True)
                if r.returncode: raise SystemExit(r.stderr)
                rows.append(dict(kind=kind, n=n, repeat=repeat, **json.loads(r.stdout.splitlines()[-1]), device=device(),
                                 commit=made['commit'], date=made['time'][:10]))
                save_table(Path(out), pd.DataFrame(rows))
                print(kind, n, f"{rows[-1]['seconds']:.2f} s, {rows[-1]['megabytes']:.0f} MB", flush=True)

if __name__ == '__main__':
    if sys.argv[1:2] == ['--one']: print(json.dumps(one(sys.argv[2], int(sys.argv[3]))))
    else: main(sys.argv[1] if sys.argv[1:] else 'nbs/benchmarks/recorded/growth.csv')
