import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from mlpbench.workload.seeding import derive_seed

seeds = st.integers(0, 2**63 - 1)
streams = st.lists(st.text("abc 01", min_size=1) | st.integers(0, 1000), max_size=3).map(tuple)


@given(seeds, streams)
def test_derived_seed_has_63_bits_and_depends_on_its_arguments_only(seed, stream):
    assert 0 <= derive_seed(seed, *stream) < 2**63
    assert derive_seed(seed, *stream) == derive_seed(seed, *stream)


@given(st.tuples(seeds, streams), st.tuples(seeds, streams))
def test_different_seeds_or_streams_give_different_derived_seeds(one, other):
    words = [tuple(map(str, (seed, *stream))) for seed, stream in (one, other)]
    assume(words[0] != words[1])
    assert derive_seed(one[0], *one[1]) != derive_seed(other[0], *other[1])


@given(seeds, streams)
def test_torch_accepts_every_derived_seed(seed, stream):
    derived = derive_seed(seed, *stream)
    assert derived == torch.Generator().manual_seed(derived).initial_seed()


def test_derived_seeds_never_change():
    assert derive_seed(0, "initialisation") == 5448143865331015760
    assert derive_seed(0, "batch order", 0) == 5675756541632328959
    assert derive_seed(2**63 - 1, "batch order", 132) == 109785955670012045
