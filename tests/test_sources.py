"Malformed input to expressions and readers, by the hundred: an error that names it, or the right numbers; never a crash, a hang, or Python run from a text."
import gzip
import math
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import awkward as ak
import numpy as np
import pandas as pd
import pytest
import uproot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hepdev.core import DataError, FileError, HepdevError, UnknownName
from hepdev.data.expressions import FUNCTIONS, Expression
from hepdev.data.sources import find_sources, open_source, split_tree

def trials(fast, slow, *strategies):
    "A test with a few examples, and once more, marked slow, with many."
    def both(test):
        @pytest.mark.parametrize('n', [pytest.param(fast, id='few'), pytest.param(slow, id='many', marks=pytest.mark.slow)])
        def run(n): settings(max_examples=n, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))(given(*strategies)(test))()
        return run
    return both

# Expressions

N = 7
rng = np.random.default_rng(0)
count = np.array([0, 1, 2, 0, 3, 1, 4])
FLAT = dict(a=rng.normal(size=N), b=rng.integers(-5, 5, N).astype('i4'), u=np.arange(N, dtype='u8'), ok=rng.uniform(size=N) < 0.5)
COLUMNS = {**FLAT, 'big': np.arange(N, dtype='u8') + 2**63, 'word': np.array(['e', 'mu', None, '', 'e', 'µ', 'e'], object), 'weird name': np.ones(N),
           'Jet.pt': ak.unflatten(rng.exponential(40, count.sum()), count), 'Jet.n': ak.unflatten(rng.integers(0, 4, count.sum()), count)}

def fine(text):
    "The value if there is one; an error of ours is one too. One value, or one list, for each event."
    try: out = Expression(text)(COLUMNS)
    except (DataError, UnknownName) as e:
        assert str(e).startswith("Expression ")
        return None
    assert len(out) == N
    return out

TOKENS = [*COLUMNS, *FUNCTIONS, *'+-*/%()[]{},.:;<>=!&|~^@#"\'\\ \n\t0123456789', '**', '//', '==', 'and', 'or', 'not', 'in', 'if', 'else', 'lambda', 'for', 'col(', "'e'", '1e400', '2**63', '9'*40,
          'nan', 'inf', 'True', 'None', '__class__', '.__mro__', 'import', 'exec(', 'eval(', 'open(', ':=', 'await ', 'yield ', 'f"{', '\x00', '\ud800', '\N{ZERO WIDTH SPACE}', 'ﬁ', '𝐱', '...', '1j', '0x', '1_0', "b''"]

@trials(150, 3000, st.lists(st.sampled_from(TOKENS), max_size=14).map(''.join))
def test_tokens_in_any_order(text): fine(text)

@trials(60, 1000, st.text(max_size=200))
def test_any_text(text): fine(text)

numbers = st.sampled_from(['a', 'b', 'u', 'ok', '1', '0', '2.5', '-3', 'pi', '(a + 1)'])
def combined(inner):
    one = st.sampled_from(sorted(n for n, (_, low, high) in FUNCTIONS.items() if (low, high) == (1, 1) and n not in 'sum mean count any all first argmin argmax'.split()))
    return (st.builds('({} {} {})'.format, inner, st.sampled_from(['+', '-', '*', '/', '//', '%', '**', '<', '>=', '==', '!=', 'and', 'or']), inner) | st.builds('{}({})'.format, one, inner)
            | st.builds('not {}'.format, inner).map('({})'.format) | st.builds('({} if {} else {})'.format, inner, inner, inner) | st.builds('max({}, {})'.format, inner, inner))

def by_python(text, i):
    "One event of an expression, as Python itself calculates it; None where Python has no answer."
    def real(f):
        def g(x): return float(f(np.float64(x)))
        return g
    known = {n: real(getattr(np, n)) for n in 'sqrt exp log log2 log10 sin cos tan arcsin arccos arctan sinh cosh tanh floor ceil isfinite sign'.split()}
    values = {k: v[i].item() for k, v in FLAT.items()}
    try: out = eval(text, {'__builtins__': {}}, {**known, **values, 'abs': abs, 'max': max, 'pi': math.pi})
    except (ZeroDivisionError, OverflowError, ValueError, TypeError): return None
    return None if isinstance(out, complex) else float(out)

