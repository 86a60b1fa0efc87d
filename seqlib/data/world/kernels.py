"""Compiled inner loops of the synthetic world: hidden paths, lives with their filter, windows.

Everything here works on plain arrays of one user (``records``). Hidden states are 0 neutral, 1
averse, 2 dormant fan, 3 active fan. All of it is one file that imports nothing of ours: numba keeps
compiled functions by their own file's date, and would not see that a function they call changed.
"""

from __future__ import annotations

import numpy as np
from numba import njit

N_STATES = 4
TICKS_PER_DAY = 64


@njit(cache=True)
def hidden_paths(rng, n_topics, n_ticks, pi, p1):
    """Every topic's whole path: geometric holding times, jumps along the off-diagonal of P[1].

    Returns the (m,) tick at which each piece begins, its state, and (K + 1,) piece offsets.
    """
    start = np.empty(64 * n_topics, np.int64)
    state = np.empty(64 * n_topics, np.int8)
    offset = np.zeros(n_topics + 1, np.int64)
    m = 0
    for k in range(n_topics):
        z = draw(rng.random(), np.cumsum(pi))
        t = 0
        while t < n_ticks:
            if m == len(start):
                start = np.concatenate((start, np.empty_like(start)))
                state = np.concatenate((state, np.empty_like(state)))
            start[m] = t
            state[m] = z
            m += 1
            leave = 1.0 - p1[z, z]
            if leave <= 0.0:
                break
            t += int(np.ceil(np.log(1.0 - rng.random()) / np.log(1.0 - leave)))
            jump = p1[z].copy()
            jump[z] = 0.0
            z = draw(rng.random() * jump.sum(), np.cumsum(jump))
        offset[k + 1] = m
    return start[:m], state[:m], offset


@njit(cache=True)
def draw(u, cumulative):
    """Index of the first cumulative share above u."""
    return min(np.searchsorted(cumulative, u, side="right"), len(cumulative) - 1)


@njit(cache=True)
def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


@njit(cache=True)
def probabilities(alpha, x, m, out):
    """P(click), P(like or share), P(hide) under belief ``alpha`` and offset ``x``."""
    out[:] = 0.0
    for z in range(N_STATES):
        p = sigmoid(m.base[z] + x)
        out[0] += alpha[z] * p
        out[1] += alpha[z] * p * (1.0 - (1.0 - m.like[z]) * (1.0 - m.share[z]))
        out[2] += alpha[z] * (1.0 - p) * m.hide[z]


@njit(cache=True)
def predict(alpha, ticks, m):
    """Belief ``ticks`` later: α P[ticks]."""
    out = np.zeros(N_STATES)
    step = m.step[ticks]
    for i in range(N_STATES):
        for j in range(N_STATES):
            out[j] += alpha[i] * step[i, j]
    return out


@njit(cache=True)
def update(alpha, x, click, log_watch, like, share, hide, m):
    """Bayes' rule for one event, in place."""
    total = 0.0
    for z in range(N_STATES):
        p = sigmoid(m.base[z] + x)
        s = (log_watch - m.watch[click, z]) / m.watch_sd[click]
        lik = np.exp(-0.5 * s * s)
        if click:
            lik *= p
            lik *= m.like[z] if like else 1.0 - m.like[z]
            lik *= m.share[z] if share else 1.0 - m.share[z]
        else:
            lik *= (1.0 - p) * (m.hide[z] if hide else 1.0 - m.hide[z])
        alpha[z] *= lik
        total += alpha[z]
    alpha /= total


@njit(cache=True)
def transition_effect(k, n, lags, topic, click, m):
    """T_n(k): a click on prev(k) among the last events, unless k was shown since."""
    for lag in range(1, min(lags, n) + 1):
        j = topic[n - lag]
        if j == k:
            return 0.0
        if click[n - lag] and m.nxt[j] == k:
            return m.rho_transition ** (lag - 1)
    return 0.0


@njit(cache=True)
def fatigue_effect(k, n, lags, topic, click, m):
    """Φ_n(k): recent impressions of k without a click, fading, capped."""
    total = 0.0
    for lag in range(1, min(lags, n) + 1):
        if topic[n - lag] == k and not click[n - lag]:
            total += m.rho_fatigue ** (lag - 1)
    return min(total, m.cap_fatigue)


