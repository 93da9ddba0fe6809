"The README's program runs from the package alone: in an empty folder, without a profile, a run or a checkout."
import os, re, subprocess, sys
from pathlib import Path
import pytest
import dream_ood

ROOT = Path(__file__).parent.parent
GIVEN = """
from dream_ood.data import load_images
from dream_ood.settings import ImageFormat, Source
def some(path, n, names):
    source = Source(kind='sheets', path=path, select=names, per_class=n)
    s = load_images(path, source, ImageFormat(image_size=32, greyscale=True), names)
    return s.images, s.labels
mine = (('train', 100), ('validation', 30), ('test', 60))
(x, y), (x2, y2), (x3, y3) = (some(f'fashion/{p}', n, ['coat', 'boot', 'dress']) for p, n in mine)
strange = some('held_out/test', 100, ['bag'])[0]
"""

def program():
    "The block of the section As a library."
    text = (ROOT/'README.md').read_text().split('## As a library')[1]
    return re.search(r'```python\n(.*?)```', text, re.S)[1]

def test_the_program_is_some_ten_lines():
    lines = [l for l in program().splitlines() if l.strip()]
    assert len(lines) <= 12 and all(len(l) <= 120 for l in lines)
    assert not re.search(r'profile|\.yaml|Run\b', program())

def test_the_program_says_fpr95_in_an_empty_folder(tmp_path):
    (tmp_path/'empty').mkdir()
    quick = program().replace("LatentSpace(backbone='resnet_mini')", "LatentSpace(backbone='resnet_mini', epochs=3)") \
                     .replace('per_class=20', 'per_class=8').replace("backbone='resnet_mini')\ndoubt",
        "backbone='resnet_mini', epochs=3, steps=40)\ndoubt")
    assert quick.count('epochs=3') == 2
    env = os.environ | dict(HF_HUB_OFFLINE='1', PYTHONPATH=os.environ.get('DREAM_OOD_WHEEL', str(ROOT)))
    r = subprocess.run([sys.executable, '-c', GIVEN + quick], cwd=tmp_path/'empty', env=env,
                       capture_output=True, text=True)
    assert r.returncode == 0, r.stderr
    assert 0 <= float(r.stdout.split()[-1]) <= 1
    assert list((tmp_path/'empty').iterdir()) == []

def test_the_names_of_the_package():
    assert 10 <= len(dream_ood.__all__) <= 20
    for name in dream_ood.__all__: assert getattr(dream_ood, name).__doc__, name
    with pytest.raises(AttributeError, match='no attribute'): dream_ood.magic

def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, dream_ood; sys.exit(len({'torch', 'diffusers', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True,
                          env=os.environ | dict(PYTHONPATH=str(ROOT))).returncode == 0

def test_own_embeddings_can_be_sampled_alone():
    import torch
    from dream_ood import sample
    z = torch.nn.functional.normalize(torch.randn(300, 512, generator=torch.Generator().manual_seed(0)), dim=1)
    s = sample('knn', z, 20, torch.Generator().manual_seed(1), k=20, select=30, candidates=50, keep=5, sigma=.1)
    assert s.z.shape == (20, 512) and torch.allclose(s.z.norm(dim=1), torch.ones(20), atol=1e-4)
