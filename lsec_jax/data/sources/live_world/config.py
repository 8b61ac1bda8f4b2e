"""The knobs of the live part of the synthetic world. No jax here.

No `from __future__ import annotations`: `--config.data.live.KEY=...` needs real types.
"""

import dataclasses
import math

from lsec_jax.data.sources.simulated import Knobs


@dataclasses.dataclass
class SocialConfig:
    """Friends, what they share with each other in which scenario, and how streamers stand to each other.

    Attributes:
        num_friends: mean friends of a user; friendship is mutual. 0 = none, and no shares.
        circle_strength: share of friendships inside a circle, the users of one favourite topic, in [0, 1].
        view_share: share of the period whose payments and shares make the views `pay` and `share_view`, in [0, 1]. The
            weight of a `share_view` counts all shares of the pair in that time, so training edges know the future if it
            reaches beyond the first cut.
        pay_share: share of friends who paid each other in that time, in [0, 1]; close ones more often.
        share_rate: chance that a visitor who has friends shares without taste for the room.
        share_taste: effect of taste for the room.
        accept_rate: chance that a share is accepted if nothing speaks for it, in (0, 1).
        accept_taste, accept_closeness: effects of the target's taste and of how close the friends are, from 0 to 1.
        scenario_branching: children of the tree's nodes, by level below the root; the product is the number of leaves.
        scenario_exponent: Zipf exponent of the scenarios' popularity.
        scenario_topic: log of how much likelier a scenario is in rooms of the topic that it stands for.
        scenario_spread: standard deviation of what each node of the tree adds, for all leaves below it, to the log-odds
            of accepting and to both effects on them.
        new_scenarios: share of the scenarios that open only in the last quarter of the period, in [0, 1].
        num_streamer_relations: mean signed relations of a streamer: +1 collaborator, mostly of like topics, -1 rival.
    """

    num_friends: float = 12.0
    circle_strength: float = 0.7
    view_share: float = 0.4
    pay_share: float = 0.3
    share_rate: float = 0.05
    share_taste: float = 0.7
    accept_rate: float = 0.15
    accept_taste: float = 1.5
    accept_closeness: float = 1.0
    scenario_branching: tuple[int, ...] = (3, 3, 4, 6)
    scenario_exponent: float = 1.1
    scenario_topic: float = 1.5
    scenario_spread: float = 0.4
    new_scenarios: float = 0.1
    num_streamer_relations: float = 4.0

    def validate(self) -> None:
        """Raises ConfigError naming the first unusable knob, its value and the remedy."""
        knobs = Knobs(self, "live.social.")
        knobs.counts(0, "num_friends", "num_streamer_relations")
        knobs.between(0, 1, "circle_strength", "view_share", "pay_share", "new_scenarios")
        knobs.rates("accept_rate")
        knobs.rates("share_rate", allows_zero=True)
        knobs.between(0, 10, "share_taste", "accept_taste", "accept_closeness", "scenario_topic")
        knobs.between(0, 5, "scenario_exponent", "scenario_spread")
        knobs.branching("scenario_branching")


@dataclasses.dataclass
class GiftConfig:
    """Gifts, which trigger gifts, and the streamers' responses, which shrink in bursts.

    Attributes:
        rate: gifts per hour of a visitor of median wealth without taste for the room; 0 = none.
        taste, repeat: effects of taste and of log(1 + earlier visits to the streamer) on its logarithm.
        rival_loss: loss, on its logarithm, for users who follow a rival of the streamer.
        wealth_spread: log-normal sigma of users' wealth.
        excitation: mean number of gifts that a gift triggers; those that fall when nobody watches are lost. In [0, 1).
        friend_pull: log of how much likelier a friend of the giver is to make the triggered gift.
        decay_seconds: mean delay of a triggered gift.
        prices: the price list.
        price_exponent: Zipf exponent of how often the prices, in the order of the list, are paid.
        response_rate: mean response, in (0, 1), if nothing speaks for it.
        response_affinity: effect of the giver's taste for the room.
        response_amount: effect of the log amount, standardised over the price list.
        response_message: effect of the warmth of the gift's message, a standard normal.
        response_saturation: loss by log(1 + gifts to the room in the window before).
        window_seconds: length of that window.
        response_concentration: of the Beta distribution of responses; larger = less noise.
        response_delay_seconds: mean delay of a response, which comes before the room ends.
        message_dim: width of the embeddings of gifts' messages; 0 = none.
    """

    rate: float = 0.3
    taste: float = 1.0
    repeat: float = 0.4
    rival_loss: float = 0.5
    wealth_spread: float = 1.0
    excitation: float = 0.7
    friend_pull: float = 1.5
    decay_seconds: float = 45.0
    prices: tuple[float, ...] = (1.0, 5.0, 10.0, 52.0, 99.0, 520.0, 1314.0)
    price_exponent: float = 1.5
    response_rate: float = 0.5
    response_affinity: float = 1.0
    response_amount: float = 0.5
    response_message: float = 0.5
    response_saturation: float = 0.8
    window_seconds: float = 120.0
    response_concentration: float = 8.0
    response_delay_seconds: float = 8.0
    message_dim: int = 8

    def validate(self) -> None:
        """Raises ConfigError naming the first unusable knob, its value and the remedy."""
        knobs = Knobs(self, "live.gifts.")
        knobs.counts(0, "rate", "message_dim")
        effects = ("taste", "repeat", "rival_loss", "friend_pull", "response_affinity", "response_amount")
        knobs.between(0, 10, *effects, "response_message", "response_saturation")
        knobs.between(0, 5, "wealth_spread", "price_exponent")
        knobs.positive("decay_seconds", "window_seconds", "response_concentration", "response_delay_seconds")
        knobs.rates("excitation", allows_zero=True)
        knobs.rates("response_rate")
        ok = len(self.prices) >= 1 and all(0 < price < math.inf for price in self.prices)
        knobs.require(ok, "prices", "give at least one price, all above 0")