@njit(cache=True)
def pick_item(rng, k, m):
    a = m.topic_start[k]
    b = m.topic_start[k + 1]
    return m.topic_items[a + draw(rng.random(), m.item_cum[a:b])]


@njit(cache=True)
def pick_item_at(rng, k, t, m, moves):
    """The same among the items in the catalogue at day t; every topic has one."""
    total = 0.0
    chosen = -1
    items = m.topic_items[m.topic_start[k] : m.topic_start[k + 1]]
    for item in items:
        if moves.release[item] <= t < moves.withdrawal[item]:
            total += moves.weight[item]
    left = rng.random() * total
    for item in items:
        if moves.release[item] <= t < moves.withdrawal[item]:
            chosen = item
            left -= moves.weight[item]
            if left < 0.0:
                break
    return chosen


@njit(cache=True)
def live(rng, rng_requests, size, start, path_tick, path_state, path_offset, m, moves, life, at,
         slate):  # fmt: skip
    """Live one life, or live it again and answer requests on the way.

    Args:
        rng: dice of the log; not touched when ``life`` is already filled (``life.tick[0] >= 0``).
        rng_requests: dice of the requests.
        size, start: (S,) session sizes and planned starts in days.
        path_*: hidden paths. m: the model. moves: what depends on the date.
        life: arrays to fill, or filled.
        at: (R,) event positions at which requests stand, ascending. slate: arrays to fill.
    """
    n_topics = len(m.appeal)
    replay = life.tick[0] >= 0
    belief = np.empty((n_topics, N_STATES))
    belief[:] = m.pi
    seen = np.full(n_topics, -1, np.int64)  # last event of the topic
    piece = path_offset[:-1].copy()  # pointer into each hidden path
    score = np.zeros(n_topics)
    score_day = np.zeros(n_topics)
    clicked = np.empty(n_topics, np.int64)
    n_clicked = 0
    ever = np.zeros(n_topics, np.bool_)
    exploit = np.zeros(n_topics)
    clock = 0.0
    n = 0
    r = 0
    p = np.empty(3)

    for s in range(len(size)):
        clock = max(start[s], clock)
        total = 0.0
        for k in range(n_topics):  # the exploit source, once per session
            now = score[k] * np.exp(-(clock - score_day[k]) / m.tau)
            if now > 0.0:
                total += np.exp(min(m.beta * now, 6.0)) - 1.0
            exploit[k] = total
        for j in range(size[s]):
            t = life.time[n] if replay else clock
            tick = int(np.floor(t * TICKS_PER_DAY))
            hour = int((t - np.floor(t)) * 24.0)

            if replay and r < len(at) and at[r] == n:
                answer(rng_requests, r, n, t, tick, hour, j, life.surface[n], total, exploit,
                       clicked, n_clicked, belief, seen, piece, path_tick, path_state, path_offset,
                       m, moves, life, slate)  # fmt: skip
                r += 1

            if replay:
                k = life.topic[n]
                item = life.item[n]
                surface = life.surface[n]
            else:
                surface = draw(rng.random(), m.surf_cum)
                source = draw_source(rng.random(), m.policy_cum)
                k = -1
                if source == 0:
                    k = rng.integers(0, n_topics)
                elif source == 1 and n_clicked > 0:
                    k = clicked[rng.integers(0, n_clicked)]
                elif source == 2 and total > 0.0:
                    k = draw(rng.random() * total, exploit)
                elif source == 3:
                    k = follow_up(n, 8, life.topic, life.click, m)
                if k < 0:
                    source = 4
                    k = draw(rng.random(), m.popular_cum)
                if moves.catalogue:
                    item = pick_item_at(rng, k, t, m, moves)
                else:
                    item = pick_item(rng, k, m)
                life.item[n] = item
                life.topic[n] = k
                life.surface[n] = surface
                life.time[n] = t
                life.tick[n] = tick
                life.position[n] = j
                life.source[n] = source

            x = offset(item, k, hour, j, surface, m)
            if moves.offset:
                x += moved(item, k, t, moves)
            x += m.g_transition * transition_effect(
                k, n, m.lags_transition, life.topic, life.click, m
            )
            x -= m.g_fatigue * fatigue_effect(k, n, m.lags_fatigue, life.topic, life.click, m)
            if seen[k] >= 0:
                belief[k] = predict(belief[k], tick - life.tick[seen[k]], m)

            if not replay:
                probabilities(belief[k], x, m, p)
                z = look_up(k, tick, piece, path_tick, path_state, path_offset)
                click = rng.random() < sigmoid(m.base[z] + x)
                c = 1 if click else 0
                life.click[n] = c
                life.x[n] = x
                life.state[n] = z
                life.previous[n] = seen[k]
                life.log_watch[n] = m.watch[c, z] + m.watch_sd[c] * rng.standard_normal()
                u = rng.random()
                v = rng.random()
                life.like[n] = c == 1 and u < m.like[z]
                life.share[n] = c == 1 and v < m.share[z]
                life.hide[n] = c == 0 and u < m.hide[z]
                life.p[n] = p
                clock = t + (m.duration[item] * min(np.exp(life.log_watch[n]), 3.0) + 2.0) / 86400.0
            c = life.click[n]
            update(belief[k], x, c, life.log_watch[n], life.like[n], life.share[n], life.hide[n], m)
            seen[k] = n
            gain = 0.6 if c else -0.3
            gain += 1.0 * life.like[n] + 1.0 * life.share[n] - 4.0 * life.hide[n]
            now = score[k] * np.exp(-(t - score_day[k]) / m.tau) + gain
            score[k] = min(max(now, -3.0), 5.0)
            score_day[k] = t
            if c and not ever[k]:
                ever[k] = True
                clicked[n_clicked] = k
                n_clicked += 1
            n += 1
        if replay and n < len(life.time):
            clock = life.time[n]


