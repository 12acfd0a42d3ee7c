"Package metadata, read from settings.ini so that it is written once."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
parser = ConfigParser(delimiters=['='])
parser.read(here/'settings.ini', encoding='utf-8')
cfg = parser['DEFAULT']

def lines(key): return [l.strip() for l in cfg.get(key, '').splitlines() if l.strip()]

extras = {k.removesuffix('_requirements'): lines(k) for k in cfg if k.endswith('_requirements')}
statuses = {'3': '3 - Alpha', '4': '4 - Beta', '5': '5 - Production/Stable'}

setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    long_description=(here/'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author=cfg['author'], author_email=cfg['author_email'],
    license_expression=cfg['license'],
    keywords=[k.strip() for k in cfg['keywords'].split(',')],
    classifiers=[f"Development Status :: {statuses[cfg['status']]}",
                 'Intended Audience :: Science/Research',
                 'Topic :: Scientific/Engineering :: Physics',
                 'Programming Language :: Python :: 3',
                 'Programming Language :: Python :: 3 :: Only'],
    packages=find_packages(include=['hepdev', 'hepdev.*']),
    python_requires=f">={cfg['min_python']}",
    install_requires=lines('requirements'),
    extras_require=extras,
    entry_points={'console_scripts': lines('console_scripts'), 'nbdev': ['hepdev = hepdev._modidx:d']},
)
