"The website and README.md from the notebooks: `python tools/docs.py site` or `python tools/docs.py readme`."
import re, shutil, subprocess, sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter
from nbdev.config import get_config
from nbdev.serve import proc_nbs
from traitlets.config import Config

ROOT = Path(__file__).resolve().parent.parent
QUIET = Config(TagRemovePreprocessor=dict(enabled=True, remove_input_tags={'remove-input'}))
NUMBER = re.compile(r'\b\d+_(\w+\.ipynb)\b')                       # 04_sampling.ipynb is the page sampling.html,
LINK = re.compile(r'(\]\((?:[.\w]+/)*)\d+_(\w+)\.(ipynb|html)')    # in links too, but not in what is said


def drop_numbers(proc):
    "Rename numbered notebooks and every link to them: nbdev's cross-links count on it, and smalldocs leaves it to us."
    (proc/'_quarto.yml').write_text(NUMBER.sub(r'\1', (ROOT/'_quarto.yml').read_text()))
    home = get_config().doc_host + get_config().doc_baseurl + '/'
    for f in proc.rglob('*.ipynb'):
        text = LINK.sub(r'\1\2.\3', f.read_text()).replace(home, '../'*(len(f.relative_to(proc).parts) - 1))
        f.write_text(re.sub(r'output-file: [\w.]+\\n', '', text))
        f.rename(f.with_name(NUMBER.sub(r'\1', f.name)))


def dress(proc):
    "Fold cells that only import, and give cells that define something its name as an anchor: cross-links point there."
    for f in proc.rglob('*.ipynb'):
        nb, named = nbformat.read(f, 4), set()
        for c in nb.cells:
            lines = [l for l in c.source.splitlines() if l.strip() and not l.startswith('#|')]
            names = [n.lower() for n in re.findall(r'^(?:def|class) (\w+)', c.source, re.M)]
            if c.cell_type != 'code' or not lines: continue
            if all(re.match('(import|from) ', l) for l in lines): c.source = '#| code-fold: true\n#| code-summary: imports\n' + c.source
            elif names and names[0] not in named: c.source = f'#| label: {names[0]}\n' + c.source
            named.update(names[:1])
        nbformat.write(nb, f)


def site():
    "Build the website into _docs/: Quarto renders it where it is installed, smalldocs elsewhere, both from _quarto.yml."
    from dream_ood.decoding import write_gallery   # slow to import, and README.md needs it not
    from dream_ood.core import load_json
    proc, docs = proc_nbs(force=True), ROOT/'_docs'
    for f in (proc/'paper'/'recorded').rglob('*.md'): f.unlink()   # tables kept for their own sake: the pages show them
    drop_numbers(proc)
    dress(proc)
    command = ['quarto', 'render', '--no-execute'] if shutil.which('quarto') else [str(Path(sys.executable).with_name('smalldocs')), 'render', '--quiet']
    print('Rendering with', Path(command[0]).name)
    if code := subprocess.run(command, cwd=proc).returncode: return code
    shutil.rmtree(docs, ignore_errors=True)
    shutil.move(proc/'_docs', docs)
    write_gallery(docs/'gallery.html', load_json(ROOT/'nbs'/'paper'/'recorded'/'gallery.json'))
    pages = sorted(docs.rglob('*.html'))
    print(f'{len(pages)} pages: open {docs.relative_to(ROOT)}/index.html')
    return 0


def readme():
    "Write README.md and its pictures (index_files/) from nbs/index.ipynb, by nbconvert: the same with and without Quarto."
    nb, pictures = nbformat.read(ROOT/'nbs'/'index.ipynb', 4), ROOT/'index_files'
    nb.metadata['language_info'] = {'name': 'python'}
    text, resources = MarkdownExporter(config=QUIET).from_notebook_node(nb, {'output_files_dir': pictures.name, 'unique_key': 'index'})
    shutil.rmtree(pictures, ignore_errors=True)
    for name, data in resources['outputs'].items():
        pictures.mkdir(exist_ok=True)
        (ROOT/name).write_bytes(data)
    text = re.sub(r'[ \t]+\n', '\n', text).replace('![png]', '![result]')
    text = re.sub(r'\]\(([\w/]+\.ipynb)\)', r'](nbs/\1)', text)
    (ROOT/'README.md').write_text('<!-- made from nbs/index.ipynb by `make readme` -->\n\n' + re.sub(r'\n{3,}', '\n\n', text).strip() + '\n')


if __name__ == '__main__':
    sys.exit(dict(site=site, readme=readme)[sys.argv[1]]())
