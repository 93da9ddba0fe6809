"The website and README.md from the notebooks: `python tools/docs.py site` or `python tools/docs.py readme`."
import re, shutil, subprocess, sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter
from nbdev.config import get_config
from nbdev.processors import FilterDefaults
from nbdev.serve import proc_nbs
from nbdev.serve_drv import exec_nb
from traitlets.config import Config

ROOT = Path(__file__).resolve().parent.parent
QUIET = Config(TagRemovePreprocessor=dict(enabled=True, remove_input_tags={'remove-input'}))
NUMBERED = re.compile(r'\b\d+_(\w+)\.(ipynb|html)\b')    # 04_sampling.ipynb is the page sampling.html


def drop_numbers(proc):
    "Rename numbered notebooks and every link to them: nbdev's cross-links count on it, and smalldocs leaves it to us."
    for f in [*proc.rglob('*.ipynb'), proc/'_quarto.yml']:
        text = NUMBERED.sub(r'\1.\2', f.read_text())
        f.write_text(re.sub(r'output-file: [\w.]+\\n', '', text))
    for f in proc.rglob('[0-9]*_*.ipynb'): f.rename(f.with_name(NUMBERED.sub(r'\1.\2', f.name)))


def fold_imports(proc):
    "Cells that only import are folded: a reader opens them at need."
    for f in proc.rglob('*.ipynb'):
        nb = nbformat.read(f, 4)
        for c in nb.cells:
            lines = [l for l in c.source.splitlines() if l.strip() and not l.startswith('#|')]
            if c.cell_type == 'code' and lines and all(re.match('(import|from) ', l) for l in lines):
                c.source = '#| code-fold: true\n#| code-summary: imports\n' + c.source
        nbformat.write(nb, f)


def site():
    "Build the website into _docs/: Quarto renders it where it is installed, smalldocs elsewhere, both from _quarto.yml."
    proc, docs = proc_nbs(force=True), ROOT/'_docs'
    (proc/'_quarto.yml').write_text((ROOT/'_quarto.yml').read_text())
    drop_numbers(proc)
    fold_imports(proc)
    command = ['quarto', 'render', '--no-execute'] if shutil.which('quarto') else [str(Path(sys.executable).with_name('smalldocs')), 'render', '--quiet']
    print('Rendering with', Path(command[0]).name)
    if code := subprocess.run(command, cwd=proc).returncode: return code
    shutil.rmtree(docs, ignore_errors=True)
    shutil.move(proc/'_docs', docs)
    pages = sorted(docs.rglob('*.html'))
    print(f'{len(pages)} pages: open {docs.relative_to(ROOT)}/index.html')
    return 0


def readme():
    "Write README.md and its pictures (index_files/) from nbs/index.ipynb, by nbconvert: the same with and without Quarto."
    processed, pictures = ROOT/'_proc'/'readme.ipynb', ROOT/'index_files'
    processed.parent.mkdir(exist_ok=True)
    exec_nb(get_config().nbs_path/'index.ipynb', processed, FilterDefaults)
    text, resources = MarkdownExporter(config=QUIET).from_filename(str(processed), {'output_files_dir': pictures.name, 'unique_key': 'index'})
    processed.unlink()
    shutil.rmtree(pictures, ignore_errors=True)
    pictures.mkdir()
    for name, data in resources['outputs'].items(): (ROOT/name).write_bytes(data)
    (ROOT/'README.md').write_text(re.sub(r'\n{3,}', '\n\n', text).strip() + '\n')


if __name__ == '__main__':
    sys.exit(dict(site=site, readme=readme)[sys.argv[1]]())