@dataclasses.dataclass
class LiveConfig:
    """The feed and what visitors do in a room. Effects are added to log-odds (of stays: to the logarithm).

    Attributes:
        num_impressions: rooms shown in all, met exactly.
        new_items: share of the items that are released in the period, each at the midnight before an even day of it, in
            [0, 1]; they are not shown, sold or bought before. The other items are there from the start.
        slate_size: rooms in a request, fewer where fewer are live.
        exploration: share of the slots that are filled evenly among the live rooms not shown yet, in [0, 1].
        policy_taste, policy_follow, policy_repeat, policy_popularity: how much the logging policy goes by what it takes
            for the user's taste, by follows, by log(1 + earlier visits to the streamer) and by log streamer popularity.
        policy_shares: how much it goes by log(1 + shares of the streamer's rooms that she accepted in the week before).
        policy_noise: standard deviation of the error in what it takes for the user's taste, per topic.
        activity_spread: log-normal sigma of how often users open the app.
        enter_rate: chance to enter the first room of a slate if nothing speaks for it, in (0, 1).
        enter_taste: effect of taste for the room, from 0 to 1.
        enter_follow: effect of following the streamer.
        enter_repeat: effect of log(1 + earlier visits to the streamer), as of midnight; makes about two thirds of the
            default world's visits repeats.
        enter_friends: effect of log(1 + visits of friends to the streamer on the day before).
        enter_shares: effect of log(1 + shares of the streamer's rooms that she accepted in the week before).
        room_spread: standard deviation of the rooms' own attraction.
        position_decay: loss by log(1 + position in the slate).
        label_noise: share of the decisions to enter that are made at `enter_rate`, whatever speaks for the room.
        stay_seconds: median stay without taste for the room, before it ends at the room's end or the next request.
        stay_taste, stay_repeat: effects of taste and of log(1 + earlier visits) on its logarithm.
        stay_spread: its log-normal sigma.
        bag_rate: chance that a visitor without taste for the room opens the goods bag.
        product_rate: that she clicks a product there.
        purchase_rate: that she buys the clicked product.
        click_taste: effect of taste on these three (on the third: of taste for the product).
        specific_tastes: share of a user's topics that she likes in one domain alone, in [0, 1]: those of her taste for
            products, which she has in the whole world, that mean nothing in rooms, where others take their place. 0 =
            one taste for both.
        social: friends, shares and streamers' relations.
        gifts: gifts and responses.
    """

    num_impressions: int = 1_000_000
    new_items: float = 0.3
    slate_size: int = 8
    exploration: float = 0.1
    policy_taste: float = 3.0
    policy_follow: float = 1.5
    policy_repeat: float = 2.5
    policy_popularity: float = 0.5
    policy_shares: float = 2.0
    policy_noise: float = 0.3
    activity_spread: float = 1.0
    enter_rate: float = 0.04
    enter_taste: float = 2.0
    enter_follow: float = 0.5
    enter_repeat: float = 1.8
    enter_friends: float = 0.5
    enter_shares: float = 1.0
    room_spread: float = 0.5
    position_decay: float = 0.3
    label_noise: float = 0.02
    stay_seconds: float = 60.0
    stay_taste: float = 1.0
    stay_repeat: float = 0.3
    stay_spread: float = 1.2
    bag_rate: float = 0.3
    product_rate: float = 0.4
    purchase_rate: float = 0.15
    click_taste: float = 1.0
    specific_tastes: float = 0.0
    social: SocialConfig = dataclasses.field(default_factory=SocialConfig)
    gifts: GiftConfig = dataclasses.field(default_factory=GiftConfig)

    def validate(self) -> None:
        """Raises ConfigError naming the first unusable knob, its value and the remedy."""
        knobs = Knobs(self, "live.")
        knobs.counts(1, "num_impressions")
        knobs.between(1, 1000, "slate_size")
        knobs.between(0, 1, "new_items", "exploration", "label_noise", "specific_tastes")
        knobs.rates("enter_rate")
        knobs.rates("bag_rate", "product_rate", "purchase_rate", allows_zero=True)
        effects = [f.name for f in dataclasses.fields(self) if f.name.startswith(("policy_", "enter_", "stay_"))]
        effects = [name for name in effects if name not in ("enter_rate", "stay_seconds")]
        knobs.between(0, 10, *effects, "room_spread", "position_decay", "click_taste")
        knobs.between(0, 5, "activity_spread")
        knobs.positive("stay_seconds")
        self.social.validate()
        self.gifts.validate()
