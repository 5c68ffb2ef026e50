"""The simulated world: one org with its faces, one mailbox, service desks, and the faults that are set."""

from __future__ import annotations

from reclaim.common.clock import Clock

from .auth import ConnectedApp
from .demo_org import build_base, build_demo_org
from .desks.service import Desks
from .faults import Faults
from .mailbox import Mailbox
from .okta import Okta, Tenant
from .org import Org
from .salesforce import Salesforce


class World:
    """Holds the parts together, so that all of them can be begun anew at once."""

    def __init__(self, clock: Clock, org: Org | None = None) -> None:
        self.clock = clock
        if org is None:
            org = Org(clock)
            build_base(org)
        self.faults = Faults()
        self.salesforce = Salesforce(org, self.faults)
        self.okta = Okta(clock, self.faults)
        self.mailbox = Mailbox(clock)
        self.desks = Desks(clock, self.faults)
        self._clients: list[ConnectedApp] = []

    @property
    def org(self) -> Org:
        return self.salesforce.org

    def add_client(self, client_id: str, client_secret: str, public_key: str | None = None) -> None:
        """Register a connected app; it outlives a reset."""
        app = ConnectedApp(client_id, client_secret, public_key)
        self._clients.append(app)
        self.salesforce.authority.apps[client_id] = app

    def reset(self, *, users: int, seed: int) -> None:
        """Replace the org by a fresh one, and forget faults, sessions, mail and tickets."""
        org = Org(self.clock)
        build_demo_org(org, users=users, seed=seed)
        self.salesforce.attach(org)
        for app in self._clients:
            self.salesforce.authority.apps[app.client_id] = app
        self.okta.attach(Tenant(self.clock))
        self.faults.clear()
        self.mailbox.clear()
        self.desks.clear()
