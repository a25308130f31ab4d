"""Which random numbers are constants of a model, and which come from a key that it is given."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from oto_jax.prune.draws import redrawn_constant
from oto_jax.prune.survivors import Kept, Survivors
from oto_jax.zigs import dims as d
from oto_jax.zigs.program import Value
from oto_jax.zigs.walk import open_jaxpr

H = jnp.ones((3, 4))


def noise(key):
    return jax.random.normal(key, H.shape)


def scanned(carried):
    """A loop that draws from what it carries, and goes on with what ``carried`` makes of it."""

    def fn(h, key):
        def turn(carry, _):
            return carried(carry), noise(carry)

        return h * lax.scan(turn, key, None, length=2)[1].sum(0)

    return fn


def looped(carried):
    def fn(h, key):
        def turn(carry):
            count, carry, total = carry
            return count + 1, carried(carry), total + noise(carry)

        return lax.while_loop(lambda carry: carry[0] < 2, turn, (0, key, 0 * h))[2] * h

    return fn


def over(keys):
    return lambda h, key: h * lax.scan(lambda c, k: (c, noise(k)), 0, keys(key))[1].sum(0)


def branched(*keys):
    def fn(h, key):
        chosen = lax.cond(h.sum() > 0, *[lambda key, made=made: made(key) for made in keys], key)
        return h * noise(chosen)

    return fn


def same(key):
    return key


def split(key):
    return jax.random.split(key)[0]


def fixed(key):
    return jax.random.key(7)


GIVEN = {
    "itself": lambda h, key: h * noise(key),
    "folded": lambda h, key: h * noise(jax.random.fold_in(key, 2)),
    "within a call": lambda h, key: jax.jit(lambda h, k: h * noise(split(k)))(h, key),
    "carried by scan": scanned(split),
    "carried by while": looped(split),
    "scanned over": over(lambda key: jax.random.split(key, 2)),
    "of every branch": branched(same, split),
}
CONSTANT = {
    "itself": lambda h, key: h * noise(jax.random.key(7)),
    "folded": lambda h, key: h * noise(jax.random.fold_in(jax.random.key(7), 2)),
    "with what is computed": lambda h, key: (
        h * noise(jax.random.fold_in(jax.random.key(7), jnp.argmax(h.sum(1))))
    ),
    "within a call": lambda h, key: jax.jit(lambda h: h * noise(fixed(None)))(h),
    "from the second turn of scan": scanned(fixed),
    "from the second turn of while": looped(fixed),
    "scanned over": over(lambda key: jax.random.split(jax.random.key(7), 2)),
    "of one branch": branched(same, fixed),
    "closed over": (lambda k: lambda h, key: h * noise(k))(jax.random.key(7)),
}


def found(fn, key, axis=1, is_given=True):
    """What is said of ``fn`` when half of an axis of its first argument goes."""
    closed = jax.make_jaxpr(fn)(H, key)
    values = [
        Value(v.aval.shape, v.aval.dtype, d.new_dims(v.aval.shape)) for v in closed.jaxpr.invars
    ]
    body = open_jaxpr(closed.jaxpr, closed.consts, values)
    survivors = Survivors()
    half = np.arange(H.shape[axis] // 2)
    survivors.assign(values[0].dims[axis], Kept(half), "h")
    return redrawn_constant(body, values[1:] if is_given else [], survivors)


@pytest.mark.parametrize("key", [jax.random.key(0), jax.random.PRNGKey(0)], ids=["typed", "raw"])
@pytest.mark.parametrize("name", GIVEN)
def test_drawn_from_a_given_key(name, key):
    assert found(GIVEN[name], key) is None


@pytest.mark.parametrize("name", CONSTANT)
def test_drawn_from_a_key_in_the_code(name):
    assert "a key that is not given to it (test_draws.py:" in found(
        CONSTANT[name], jax.random.key(0)
    )


def test_a_key_that_the_model_keeps_is_a_constant():
    said = found(GIVEN["itself"], jax.random.key(0), is_given=False)
    assert "a key that is not given" in said


@pytest.mark.parametrize("shape", [(1, 4), (2,)])
def test_numbers_that_look_like_a_key_are_none(shape):
    def fn(h, tokens):
        seed = tokens.ravel()[0]
        key = jax.random.fold_in(jax.random.key(0), seed)
        return h * noise(key) + h * noise(jax.random.key(seed))

    assert "a key that is not given" in found(fn, jnp.ones(shape, jnp.uint32))


def test_a_constant_of_other_axes_stays_what_it_is():
    def fn(h, key):
        return h + jax.random.normal(jax.random.key(7), (3, 1))

    assert found(fn, jax.random.key(0)) is None
    assert found(fn, jax.random.key(0), axis=0) is not None
