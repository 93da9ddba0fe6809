"python .ci/package_holds.py SDIST WHEEL WHEEL: do they hold what they promise, and the two wheels the same?"
import json, sys, tarfile, zipfile

sdist, *wheels = sys.argv[1:]
PROMISED = ['dream_ood/shipped/nbs/04_sampling.ipynb', 'dream_ood/shipped/nbs/paper/table1.ipynb',
            'dream_ood/shipped/nbs/paper/recorded/table1.csv', 'dream_ood/shipped/nbs/shards/decoding.ipynb',
            'dream_ood/shipped/profiles/mini.yaml', 'dream_ood/shipped/profiles/base/mini.yaml',
            'dream_ood/shipped/profiles/profile.schema.json', 'dream_ood/shipped/profiles/imagenet900_nouns.csv',
            'dream_ood/shipped/workflow/Snakefile', 'dream_ood/shipped/workflow/rules/common.smk',
            'dream_ood/assets/rates.csv', 'dream_ood/assets/templates/',
            'dream_ood/assets/foundation/unet/diffusion_pytorch_model.safetensors', 'dream_ood/assets/images/fashion/']
a, b = ({i.filename: i.CRC for i in zipfile.ZipFile(w).infolist()} for w in wheels)
assert a == b, f'the wheels differ: {sorted({*a.items()} ^ {*b.items()})}'
missing = [p for p in PROMISED if not any(n.startswith(p) for n in a)]
assert not missing, f'the wheel lacks {missing}'
strange = [n for n in a if not n.startswith(('dream_ood/', 'dream_ood-')) or '__pycache__' in n]
assert not strange, f'the wheel has {strange}'
with zipfile.ZipFile(wheels[0]) as z:
    shown = [n for n in a if n.endswith('.ipynb') and any(c.get('outputs') for c in json.loads(z.read(n))['cells'])]
assert not shown, f'notebooks with outputs: {shown}'
with tarfile.open(sdist) as t: inside = {n.partition('/')[2] for n in t.getnames()}
missing = {'settings.ini', 'setup.py', 'pyproject.toml', 'README.md', 'LICENSE', 'CHANGELOG.md', 'CITATION.cff',
           'requirements/lock.txt', 'requirements/lowest.txt', 'profiles/profile.schema.json'} - inside
assert not missing, f'the sdist lacks {missing}'
print(f'{len(a)} files in the wheel, {len(inside)} in the sdist')
