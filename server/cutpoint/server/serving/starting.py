"""The policy that a model starts with."""

import logging

from cutpoint.bundle import Bundle

from ..policy.policies import Active, PolicyStore

log = logging.getLogger("cutpoint.server")


def starting_policy(store: PolicyStore, bundle: Bundle, now_s: float) -> Active | None:
    """The policy that a model starts with: the stored active one, or the one shipped with the bundle.

    A stored policy holds only for the graph it was made on. A newly shipped one replaces another shipped one, but never one
    that somebody made while serving, and only once: after that, what somebody activates (a roll back too) stays.
    """
    with store.alone():  # of several workers, one stores it
        return _starting(store, bundle, now_s)


def _starting(store: PolicyStore, bundle: Bundle, now_s: float) -> Active | None:
    stored, shipped = store.active(bundle.name, bundle.version), bundle.policy
    fits = stored is not None and stored.policy.model_digest == bundle.digest
    if stored is not None and not fits:
        log.warning("policy %d of %s/%d is of another graph: not used", stored.policy.version, bundle.name, bundle.version)
    if shipped is None:
        return stored if fits else None
    if stored is not None and fits:
        known = any(
            policy.model_copy(update={"version": shipped.version, "parent": shipped.parent}) == shipped
            for policy in store.list(bundle.name, bundle.version)
        )
        if not known and not store.is_shipped(stored.policy):
            added = store.add(shipped, shipped=True)  # to be seen in lists; at the next start it is known
            log.warning(
                "the new policy.json of %s/%d is stored as policy %d and not active: policy %d was made while serving; "
                "cutpoint policy activate %s %d",
                bundle.name, bundle.version, added.version, stored.policy.version, bundle.name, added.version,
            )  # fmt: skip
            return stored
        if known:
            return stored
    parent = stored.policy.version if stored is not None else None
    return store.add_and_activate(shipped.model_copy(update={"parent": parent}), now_s, shipped=True)
