"""All experiments: what each chapter plans and studies, in the order in which they can be made."""

from __future__ import annotations

from .ch01_02 import plans as ch01_02
from .ch03 import claims as ch03_claims
from .ch03 import drift
from .ch03 import plans as ch03
from .ch04 import claims as ch04_claims
from .ch04 import git, search, serving, staleness
from .ch04 import plans as ch04
from .engine.summary import Plan, Study

PLANS: dict[str, Plan] = {**ch01_02.PLANS, **ch03.PLANS, **ch04.PLANS}
# What reads other results comes after them.
STUDIES: dict[str, Study] = {
    "transact-claims": ch03_claims.STUDY,
    "drift-transact": drift.STUDY,
    "search-twin": search.STUDY,
    "staleness-twin": staleness.STUDY,
    "serving-twin": serving.STUDY,
    "git-twin": git.STUDY,
    "twin-claims": ch04_claims.STUDY,
}
ALL: dict[str, Plan | Study] = {**PLANS, **STUDIES}
