"""A synthetic world of short-video behaviour whose best reachable prediction is known exactly.

Every (user, topic) pair has its own hidden Markov chain over four states: neutral, averse, dormant
fan, active fan. Feedback depends on the hidden state of the shown item's topic and on *known*
covariates (item quality, hour, position, what was shown and clicked before). What is shown depends
on observed feedback only, never on a hidden state. Therefore the posterior given the whole history
is a product over topics, and a four-state forward filter per topic computes it without
approximation. Its click probability, ``Requests.truth``, is the ceiling for any model.

In the preset ``drift`` the world moves: the appeal of topics swings, new items draw more clicks and
settle, and items are released and withdrawn. All of it is a fixed function of topic, item and time,
so it joins the known covariates and the filter stays exact; a trained model, which can't see the
calendar's future, grows old (``p_frozen``).

The hidden states and the filter's inner quantities live in ``World.truth`` and in
``Requests.extra``, which no batch contains.
"""

from .catalogue import Catalogue, Drift, make_catalogue, make_drift
from .ceilings import bayes_filter, offsets_by_length, p_frozen, p_search, p_window, topic_history
from .chain import generator_matrix, stationary, transition_table
from .config import (
    ACTIONS,
    CANDIDATE_SOURCES,
    CONTENT_DIM,
    LOG_SOURCES,
    MIN_HISTORY,
    PRESETS,
    STATES,
    SURFACES,
    TASKS,
    WorldConfig,
)
from .make import make_world
from .simulate import sessions
from .world import World

__all__ = [
    "ACTIONS",
    "CANDIDATE_SOURCES",
    "CONTENT_DIM",
    "LOG_SOURCES",
    "MIN_HISTORY",
    "PRESETS",
    "STATES",
    "SURFACES",
    "TASKS",
    "Catalogue",
    "Drift",
    "World",
    "WorldConfig",
    "bayes_filter",
    "generator_matrix",
    "make_catalogue",
    "make_drift",
    "make_world",
    "offsets_by_length",
    "p_frozen",
    "p_search",
    "p_window",
    "sessions",
    "stationary",
    "topic_history",
    "transition_table",
]
