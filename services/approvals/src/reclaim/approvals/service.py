"""The composition root of the stage."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from reclaim.approvals import handlers, store
from reclaim.approvals.api import api_routes
from reclaim.approvals.handlers import MAIL_JOB, Deps
from reclaim.approvals.jobs import AskJob, EraseJob, MailJob
from reclaim.approvals.links import Links
from reclaim.approvals.mail import Composer
from reclaim.approvals.pages import console_routes, link_routes
from reclaim.approvals.ports import Mailer
from reclaim.approvals.pulse import PulseJob
from reclaim.approvals.settings import ApprovalsSettings, SmtpServer
from reclaim.approvals.smtp import SmtpMailer
from reclaim.common.inbox import bind
from reclaim.common.routing import Router
from reclaim.common.service import Job, Runtime, Service

NAME = "approvals"


def build(runtime: Runtime, *, settings: ApprovalsSettings | None = None, mailer: Mailer | None = None) -> Service:
    """Wire the service; the keyword arguments are for tests."""
    settings = settings or ApprovalsSettings()
    public_url = runtime.settings.public_url
    if mailer is None:
        url = settings.smtp_url
        server = SmtpServer.of(url.get_secret_value()) if url else None
        mailer = SmtpMailer(server, sender=settings.sender_for(public_url), timeout=settings.smtp_timeout)
    links = Links(runtime.signer, public_url)
    composer = Composer(links, sender=mailer.sender, public_url=public_url)
    mail = MailJob(runtime.database, composer, mailer, settings.smtp_timeout)
    ask = AskJob(runtime.database)
    erase = EraseJob(runtime.database, timedelta(days=settings.origin_retention_days))
    router = Router()
    router.include_router(link_routes(runtime, links, settings))
    router.include_router(api_routes(runtime))
    router.include_router(console_routes(runtime))
    return Service(
        name=NAME,
        metadata=store.metadata,
        migrations=Path(__file__).parent / "migrations",
        subscriptions=bind(handlers.SUBSCRIPTIONS, Deps(operations=settings.operations_address)),
        jobs=[
            Job(MAIL_JOB, mail.run, every=1.0),
            Job("ask", ask.run, every=10.0),
            Job("erase", erase.run, every=3600),
            Job("pulse", PulseJob(runtime.database).run, every=30.0),
        ],
        router=router,
    )
