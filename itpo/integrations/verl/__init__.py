"""ITPO inside verl, without a fork: advantages by turn, and the implicit PRM trained online in the place of verl's critic.

    export VERL_USE_EXTERNAL_MODULES=itpo.integrations.verl
    python -m verl.trainer.main_ppo algorithm.adv_estimator=itpo_rloo +algorithm.itpo.baseline=to_go ...

verl then imports this package in each of its processes. :mod:`~itpo.integrations.verl.estimators` registers ``itpo_rloo`` and
``itpo_grpo``, :mod:`~itpo.integrations.verl.trainer` the trainer ``itpo``, which has a PRM. See ``docs/engines.md``.
"""

from contextlib import suppress

from itpo.integrations.verl import estimators

# verl's own trainers need more packages than verl; where one is missing, verl says which as soon as it is to train.
with suppress(ModuleNotFoundError):
    from itpo.integrations.verl import trainer

__all__ = ["estimators", "trainer"]