@njit(cache=True)
def draw_source(u, cumulative):
    """0…len(cumulative): the last source gets what the shares leave over."""
    return np.searchsorted(cumulative, u, side="right")


@njit(cache=True)
def follow_up(n, lags, topic, click, m):
    """Successor of the topic clicked last among the last events, or −1."""
    for lag in range(1, min(lags, n) + 1):
        if click[n - lag]:
            return m.nxt[topic[n - lag]]
    return -1


@njit(cache=True)
def offset(item, k, hour, position, surface, m):
    """Offset of the click logit without transition and fatigue, but for what moves."""
    x = m.quality[item] + m.appeal[k] + m.surf[surface] + m.hour[m.cat[k], hour]
    return x + m.pos_slope * min(position, 30) / 30.0


@njit(cache=True)
def moved(item, k, t, moves):
    """What the offset has on top of that at day t: the topic's swing, a new item's novelty."""
    x = moves.swing * np.sin(moves.rate[k] * t + moves.phase[k])
    return x + moves.novelty * np.exp((moves.release[item] - t) / moves.novelty_days)


@njit(cache=True)
def look_up(k, tick, piece, path_tick, path_state, path_offset):
    """True state of topic k at a tick; the pointer only moves forward."""
    while piece[k] + 1 < path_offset[k + 1] and path_tick[piece[k] + 1] <= tick:
        piece[k] += 1
    return path_state[piece[k]]