@trials(100, 2000, st.recursive(numbers, combined, max_leaves=6))
def test_as_python_calculates(text):
    "Where Python has a finite answer, the same; `and` and `or` are truths here, and of a comparison of NaN nothing is asked."
    got = fine(text)
    if got is None or ' and ' in text or ' or ' in text or 'nan' in text: return
    assert isinstance(got, np.ndarray) and got.dtype.kind in 'fiub'
    for i in range(N):
        with np.errstate(all='ignore'): want = by_python(text, i)
        if want is not None and math.isfinite(want) and math.isfinite(got[i]): assert math.isclose(float(got[i]), want, rel_tol=1e-6, abs_tol=1e-6), (text, i, got[i], want)

@trials(60, 1000, st.sampled_from([*FUNCTIONS]), st.lists(st.sampled_from([*COLUMNS, 'Jet.pt > 3', "'e'", '0', '-1', 'nan', 'Jet.pt[Jet.n > 1]']), max_size=4))
def test_every_function_of_anything(name, args): fine(f"{name}({', '.join(a if a != 'weird name' else 'col(' + repr(a) + ')' for a in args)})")

@pytest.mark.parametrize('text', ['('*1990, '['*1990, '-'*1990 + 'a', 'not '*490 + 'a', 'a' + '.a'*900, '**'.join(['9']*600), '9**9**9**9**9', '2**62**62', 'a if '*200 + 'a' + ' else a'*200, "'" + 'x'*1990, 'abs('*40 + 'a' + ')'*40,
                                  'a' + '[0]'*300, '10**400', '1' + '0'*1900, 'max(' + 'a,'*900 + 'a)', 'a'*10**6, '{'*100, 'f"{' * 100, 'col("' + 'a'*1900 + '")', '\n'*1999 + 'a', '\\'*1999, 'a<'*150 + 'a'])
def test_nobody_exhausts_memory_or_stack(text): fine(text)

# Tables

@cache
def table():
    return pd.DataFrame(dict(id=2**60 + np.arange(40), met=rng.exponential(30, 40).round(3), jets=rng.integers(0, 4, 40), word=rng.choice(['e', 'mu', 'a"b', 'c,d', 'two\nlines'], 40)))

@cache
def intact(ending, folder):
    "A file of each kind, as bytes."
    path = folder/f'intact.{ending}'
    if ending == 'parquet': table().to_parquet(path)
    elif ending == 'root':
        with uproot.recreate(path) as f:
            f.mktree('events', dict(id='i8', met='f8', jets='i8', lists='var * float64'))
            f['events'].extend({**{k: table()[k].to_numpy() for k in ('id', 'met', 'jets')}, 'lists': ak.unflatten(np.arange(80.), np.full(40, 2))})
    else: table().to_csv(path, index=False)
    return path.read_bytes()

def bearable(path):
    "What a damaged file gives: an error of ours that names it, or columns of one length."
    try:
        with open_source(path) as s:
            for _, piece in s.iterate(s.kinds, rows=16): assert len({len(v) for v in piece.values()}) == 1
    except HepdevError as e: assert path.name in str(e), e

@pytest.fixture(scope='module')
def folder(tmp_path_factory): return tmp_path_factory.mktemp('sources')

ENDINGS = ['csv', 'csv.gz', 'parquet', 'root']

