"""Everything is said in settings.ini; this only passes it on to setuptools.

A wheel brings the notebooks, profiles and workflow too, as dream_ood/shipped/: `dream-ood reproduce` runs them where
there is no checkout (dream_ood.core.SHIPPED)."""
import shutil
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

SHIPPED = ['nbs/**/*.ipynb', 'nbs/**/*.csv', 'nbs/paper/recorded/**/*', 'profiles/**/*.yaml', 'profiles/*.csv',
           'workflow/**/*']


class build_with_studies(build_py):
    "Copy what SHIPPED names, in a wheel; an editable install uses the checkout's own."
    def run(self):
        super().run()
        if self.editable_mode: return
        files = {f for pattern in SHIPPED for f in Path().glob(pattern) if f.is_file()}
        for f in (f for f in files if '.ipynb_checkpoints' not in f.parts):
            to = Path(self.build_lib)/'dream_ood'/'shipped'/f
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(f, to)



config = ConfigParser(delimiters=['='])
config.read('settings.ini', encoding='utf-8')
cfg = config['DEFAULT']
extras = {name: cfg[f'{name}_requirements'].split() for name in ('cpu', 'gpu', 'dev')}

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
    license='Apache-2.0',
    classifiers=['Development Status :: 3 - Alpha', 'Intended Audience :: Science/Research',
                 'Programming Language :: Python :: 3', 'Programming Language :: Python :: 3.11'],
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
