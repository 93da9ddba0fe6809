"""Everything is said in settings.ini; this only passes it on to setuptools.

A wheel brings the notebooks, profiles and workflow too, as dream_ood/shipped/: `dream-ood reproduce` runs them where
there is no checkout (dream_ood.core.SHIPPED). What they showed when they were last run stays behind."""
import json
import shutil
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

SHIPPED = ['nbs/**/*.ipynb', 'nbs/**/*.csv', 'nbs/paper/recorded/**/*', 'nbs/guide/recorded/*',
           'profiles/**/*.yaml', 'profiles/*.csv', 'profiles/*.json', 'workflow/**/*']
STATUS = {'3': '3 - Alpha', '4': '4 - Beta', '5': '5 - Production/Stable'}


def without_outputs(notebook):
    "A notebook's text without what its cells showed."
    nb = json.loads(notebook.read_text(encoding='utf-8'))
    for c in nb['cells']:
        if c['cell_type'] == 'code': c['outputs'], c['execution_count'] = [], None
    return json.dumps(nb, indent=1, ensure_ascii=False) + '\n'


class build_with_studies(build_py):
    "Copy what SHIPPED names, in a wheel; an editable install uses the checkout's own."
    def run(self):
        super().run()
        if self.editable_mode: return
        files = {f for pattern in SHIPPED for f in Path().glob(pattern) if f.is_file()}
        for f in (f for f in files if not {'.ipynb_checkpoints', '__pycache__'} & {*f.parts}):
            to = Path(self.build_lib)/'dream_ood'/'shipped'/f
            to.parent.mkdir(parents=True, exist_ok=True)
            if f.suffix == '.ipynb': to.write_text(without_outputs(f), encoding='utf-8')
            else: shutil.copyfile(f, to)


config = ConfigParser(delimiters=['='])
config.read('settings.ini', encoding='utf-8')
cfg = config['DEFAULT']
extras = {name: cfg[f'{name}_requirements'].split() for name in ('cpu', 'gpu', 'onnx', 'slurm', 's3', 'dev')}
site = cfg['doc_host'] + cfg['doc_baseurl']

setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    long_description=Path('README.md').read_text(encoding='utf-8') if Path('README.md').exists() else '',
    long_description_content_type='text/markdown',
    keywords=cfg['keywords'],
    author=cfg['author'],
    author_email=cfg['author_email'],
    url=cfg['git_url'],
    project_urls={'Documentation': site, 'Changelog': f"{cfg['git_url']}/blob/{cfg['branch']}/CHANGELOG.md"},
    license='Apache-2.0',
    classifiers=[f"Development Status :: {STATUS[cfg['status']]}", f"Intended Audience :: {cfg['audience']}",
                 f"Natural Language :: {cfg['language']}", 'Operating System :: POSIX :: Linux',
                 'Topic :: Scientific/Engineering :: Artificial Intelligence', 'Programming Language :: Python :: 3',
                 *(f'Programming Language :: Python :: {v}' for v in cfg['tested_pythons'].split())],
    packages=find_packages(include=['dream_ood', 'dream_ood.*']),
    package_data={'dream_ood': ['assets/**/*']},
    include_package_data=False,
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg['requirements'].split(),
    extras_require=extras,
    entry_points={'nbdev': [f"{cfg['lib_name']}={cfg['lib_path']}._modidx:d"],
                  'console_scripts': ['dream-ood=dream_ood.cli:main']},
    cmdclass={'build_py': build_with_studies},
    zip_safe=False,
)