@pytest.mark.parametrize('ending', ENDINGS)
@pytest.mark.parametrize('many', [pytest.param(False, id='few'), pytest.param(True, id='many', marks=pytest.mark.slow)])
def test_damaged_file(folder, ending, many):
    "Cut short, bytes flipped, regions zeroed, parts doubled."
    good, chance = intact(ending, folder), np.random.default_rng(1)
    for i in range(600 if many else 40):
        data, at = bytearray(good), int(chance.integers(len(good)))
        if i % 4 == 0: data = data[:at]
        elif i % 4 == 1: data[at] ^= 1 << int(chance.integers(8))
        elif i % 4 == 2: data[at:at + 32] = bytes(len(data[at:at + 32]))
        else: data[at:at] = data[at//2:at]
        path = folder/f'bad.{ending}'
        path.write_bytes(data)
        bearable(path)

@trials(60, 1500, st.lists(st.sampled_from(['a', 'b', ',', ',', '\n', '\n', '\r', '"', '1', '-2.5', '1e999', '9'*25, ' ', '\t', 'nan', 'NA', 'inf', 'True', '+7', '0x1F', '2020-01-01', '\ufeff', '\x00', 'µ', '#', ';', '=cmd()']), max_size=40).map(''.join))
def test_any_csv(text):
    with TemporaryDirectory() as d:
        (Path(d)/'any.csv').write_text(text, encoding='utf-8', newline='')
        bearable(Path(d)/'any.csv')

@trials(30, 600, st.integers(1, 30).flatmap(lambda n: st.lists(st.lists(st.integers(0, 2**64 - 1), min_size=n, max_size=n) | st.lists(st.integers(-2**63, 2**63 - 1), min_size=n, max_size=n)
                                                    | st.lists(st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False), min_size=n, max_size=n), min_size=1, max_size=4)), st.integers(1, 40), st.booleans())
def test_numbers_survive_csv(columns, rows, packed):
    "Whole numbers exactly, others to the last digit but one, in pieces of any size."
    with TemporaryDirectory() as d:
        path = Path(d)/('t.csv.gz' if packed else 't.csv')
        lines = [','.join(f'c{i}' for i in range(len(columns)))] + [','.join(repr(c[j]) for c in columns) for j in range(len(columns[0]))]
        data = ('\n'.join(lines) + '\n').encode()
        path.write_bytes(gzip.compress(data) if packed else data)
        pieces = [p for _, p in open_source(path).iterate([f'c{i}' for i in range(len(columns))], rows=rows)]
        assert [len(p['c0']) for p in pieces[:-1]] == [rows]*(len(pieces) - 1)
        for i, c in enumerate(columns):
            got = np.concatenate([p[f'c{i}'] for p in pieces])
            if isinstance(c[0], int): assert got.tolist() == c
            else: np.testing.assert_allclose(got.astype(float), c, rtol=1e-15)

# Names

@pytest.mark.parametrize('name, parts', [('a.root', ('a.root', None)), ('a.root:t', ('a.root', 't')), ('a.root::d/t', ('a.root', 'd/t')), ('d.root/b.root:t', ('d.root/b.root', 't')), ('a.csv:t', ('a.csv:t', None)), ('C:/x.ROOT:t', ('C:/x.ROOT', 't'))])
def test_tree_in_a_name(name, parts): assert split_tree(name) == parts

@pytest.mark.parametrize('name', ['a'*5000 + '.csv', 'a\x00b.root', '/'*4000 + '.root', '', '.', '..', '~', 'a.root:', ':', '*'*200, '[', '\ud800.csv', 'http://127.0.0.1:9/a.root', 'root://127.0.0.1:9//a.root', 'https://127.0.0.1:9/a.csv'])
def test_names_that_are_no_files(name):
    for f in (open_source, find_sources):
        try: assert f(name) == []
        except (FileError, UnknownName): pass

def test_unicode_and_long_paths(tmp_path):
    deep = tmp_path/('é'*80)/('µ:x'*20)
    deep.mkdir(parents=True)
    for ending in ENDINGS:
        path = deep/f'événements μ.{ending}'
        path.write_bytes(intact(ending, tmp_path))
        with open_source(path) as s: assert sum(len(p['met']) for _, p in s.iterate(['met'])) == 40

def test_types_that_change_between_blocks(tmp_path):
    (tmp_path/'a.csv').write_text('x,y\n' + '1,2\n'*200_000 + '1.5,word\n'*10)
    (_, whole), = open_source(tmp_path/'a.csv').iterate(['x', 'y'], rows=10**6)
    assert whole['x'][-1] == 1.5 and whole['x'][0] == 1 and whole['y'][-1] == 'word' and len(whole['x']) == 200_010
