"Coverage-guided fuzzing of what strangers send (needs atheris, which the tests do not): `python tests/fuzz.py expression|csv|csv.gz|parquet|root [CORPUS] [-max_total_time=60]`. Stops at the first error that is not ours."
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=['hepdev', 'uproot']):
    from hepdev.core import HepdevError
    from hepdev.data.expressions import Expression
    from hepdev.data.sources import open_source

import numpy as np

COLUMNS = dict(a=np.arange(3.), b=np.arange(3), w=np.array(['x', None, 'y'], object))

def expression(data):
    try: assert len(Expression(data.decode('utf-8', 'surrogatepass'))(COLUMNS)) == 3
    except (HepdevError, UnicodeDecodeError): pass

def reader(ending):
    path = Path(tempfile.mkdtemp())/f'a.{ending}'
    def read(data):
        path.write_bytes(data)
        try:
            with open_source(path) as s:
                for _ in s.iterate(s.kinds, rows=100): pass
        except HepdevError: pass
    return read

if __name__ == '__main__':
    what, *options = sys.argv[1:]
    atheris.Setup([sys.argv[0], *options], expression if what == 'expression' else reader(what))
    atheris.Fuzz()