@njit(cache=True)
def answer(rng, r, n, t, tick, hour, position, surface, total, exploit, clicked, n_clicked, belief,
           seen, piece, path_tick, path_state, path_offset, m, moves, life, slate):  # fmt: skip
    """Draw the candidates of one request, their labels and their reference probabilities."""
    n_topics = len(m.appeal)
    p = np.empty(3)
    one = np.zeros(N_STATES)
    for c in range(slate.item.shape[1]):
        source = draw_source(rng.random(), m.cand_cum[:-1])
        k = -1
        if source == 0 and total > 0.0:
            k = draw(rng.random() * total, exploit)
        elif source == 1 and n_clicked > 0:
            k = clicked[rng.integers(0, n_clicked)]
        elif source == 2:
            k = draw(rng.random(), m.popular_cum)
        elif source == 4:
            k = follow_up(n, 8, life.topic, life.click, m)
        elif source == 5:
            k = passed_over(rng, n, 20, life.topic, life.click)
        if k < 0:
            source = 3
            k = rng.integers(0, n_topics)
        if moves.catalogue:
            item = pick_item_at(rng, k, t, m, moves)
        else:
            item = pick_item(rng, k, m)
        x0 = offset(item, k, hour, position, surface, m)
        if moves.offset:
            x0 += moved(item, k, t, moves)
        t_n = transition_effect(k, n, m.lags_transition, life.topic, life.click, m)
        f_n = fatigue_effect(k, n, m.lags_fatigue, life.topic, life.click, m)
        x = x0 + m.g_transition * t_n - m.g_fatigue * f_n
        alpha = belief[k]
        if seen[k] >= 0:
            alpha = predict(alpha, tick - life.tick[seen[k]], m)
        slate.item[r, c] = item
        slate.source[r, c] = source
        slate.x0[r, c] = x0
        slate.transition[r, c] = t_n
        slate.fatigue[r, c] = f_n
        slate.last[r, c] = seen[k]
        probabilities(alpha, x, m, p)
        slate.bayes[r, c] = p
        probabilities(m.pi, x0, m, p)
        slate.none[r, c] = p
        z = look_up(k, tick, piece, path_tick, path_state, path_offset)
        one[:] = 0.0
        one[z] = 1.0
        probabilities(one, x, m, p)
        slate.true[r, c] = p
        click = rng.random() < sigmoid(m.base[z] + x)
        u = rng.random()
        v = rng.random()
        slate.label[r, c, 0] = click
        slate.label[r, c, 1] = click and (u < m.like[z] or v < m.share[z])
        slate.label[r, c, 2] = (not click) and u < m.hide[z]


@njit(cache=True)
def passed_over(rng, n, lags, topic, click):
    """Topic of a random event without a click among the last events, or −1."""
    found = 0
    k = -1
    for lag in range(1, min(lags, n) + 1):
        if not click[n - lag]:
            found += 1
            if rng.random() * found < 1.0:
                k = topic[n - lag]
    return k


@njit(cache=True)
def refilter(first, last, end_tick, x, life, m):
    """Filter from π over the same-topic events of a linked list, then predict to ``end_tick``.

    Args:
        first: the list is followed backwards from ``last`` while the index is ≥ ``first``.
        x: offset of the candidate.

    Returns:
        (3,) probabilities.
    """
    chain = [last]
    while chain[-1] >= 0 and life.previous[chain[-1]] >= first:
        chain.append(life.previous[chain[-1]])
    alpha = m.pi.copy()
    out = np.empty(3)
    tick = -1
    if last >= first and last >= 0:
        for e in chain[::-1]:
            if tick >= 0:
                alpha = predict(alpha, life.tick[e] - tick, m)
            update(alpha, life.x[e], life.click[e], life.log_watch[e], life.like[e],
                   life.share[e], life.hide[e], m)  # fmt: skip
            tick = life.tick[e]
        alpha = predict(alpha, end_tick - tick, m)
    probabilities(alpha, x, m, out)
    return out


@njit(cache=True)
def windows(at, topic, slate, life, m, length):
    """Filter on the last ``length`` events: (R, C, 3)."""
    out = np.empty(slate.label.shape)
    for r in range(len(at)):
        n = at[r]
        for c in range(topic.shape[1]):
            k = topic[r, c]
            lag_t = min(m.lags_transition, length)
            lag_f = min(m.lags_fatigue, length)
            x = slate.x0[r, c]
            x += m.g_transition * transition_effect(k, n, lag_t, life.topic, life.click, m)
            x -= m.g_fatigue * fatigue_effect(k, n, lag_f, life.topic, life.click, m)
            first = max(n - length, 0)
            out[r, c] = refilter(first, slate.last[r, c], life.tick[n], x, life, m)
    return out


@njit(cache=True)
def searches(at, slate, life, m, hits):
    """Filter on the last ``hits`` same-topic events of the whole life: (R, C, 3)."""
    out = np.empty(slate.label.shape)
    for r in range(len(at)):
        for c in range(slate.item.shape[1]):
            x = slate.x0[r, c] + m.g_transition * slate.transition[r, c]
            x -= m.g_fatigue * slate.fatigue[r, c]
            first = slate.last[r, c]
            e = slate.last[r, c]
            for _ in range(hits - 1):
                if e < 0 or life.previous[e] < 0:
                    break
                e = life.previous[e]
                first = e
            out[r, c] = refilter(first, slate.last[r, c], life.tick[at[r]], x, life, m)
    return out
