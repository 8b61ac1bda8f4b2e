"""Users whose taste for rooms and whose taste for products in rooms have only a part in common."""

import numpy as np
import pytest

from lsec_jax.config import ConfigError
from tests.data.live_world.live_worlds import assert_same_tables, binned_z_scores, live_world, z_score


@pytest.fixture(scope="module")
def world():
    """Mostly specific tastes, which decide much."""
    return live_world(2, 20_000, specific_tastes=0.8, click_taste=3.0, enter_taste=3.0)


def test_without_specific_tastes_both_domains_have_the_users_taste():
    of = live_world(2, specific_tastes=0.0).truth.world
    expected = of.base.tastes / of.base.tastes.max(axis=1, keepdims=True)
    np.testing.assert_array_equal(of.tastes, expected)
    np.testing.assert_array_equal(of.product_tastes, expected)


def test_both_domains_tastes_are_made_of_their_parts(world):
    of = world.truth.world
    common, rooms, products = of.taste_parts
    np.testing.assert_allclose(common + products, of.base.tastes)
    np.testing.assert_allclose(of.product_tastes, of.base.tastes / of.base.tastes.max(axis=1, keepdims=True))
    np.testing.assert_allclose(of.tastes, (common + rooms) / (common + rooms).max(axis=1, keepdims=True))
    np.testing.assert_allclose(rooms.sum(axis=1), products.sum(axis=1))
    assert ((common == 0) | (products == 0)).all()


def test_the_share_of_specific_topics_is_that_of_the_config(world):
    common, _, products = world.truth.world.taste_parts
    assert (products > 0).sum() / (products + common > 0).sum() == pytest.approx(0.8, abs=0.04)


def test_the_domains_own_parts_have_nothing_to_do_with_each_other(world):
    _, rooms, products = world.truth.world.taste_parts
    rooms, products = (of / of.sum(axis=1, keepdims=True).clip(1e-9) for of in (rooms, products))
    assert abs(np.corrcoef(rooms.ravel(), products.ravel())[0, 1]) < 0.1


def test_entering_follows_the_taste_for_rooms_and_clicking_the_taste_for_products(world):
    impression, of = world.events["impression"], world.truth.world
    users, rooms, watched = impression.ids("user"), impression.ids("room"), impression.value("watched")
    lift = {}
    for name, taste in (("rooms", of.taste_for(users, rooms)), ("products", of.product_taste_for(users, rooms))):
        lift["watched", name] = np.corrcoef(taste, watched)[0, 1]
        lift["product", name] = np.corrcoef(taste[watched], impression.value("product_click")[watched])[0, 1]
    print(lift)
    assert lift["watched", "rooms"] > lift["watched", "products"] + 0.05
    assert lift["product", "products"] > lift["product", "rooms"] + 0.05


def test_clicked_products_are_of_the_taste_for_products(world):
    clicks, of = world.events["product_click"], world.truth.world
    topics = of.base.item_topics[clicks.ids("item")]
    users = clicks.ids("user")
    assert of.product_tastes[users, topics].mean() > of.tastes[users, topics].mean() + 0.1


@pytest.mark.parametrize("column", ["watched", "goods_bag_click", "product_click"])
def test_the_truth_is_that_of_the_specific_tastes(world, column):
    impression = world.events["impression"]
    outcomes, expected = impression.value(column), world.truth.expected("impression", column)
    if column != "watched":
        rows = impression.value("watched")
        outcomes, expected = outcomes[rows], expected[rows]
        assert abs(z_score(outcomes, expected)) < 4
        assert np.abs(binned_z_scores(outcomes, expected)).max() < 4
    else:
        np.testing.assert_array_less(-1e-9, expected)
        assert np.abs(binned_z_scores(outcomes, expected)).max() < 5


def test_the_share_changes_no_other_part_of_the_world():
    plain, specific = live_world(3), live_world(3, specific_tastes=0.5)
    np.testing.assert_array_equal(plain.availability["room"].start, specific.availability["room"].start)
    np.testing.assert_array_equal(plain.relations["friend"].source_ids, specific.relations["friend"].source_ids)
    assert_same_tables(plain, live_world(3), ["impression"])


def test_a_share_outside_0_and_1_is_refused():
    with pytest.raises(ConfigError, match="specific_tastes"):
        live_world(specific_tastes=1.5)
